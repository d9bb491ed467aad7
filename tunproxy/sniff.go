package tunproxy

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/detect"
)

// detectTimeout bounds the time from a connection's first byte to the decision:
// a client that sends a request line in drops is spoken to as bytes after it.
const detectTimeout = 10 * time.Second

// finGrace is the rest of that time once the client seems to have ended.
const finGrace = 100 * time.Millisecond

// A sniffer waits until an accepted connection says what it speaks. It owns
// both handlers meanwhile, consumes nothing, and costs no buffer.
//
// The first speaker decides: the client's bytes are looked at; a server that
// speaks first, or either side ending, makes the connection opaque. There is no
// deadline for the first byte: a client that stays silent costs what an idle
// opaque connection costs, and the transport's keepalive notices dead ones.
type sniffer struct {
	loop    aio.Loop
	scratch []byte // of the loop; borrowed during calls
	client  aio.Conn
	server  aio.Conn // nil until it could speak
	timer   aio.Timer
	seen    int // of the client's bytes, at the last look
	decided bool
	// unsaid, if set, is asked when the server speaks first, or when the client
	// ended without a byte: false means not to decide yet (the client may be a
	// sidecar, about to begin TLS or done with a spare connection).
	unsaid func(ended bool) bool
	done   func(detect.Result)
}

// start begins to listen to the client, and to the server if there is one.
func (s *sniffer) start() {
	s.client.SetHandler((*sniffClient)(s))
	if s.server != nil {
		s.server.SetHandler((*sniffServer)(s))
	}
}

// listen adds the server's side later.
func (s *sniffer) listen(server aio.Conn) {
	if s.decided {
		return
	}
	s.server = server
	server.SetHandler((*sniffServer)(s))
}

// decide ends the wait; the handlers are the caller's again.
func (s *sniffer) decide(r detect.Result) {
	if s.decided {
		return
	}
	s.decided = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.client.SetHandler(nil)
	if s.server != nil {
		s.server.SetHandler(nil)
	}
	s.done(r)
}

// stop ends the wait without a decision.
func (s *sniffer) stop() {
	s.done = func(detect.Result) {}
	s.decide(detect.Result{})
}

// sniffClient and sniffServer are the sniffer as handler of either end.
type (
	sniffClient sniffer
	sniffServer sniffer
)

// Readable looks at all that has arrived so far.
func (c *sniffClient) Readable(conn aio.Conn) {
	s := (*sniffer)(c)
	if s.decided {
		return
	}
	n, err := conn.Peek(s.scratch[:min(len(s.scratch), detect.Limit)])
	switch {
	case errors.Is(err, aio.ErrWouldBlock):
		return
	case n == 0: // EOF or broken: whoever forwards it will see
		if s.seen == 0 && s.unsaid != nil && !s.unsaid(true) {
			return
		}
		s.decide(detect.Result{Kind: detect.Opaque})
		return
	}
	r := detect.Detect(s.scratch[:n])
	if r.Kind != detect.NeedMore {
		s.seen = n
		s.decide(r)
		return
	}
	switch {
	case s.seen == 0:
		s.timer = s.loop.AfterFunc(detectTimeout, s.expired)
	case s.seen == n && s.timer.Stop():
		// News without bytes: most likely the client's FIN, which can't be seen
		// behind unread bytes.
		s.timer = s.loop.AfterFunc(finGrace, s.expired)
	}
	s.seen = n
}

// expired: the client began to speak and did not come to the point.
func (s *sniffer) expired() { s.decide(detect.Result{Kind: detect.Opaque}) }

// Writable implements aio.Handler; nothing was written.
func (c *sniffClient) Writable(aio.Conn) {}

// Closed implements aio.Handler.
func (c *sniffClient) Closed(aio.Conn, error) {
	(*sniffer)(c).decide(detect.Result{Kind: detect.Opaque})
}

// Readable: the server spoke, or ended.
func (c *sniffServer) Readable(conn aio.Conn) {
	s := (*sniffer)(c)
	var b [1]byte
	n, err := conn.Peek(b[:])
	if s.decided || errors.Is(err, aio.ErrWouldBlock) {
		return
	}
	if n > 0 && s.unsaid != nil && !s.unsaid(false) {
		return
	}
	s.decide(detect.Result{Kind: detect.Opaque})
}

// Writable implements aio.Handler; nothing was written.
func (c *sniffServer) Writable(aio.Conn) {}

// Closed implements aio.Handler.
func (c *sniffServer) Closed(aio.Conn, error) {
	(*sniffer)(c).decide(detect.Result{Kind: detect.Opaque})
}
