package h1

import (
	"sync/atomic"
	"time"
)

// Counters add up what connections met. Reading is safe from any goroutine.
type Counters struct {
	SlowHeads   atomic.Uint64 // request heads that took longer than HeadTimeout
	SlowBodies  atomic.Uint64 // request bodies that fell behind
	SlowReaders atomic.Uint64 // peers that did not take what waited for them
	Shed        atomic.Uint64 // connections closed because they held more than was free
}

// A pace is a deadline that bytes move on: each is worth 1/MinRate of a second,
// and what is saved up is at most grace. A byte now and then, to keep a deadline
// away, is worth as little as none.

// earn moves a deadline on for n bytes.
func (w *wire) earn(by *time.Duration, n int, grace time.Duration) {
	*by = min(*by+time.Duration(n)*time.Second/time.Duration(w.cfg.MinRate), w.loop.Now()+grace)
}

// promised reports whether bytes are due: the rest of a body whose length was
// said, of a chunk, of its framing. Between chunks nobody has promised anything.
func (d *body) promised() bool {
	switch d.mode {
	case lengthBody:
		return true
	case chunkedBody:
		return d.state != chunkSize || d.digits > 0
	}
	return false
}

// paced notes that n bytes of a message's body have come.
func (s *stream) paced(n int) {
	w := s.w
	if !s.recv.promised() {
		s.by = 0
		return
	}
	if s.by == 0 {
		s.by = w.loop.Now() + w.cfg.SlowBody
		return
	}
	w.earn(&s.by, n, w.cfg.SlowBody)
}

// bodyDue is when more of the body must have come.
func (s *stream) bodyDue() time.Duration {
	w := s.w
	switch {
	case !s.recv.promised():
		return w.since + w.cfg.BodyTimeout
	case s.by == 0:
		return w.since + w.cfg.SlowBody
	}
	return s.by
}

// hold accounts what waits for the peer, and gives the connection up when that
// is more than is free.
func (w *wire) hold() {
	b := w.cfg.Buffers.Bound
	if n := w.pending() - w.held; n != 0 {
		b.Hold(n)
		w.held += n
	}
	if w.held > 0 && !w.over && b.Over(w.held) {
		b.Hit()
		w.cfg.Counters.Shed.Add(1)
		w.fail(ErrMemory)
	}
}
