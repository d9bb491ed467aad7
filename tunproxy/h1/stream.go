package h1

import (
	"strconv"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// owner is the connection that a stream belongs to.
type owner interface {
	sendHead(s *stream, h *message.Head, end bool)
	sendEnded(s *stream)
	abort(s *stream, code message.Code)
}

// stream is one exchange on a connection; it implements message.Stream.
type stream struct {
	w   *wire
	o   owner
	rcv message.Receiver

	recv       body // of what is received
	recvEnd    bool
	unconsumed int
	by         time.Duration // when more of a promised body must be here; 0: none has come
	held       bool          // delivered a window's worth; waits for Consumed

	headSent bool
	sendEnd  bool
	// A client's Upgrade or CONNECT that is not answered yet: what is sent waits.
	undecided bool
	early     []byte
	earlyEnd  bool
	mode      bodyMode // of what is sent
	left      int64    // of lengthBody

	start uint64 // of what is sent, in w.queued
	over  bool   // aborted, or the connection broke
	acted bool   // when over: something of it had left

	marks    int  // of it in w.marks
	pinned   bool // a deferred function holds it: it is never used again
	released bool
}

func newStream(w *wire, o owner) *stream {
	s := w.cfg.Buffers.stream()
	s.w, s.o, s.rcv, s.start = w, o, noReceiver{}, w.queued
	return s
}

// SetReceiver implements message.Stream.
func (s *stream) SetReceiver(r message.Receiver) { s.rcv = r }

// SendHead implements message.Stream.
func (s *stream) SendHead(h *message.Head, end bool) {
	if !s.over && !s.headSent && !s.w.over {
		s.o.sendHead(s, h, end)
	}
}

// SendData implements message.Stream.
func (s *stream) SendData(p []byte, end bool) {
	if s.over || s.sendEnd || !s.headSent || s.w.over {
		return
	}
	if s.undecided {
		s.early = append(s.early, p...) // bounded by the window of who sends it
		s.earlyEnd = s.earlyEnd || end
		return
	}
	if len(p) > 0 {
		if s.mode == lengthBody && int64(len(p)) > s.left {
			s.w.fail(ErrUnsendable)
			return
		}
		s.append(p)
		s.marks++
		s.w.marks = append(s.w.marks, mark{at: s.w.queued, n: len(p), s: s})
	}
	if end {
		s.endSend(nil)
	}
}

// decided: the other side speaks the new protocol, or does not.
func (s *stream) decided(raw bool) {
	p, end := s.early, s.earlyEnd
	s.undecided, s.early = false, nil
	if raw && (len(p) > 0 || end) {
		s.SendData(p, end)
	}
}

func (s *stream) append(p []byte) {
	const overhead = 16 + len("\r\n") + len("\r\n") // of a chunk
	switch s.mode {
	case noBody: // a response to HEAD, say: there is nowhere to write it
		s.w.schedule()
		return
	case lengthBody:
		s.left -= int64(len(p))
	}
	out := s.w.buffer(len(p) + overhead)
	if s.mode == chunkedBody {
		out = strconv.AppendUint(out, uint64(len(p)), 16)
		out = append(out, '\r', '\n')
		out = append(out, p...)
		out = append(out, '\r', '\n')
	} else {
		out = append(out, p...)
	}
	s.w.commit(out)
}

// SendTrailers implements message.Stream. Only a chunked body has room for
// trailers; elsewhere they are dropped (RFC 9110, section 6.5.1).
func (s *stream) SendTrailers(f []message.Field) {
	if s.over || s.sendEnd || !s.headSent || s.w.over {
		return
	}
	s.endSend(f)
}

func (s *stream) endSend(trailers []message.Field) {
	switch s.mode {
	case lengthBody:
		if s.left > 0 {
			s.w.fail(ErrUnsendable)
			return
		}
	case chunkedBody:
		out, ok := appendTrailers(append(s.w.buffer(len(lastChunk)), '0', '\r', '\n'), trailers)
		if !ok {
			s.w.fail(ErrUnsendable)
			return
		}
		s.w.commit(out)
	}
	s.sendEnd = true
	s.o.sendEnded(s)
}

// Consumed implements message.Stream.
func (s *stream) Consumed(n int) {
	s.unconsumed = max(s.unconsumed-n, 0)
	// Half a window at a time: a slow receiver does not cost a read per byte.
	if s.held && s.unconsumed <= s.w.cfg.Window/2 && !s.over {
		s.held = false
		s.w.since = s.w.loop.Now()
		s.by = 0 // it was the receiver who was slow
		s.w.schedule()
	}
}

// Abort implements message.Stream.
func (s *stream) Abort(code message.Code) {
	if !s.over {
		s.end()
		s.o.abort(s, code)
	}
}

// Release implements message.Releaser.
func (s *stream) Release() {
	if s.released {
		return
	}
	if !s.recvEnd || !s.sendEnd {
		s.Abort(message.Cancel)
	}
	s.released = true
	s.rcv = noReceiver{}
	s.w.bury(s)
}

// Delivered implements message.Stream.
func (s *stream) Delivered() bool {
	if s.over {
		return s.acted
	}
	return s.w.sent > s.start
}

// end makes every later call do nothing.
func (s *stream) end() {
	s.acted = s.w.sent > s.start
	s.over = true
}

// aborted delivers the last event.
func (s *stream) aborted(code message.Code, err error) {
	if !s.over {
		s.end()
		s.rcv.Aborted(s, code, err)
	}
}

func (s *stream) drained(n int) {
	s.marks--
	if !s.over && !s.released {
		s.rcv.Drained(s, n)
	}
	s.w.bury(s)
}

// window is how many bytes may be delivered now.
func (s *stream) window() int {
	if s.held || s.recvEnd || s.over {
		return 0
	}
	n := s.size() - s.unconsumed
	s.held = n == 0 // the loop's bound may have become tight meanwhile
	return n
}

// size is the window's: less of it while much is held on this loop.
func (s *stream) size() int {
	if s.w.cfg.Buffers.Bound.Roomy() {
		return s.w.cfg.Window
	}
	return min(s.w.cfg.Window, max(tightWindow, s.unconsumed))
}

// deliver hands over body bytes. After it the stream may be over.
func (s *stream) deliver(p []byte, end bool) {
	s.unconsumed += len(p)
	s.held = s.unconsumed >= s.size()
	s.recvEnd = end
	s.rcv.Data(s, p, end)
}

// receive decodes body bytes of b and delivers them. It returns how many were
// used; more: it needs bytes behind b.
func (s *stream) receive(b []byte) (n int, more bool, err *Error) {
	s.w.since = s.w.loop.Now()
	data, n, trailers, done, err := s.recv.next(b, s.window())
	s.paced(n)
	switch {
	case err != nil:
		return n, false, err
	case len(data) > 0 || done:
		s.deliver(data, done)
		return n, false, nil
	case trailers:
		k, more, err := s.trailers(b[n:])
		return n + k, more, err
	}
	return n, n == len(b), nil
}

// trailers takes the trailer section at the beginning of b.
func (s *stream) trailers(b []byte) (n int, more bool, err *Error) {
	switch {
	case len(b) >= 2 && b[0] == '\r' && b[1] == '\n':
		s.deliver(nil, true)
		return 2, false, nil
	case len(b) > 0 && b[0] == '\n':
		return 0, false, errBareLF
	case len(b) < 2:
		return 0, true, nil
	}
	section, err := s.w.headAt(b)
	if err != nil || section == "" {
		return 0, true, err
	}
	h := &s.w.cfg.Buffers.head
	if err := parseTrailers(section, s.w.cfg.MaxFields, h); err != nil {
		return 0, false, err
	}
	s.recvEnd = true
	s.rcv.Trailers(s, h.Fields)
	return len(section), false, nil
}

var (
	_ message.Stream   = (*stream)(nil)
	_ message.Releaser = (*stream)(nil)
)
