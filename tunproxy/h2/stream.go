package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// stream is one request and its response; it implements message.Stream. In the
// words of RFC 9113, section 5.1:
//
//	idle ──id given──▶ open ──sentEnd──▶ half-closed (local) ──┐
//	                    └──recvEnd──▶ half-closed (remote) ────┴─▶ closed
//
// closed is reached from anywhere by a reset; a closed stream has left the
// connection's table and does nothing any more but report what drains.
type stream struct {
	c  *Conn
	id uint32 // 0: a client's that waits for its turn
	r  message.Receiver
	at time.Duration // opened

	// in one of the connection's lists: ready or starved.
	in         *list
	prev, next *stream

	// Sending. What can't go at once waits: heads, then queue, then trailers.
	heads       headQueue
	queue       queue
	trailers    []message.Field
	hasTrailers bool
	sentHead    bool // the user gave the final head
	localEnd    bool // the user said end
	sentEnd     bool // END_STREAM is in the output
	resetAfter  bool // then RST_STREAM(NO_ERROR): the rest of the request is unwanted
	sendWindow  int
	headAt      uint64 // offset in the output behind the first head; 0: not encoded

	// Receiving.
	recvHead   bool
	recvEnd    bool
	recvWindow int   // what the peer may send
	window     int   // what it may send when nothing is unread
	curtailed  bool  // ended before its Content-Length, which the receiver does not know
	unread     int   // delivered, not consumed
	expect     int64 // body bytes to come by Content-Length; -1: any number
	noBody     bool  // the response to HEAD
	grpc       bool  // the request is gRPC's
	cost       int   // of its head, held while it is open
	long       int   // of that, the fields beyond fieldsUsual

	// When the peer must have been faster, on the loop's clock; 0: no matter.
	recvBy, sendBy time.Duration

	marks       int // pieces of output that are not flushed
	connect     bool
	extended    bool // :protocol, which the peer's SETTINGS have to allow
	undelivered bool // proved by the peer
	closed      bool
	released    bool
}

// SetReceiver implements message.Stream.
func (s *stream) SetReceiver(r message.Receiver) {
	if !s.released {
		s.r = r
	}
}

// SendHead implements message.Stream.
func (s *stream) SendHead(h *message.Head, end bool) {
	if s.closed || s.sentHead {
		return
	}
	s.sentHead = !h.Informational()
	s.localEnd = end
	if s.id == 0 {
		s.noBody = h.Method == "HEAD"
		s.connect = h.Method == "CONNECT"
		s.extended = h.Protocol != ""
	}
	c := s.c
	if s.extended && s.id == 0 && c.in.settings && !c.peer.connect {
		c.resetLater(s, message.HTTP11Required, ErrNoExtendedConnect)
		return
	}
	if !s.waiting() && c.out.hasRoom() && (s.id != 0 || c.giveID(s)) {
		c.encodeHead(s, h, end)
		return
	}
	if h.Informational() && s.heads.len() >= c.cfg.Limits.Informational {
		c.resetLater(s, message.EnhanceYourCalm, ErrInformational)
		return
	}
	s.heads.push(h, end)
	c.makeReady(s)
}

// SendData implements message.Stream.
func (s *stream) SendData(p []byte, end bool) {
	if s.closed || !s.sentHead || s.localEnd {
		return
	}
	s.localEnd = end
	c := s.c
	if !s.waiting() {
		n := 0
		for {
			k := c.sendable(s, len(p)-n)
			last := end && n+k == len(p)
			if k == 0 && !(last && c.out.hasRoom()) {
				break
			}
			if c.morsel(k, len(p)-n); s.closed {
				return
			}
			c.appendData(s, p[n:n+k], last)
			if n += k; n == len(p) {
				return
			}
		}
		p = p[n:]
	}
	if s.queue.size == 0 {
		c.paceOutput(s)
	}
	s.queue.write(c.mem, p)
	c.holds(len(p))
	c.makeReady(s)
}

// SendTrailers implements message.Stream.
func (s *stream) SendTrailers(f []message.Field) {
	if s.closed || !s.sentHead || s.localEnd {
		return
	}
	s.localEnd = true
	if !s.waiting() && s.c.out.hasRoom() {
		s.c.encodeTrailers(s, f)
		return
	}
	s.trailers = append(s.trailers, f...)
	s.hasTrailers = true
	s.c.makeReady(s)
}

// waiting reports whether something must go before what is sent now.
func (s *stream) waiting() bool { return s.heads.len() > 0 || s.queue.size > 0 }

// Consumed implements message.Stream.
func (s *stream) Consumed(n int) {
	n = min(n, s.unread)
	if n <= 0 || s.closed {
		return
	}
	s.unread -= n
	s.c.unread -= n
	s.c.reopenStream(s)
	s.c.reopen()
}

// Abort implements message.Stream. NO_ERROR after the last byte of a response
// asks the peer not to send the rest of its request (RFC 9113, section 8.1).
func (s *stream) Abort(code message.Code) {
	if s.closed {
		s.r = nil
		return
	}
	if code == message.NoError && s.localEnd && !s.sentEnd {
		s.resetAfter = true
		s.r = nil
		return
	}
	s.c.reset(s, code)
}

// Delivered implements message.Stream.
func (s *stream) Delivered() bool {
	return !s.undelivered && s.headAt > 0 && s.headAt <= s.c.out.flushed
}

// ExtendedConnect reports whether the peer takes :protocol (RFC 8441); known once
// its SETTINGS have arrived. Until then a head with one waits, and it is turned
// down, undelivered, when they do not allow it.
func (s *stream) ExtendedConnect() (takes, known bool) { return s.c.peer.connect, s.c.in.settings }

// Release implements message.Releaser.
func (s *stream) Release() {
	if s.released {
		return
	}
	s.r = nil
	s.released = true
	c := s.c
	switch {
	case s.closed:
	case !s.localEnd, !c.server && !s.recvEnd:
		c.reset(s, message.Cancel)
	case !s.recvEnd:
		s.Abort(message.NoError)
	}
	c.bury(s)
}

var (
	_ message.Stream   = (*stream)(nil)
	_ message.Releaser = (*stream)(nil)
)
