package orig

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455's handshake, which proves nothing secret
	"encoding/base64"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Upgrade translates one extended CONNECT (RFC 8441) for a server, no sidecar,
// that knows the same protocol by HTTP/1's Upgrade.
type Upgrade struct {
	protocol string
	key      string // of WebSocket's handshake (RFC 6455, section 4.1)
}

const (
	websocket     = "websocket"
	websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// Request makes the GET that asks for the protocol.
func (u *Upgrade) Request(h *message.Head) {
	u.protocol = h.Protocol
	h.Method, h.Protocol = "GET", ""
	h.Version, h.Form, h.Upgrade, h.ContentLength = message.HTTP11, message.Origin, true, 0
	f := dropConnection(Strip(h.Fields))
	f = append(drop(drop(f, "content-length"), "sec-websocket-key"), message.Field{Name: "Upgrade", Value: u.protocol})
	if u.protocol == websocket {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		u.key = base64.StdEncoding.EncodeToString(b[:])
		f = append(f, message.Field{Name: "Sec-WebSocket-Key", Value: u.key})
	}
	h.Fields = f
}

// Response makes of 101 the 200 that opens the tunnel; any other answer stays what
// it is. A server that did not understand WebSocket's handshake is a bad gateway.
func (u *Upgrade) Response(h *message.Head) {
	h.Fields = Strip(h.Fields)
	if h.Status != 101 {
		return
	}
	h.Status = 200
	if accept, _ := h.Get("Sec-WebSocket-Accept"); u.protocol == websocket && accept != u.accept() {
		h.Status = 502
	}
	h.Reason, h.Version, h.Upgrade, h.ContentLength = "", message.HTTP2, false, -1
	h.Fields = dropPlaced(dropConnection(drop(drop(h.Fields, "sec-websocket-accept"), "content-length")))
}

// accept is what a server makes of the key (RFC 6455, section 4.2.2).
func (u *Upgrade) accept() string {
	sum := sha1.Sum([]byte(u.key + websocketGUID)) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Trailers removes what Request does.
func (u *Upgrade) Trailers(f []message.Field) []message.Field { return Strip(f) }
