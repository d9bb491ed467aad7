package tunproxy

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/detect"
)

// detectTimeout bounds the time from a connection's first byte to the decision
// where undecided bytes can't be shown to the server: a client that sends a
// request line in drops is spoken to as bytes after it. It is what HTTP/1 gives
// a whole head.
const detectTimeout = 60 * time.Second

// finGrace is the rest of that time once the client seems to have ended.
const finGrace = 100 * time.Millisecond

// A sniffer waits until an accepted connection says what it speaks. It owns
// both handlers meanwhile, consumes nothing, and costs no buffer.
//
// The first speaker decides: the client's bytes are looked at; a server that
// speaks first, or either side ending, makes the connection opaque. There is no
// deadline for the first byte: a client that stays silent costs what an idle
// opaque connection costs, and the transport's keepalive notices dead ones.
//
// Bytes that may yet become a request line ("GET", "abc") decide nothing, and
// whoever sent them may send more in a second or be waiting for an answer. After
// a silence they are shown to the server: written to it, and kept. If it answers,
// or the client goes on otherwise, these were bytes and the server has them. If
// they become a request after all, the server's connection is reset and the
// request is served: a server has not acted on a part of a request line, and an
// HTTP server is what it is now known to be. The cost is that connection, for
// clients that pause inside of their request line.
type sniffer struct {
	loop    aio.Loop
	scratch []byte // of the loop; borrowed during calls
	client  aio.Conn
	server  aio.Conn // nil until it could speak
	timer   aio.Timer
	hold    aio.Timer // of the client's silence after undecided bytes
	seen    int       // of the client's bytes, at the last look
	shown   int       // of them, those that the server has
	text    bool      // the client spoke, and not TLS
	heard   bool      // the server spoke, and was held back
	held    bool      // hold is over
	mute    bool      // decided by an end, before anybody said a word
	decided bool
	// lost, if set, is asked when the server ended before anybody said a word: true
	// means that the asker took it away, and the client is listened to alone.
	lost func() bool
	// unsaid, if set, is asked when the server speaks first, or when the client
	// ended without a byte: false means not to decide yet (the client may be a
	// sidecar, about to begin TLS or done with a spare connection).
	unsaid func(ended bool) bool
	// mayShow, if set, says whether the server may have bytes at all.
	mayShow func() bool
	// done takes what was decided. Where shown is not 0, the server's connection
	// has that many of the client's bytes: opaque ones are gone from the client's
	// connection, of a request all are still there.
	done func(detect.Result)
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
	s.show()
}

// decide ends the wait; the handlers are the caller's again.
func (s *sniffer) decide(r detect.Result) {
	if s.decided {
		return
	}
	s.decided = true
	for _, t := range []aio.Timer{s.timer, s.hold} {
		if t != nil {
			t.Stop()
		}
	}
	s.client.SetHandler(nil)
	if s.server != nil {
		s.server.SetHandler(nil)
	}
	if r.Kind == detect.Opaque && s.shown > 0 {
		// An error is for whoever forwards to find.
		_, _ = s.client.Read(s.scratch[:s.shown])
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
		s.ended()
		return
	}
	r := detect.Detect(s.scratch[:n])
	news := n > s.seen
	s.seen = n
	s.text = r.Kind == detect.NeedMore && !r.Hello
	switch {
	case r.Kind != detect.NeedMore:
		s.decide(r)
		return
	case s.text && s.heard:
		s.decide(detect.Result{Kind: detect.Opaque}) // no sidecar begins so
		return
	case s.timer == nil:
		s.timer = s.loop.AfterFunc(detectTimeout, s.late)
	case !news:
		// Most likely the client's FIN, which can't be seen behind unread bytes.
		s.timer.Stop()
		s.timer = s.loop.AfterFunc(finGrace, s.expired)
	}
	switch {
	case !news || !s.text:
	case s.shown > 0: // whom the server hears, it hears at once
		s.show()
	default:
		if s.hold != nil {
			s.hold.Stop()
		}
		s.hold = s.loop.AfterFunc(silence, func() {
			s.held = true
			s.show()
		})
	}
}

// show writes to the server what it does not have yet of undecided bytes, once
// the client has paused after them.
func (s *sniffer) show() {
	if s.decided || !s.held || s.server == nil || s.mayShow != nil && !s.mayShow() {
		return
	}
	n, err := s.client.Peek(s.scratch[:min(len(s.scratch), detect.Limit)])
	if err != nil || n <= s.shown {
		return
	}
	n, _ = s.server.Write(s.scratch[s.shown:n]) // broken: Closed will say so
	s.shown += n
}

// expired: the client began to speak and did not come to the point.
func (s *sniffer) expired() { s.decide(detect.Result{Kind: detect.Opaque}) }

// late: detectTimeout is over. It means nothing to a server that has all there
// is: how long it waits for more is its own affair.
func (s *sniffer) late() {
	if s.shown == 0 {
		s.expired()
	}
}

// Writable implements aio.Handler; nothing was written.
func (c *sniffClient) Writable(aio.Conn) {}

// Closed implements aio.Handler.
func (c *sniffClient) Closed(aio.Conn, error) { (*sniffer)(c).ended() }

// ended: one of the two has.
func (s *sniffer) ended() {
	s.mute = s.seen == 0
	s.decide(detect.Result{Kind: detect.Opaque})
}

// Readable: the server spoke, or ended.
func (c *sniffServer) Readable(conn aio.Conn) {
	s := (*sniffer)(c)
	var b [1]byte
	n, err := conn.Peek(b[:])
	if s.decided || errors.Is(err, aio.ErrWouldBlock) {
		return
	}
	if n > 0 && !s.text && s.unsaid != nil && !s.unsaid(false) {
		s.heard = true
		return
	}
	if n == 0 {
		s.serverEnded()
		return
	}
	s.decide(detect.Result{Kind: detect.Opaque})
}

// serverEnded: with the client's first word still to come there may be other
// servers for it.
func (s *sniffer) serverEnded() {
	if !s.decided && s.seen == 0 && s.lost != nil && s.lost() {
		s.server = nil
		return
	}
	s.ended()
}

// Writable: not all that was to be shown fitted.
func (c *sniffServer) Writable(aio.Conn) { (*sniffer)(c).show() }

// Closed implements aio.Handler.
func (c *sniffServer) Closed(aio.Conn, error) { (*sniffer)(c).serverEnded() }
