package orig

import (
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func extended(protocol string, nv ...string) *message.Head {
	return &message.Head{Method: "CONNECT", Protocol: protocol, Scheme: "http", Authority: "a", Path: "/chat?x", Version: message.HTTP2, ContentLength: -1, Fields: fields(nv...)}
}

func TestUpgradeForAnExtendedConnect(t *testing.T) {
	h := extended("websocket", "sec-websocket-version", "13", "origin", "b", "x-tunmesh-orig", "1.0", "content-length", "5", "sec-websocket-key", "theirs")
	u := new(Upgrade)
	u.Request(h)
	want := "sec-websocket-version: 13\norigin: b\nUpgrade: websocket\nSec-WebSocket-Key: " + u.key + "\n"
	if list(h.Fields) != want || len(u.key) != 24 || h.Method != "GET" || h.Path != "/chat?x" || h.Protocol != "" || !h.Upgrade || h.Version != message.HTTP11 || h.ContentLength != 0 {
		t.Errorf("%+v", h)
	}
	r := response(101, "Switching Protocols", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Accept", u.accept(), "Sec-WebSocket-Protocol", "chat", "X-Tunmesh-Proxy-Error", "forged")
	r.Upgrade = true
	u.Response(r)
	if list(r.Fields) != "Sec-WebSocket-Protocol: chat\n" || r.Status != 200 || r.Version != message.HTTP2 || r.Upgrade || r.ContentLength != -1 {
		t.Errorf("%+v", r)
	}
}

// The example of RFC 6455, section 1.3.
func TestWebSocketAccept(t *testing.T) {
	u := Upgrade{protocol: websocket, key: "dGhlIHNhbXBsZSBub25jZQ=="}
	if got := u.accept(); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("accept %q", got)
	}
	r := response(101, "", "Upgrade", "websocket", "Sec-WebSocket-Accept", "c2FtcGxl")
	if u.Response(r); r.Status != 502 {
		t.Errorf("a wrong accept: %d", r.Status)
	}
}

func TestUpgradeToOtherProtocols(t *testing.T) {
	h := extended("connect-udp", "capsule-protocol", "?1")
	u := new(Upgrade)
	u.Request(h)
	if list(h.Fields) != "capsule-protocol: ?1\nUpgrade: connect-udp\n" {
		t.Errorf("%+v", h)
	}
	r := response(403, "No", "Content-Length", "2")
	if u.Response(r); r.Status != 403 || r.Reason != "No" || list(r.Fields) != "Content-Length: 2\n" {
		t.Errorf("declined: %+v", r)
	}
	r = response(101, "", "Upgrade", "connect-udp")
	if u.Response(r); r.Status != 200 {
		t.Errorf("accepted: %+v", r)
	}
}
