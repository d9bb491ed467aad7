package lane

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// errTruncated: the connection ended and the stream had not.
var errTruncated = fmt.Errorf("%w: the byte hop ended in mid-stream", aio.ErrReset)

// Stream is one byte stream on a lane: an aio.Conn.
type Stream struct {
	l      *Lane
	h      aio.Handler
	finIn  bool // the peer's FIN was read
	finOut bool // ours was sent
	wants  bool // a Write was short
	closed bool // by this side
	err    error
	last   aio.Stats // once closed
}

// Lane is what the stream runs on.
func (s *Stream) Lane() *Lane { return s.l }

// Loop implements aio.Conn.
func (s *Stream) Loop() aio.Loop { return s.l.c.Loop() }

// Local implements aio.Conn.
func (s *Stream) Local() netip.AddrPort { return s.l.c.Local() }

// Remote implements aio.Conn.
func (s *Stream) Remote() netip.AddrPort { return s.l.c.Remote() }

// Stats implements aio.Conn: the connection's, less what was before.
func (s *Stream) Stats() aio.Stats {
	if s.closed {
		return s.last
	}
	st := s.l.c.Stats()
	st.BytesIn -= s.l.in0
	st.BytesOut -= s.l.out0
	return st
}

// SetHandler implements aio.Conn.
func (s *Stream) SetHandler(h aio.Handler) {
	s.h = h
	switch {
	case h == nil || s.closed:
	case s.finIn || s.err != nil:
		s.Loop().Post(func() {
			if s.h != h || s.closed {
				return
			}
			h.Readable(s)
			if s.err != nil && s.h == h {
				s.tell()
			}
		})
	default:
		s.l.c.SetHandler(s.l) // says so if there is something to read
	}
}

// gulp is how much is read before it is known where the frame ends: a small
// message comes with its header in one read, and a large one is not moved.
const gulp = 2 << 10

// Read implements aio.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k, err := s.read(p[n:])
		if n += k; err != nil && n == 0 {
			return 0, err
		}
		if k == 0 && err != nil {
			break // said again by the next Read
		}
	}
	return n, nil
}

// read is Read in one step, which may end without bytes or error.
func (s *Stream) read(p []byte) (int, error) {
	l := s.l
	if l.left == 0 && l.got == 0 && len(p) > headerLen && s.reading() == nil {
		k, err := l.c.Read(p[:min(len(p), gulp)])
		if k == 0 {
			return 0, s.explain(err)
		}
		return s.unpack(p[:k])
	}
	if err := s.data(); err != nil {
		return 0, err
	}
	k, err := l.c.Read(p[:min(len(p), l.left)])
	if l.left -= k; k == 0 {
		return 0, s.explain(err)
	}
	return k, nil
}

// unpack takes the headers out of b, which begins with one, and leaves the
// stream's bytes at its beginning.
func (s *Stream) unpack(b []byte) (n int, err error) {
	l := s.l
	for rest := b; len(rest) > 0; {
		k := min(l.left, len(rest))
		n += copy(b[n:], rest[:k])
		l.left -= k
		rest = rest[k:]
		if k = copy(l.hdr[:], rest); k < headerLen || s.finIn {
			if l.got = k; len(rest) > headerLen {
				return n, s.explain(errFrame) // all that may follow a FIN is OPEN
			}
			return n, nil
		}
		rest = rest[headerLen:]
		if err := s.frameIs(parse(l.hdr)); err != nil && !s.finIn {
			return n, err
		}
	}
	return n, nil
}

// Peek implements aio.Conn.
func (s *Stream) Peek(p []byte) (int, error) {
	if err := s.data(); err != nil {
		return 0, err
	}
	n, err := s.l.c.Peek(p[:min(len(p), s.l.left)])
	if n == 0 {
		return 0, s.explain(err)
	}
	return n, nil
}

// reading says why nothing can be read any more.
func (s *Stream) reading() error {
	switch {
	case s.closed:
		return aio.ErrClosed
	case s.err != nil:
		return s.err
	case s.finIn:
		return io.EOF
	}
	return nil
}

// data makes sure that bytes of the stream are next.
func (s *Stream) data() error {
	if err := s.reading(); err != nil || s.l.left > 0 {
		return err
	}
	if err := s.l.header(); err != nil {
		return s.explain(err)
	}
	return s.frameIs(parse(s.l.hdr))
}

// frameIs takes a header.
func (s *Stream) frameIs(k kind, n int, err error) error {
	switch {
	case err != nil:
		return s.explain(err)
	case k == kindData:
		s.l.left = n
		return nil
	case k == kindFin:
		s.finIn = true
		return io.EOF
	}
	return s.explain(errFrame)
}

// explain gives the connection's errors their meaning for the stream.
func (s *Stream) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, aio.ErrWouldBlock):
		return err
	case errors.Is(err, io.EOF):
		err = errTruncated
	}
	s.err = err
	return err
}

// Write implements aio.Conn.
func (s *Stream) Write(p []byte) (int, error) {
	switch {
	case s.closed || s.finOut:
		return 0, aio.ErrClosed
	case s.err != nil:
		return 0, s.err
	}
	n := 0
	for n < len(p) {
		k := min(len(p)-n, MaxData)
		if err := s.frame(p[n : n+k]); err != nil {
			s.wants = errors.Is(err, aio.ErrWouldBlock)
			return n, s.explain(err)
		}
		n += k
	}
	return n, nil
}

// frame sends p as one frame, or nothing.
func (s *Stream) frame(p []byte) error {
	l := s.l
	l.head = header(kindData, len(p))
	if g, ok := l.c.(gatherer); ok {
		if len(l.out) > 0 {
			return aio.ErrWouldBlock
		}
		return g.WriteParts(l.head[:], p)
	}
	return l.send(append(l.head[:], p...))
}

// CloseWrite implements aio.Conn.
func (s *Stream) CloseWrite() error {
	switch {
	case s.closed:
		return aio.ErrClosed
	case s.err != nil:
		return s.err
	case !s.finOut:
		s.finOut = true
		s.l.say(kindFin)
	}
	return nil
}

// Close implements aio.Conn. A stream that is over in both directions leaves its
// lane to the next.
func (s *Stream) Close() {
	if s.closed {
		return
	}
	if !s.finIn && s.err == nil {
		if _, err := s.Peek(s.l.hdr[:1]); err == nil {
			s.Reset() // received data would be lost
			return
		}
	}
	l := s.l
	if s.err == nil && !s.finOut {
		_ = s.CloseWrite() // what fails here has ended already
	}
	s.leave()
	switch {
	case s.err != nil:
		l.abort(s.err)
	case s.finIn:
		l.rest()
	default:
		l.c.Close()
		l.end(aio.ErrClosed)
	}
}

// Reset implements aio.Conn.
func (s *Stream) Reset() {
	if s.closed {
		return
	}
	s.leave()
	s.l.abort(aio.ErrClosed)
}

func (s *Stream) leave() {
	s.last = s.Stats()
	s.closed, s.h = true, nil
}

// broke is the end of the connection in mid-stream.
func (s *Stream) broke(err error) {
	if s.err == nil && !(s.finIn && s.finOut) {
		s.err = err
	}
	s.tell()
}

// tell delivers the last event.
func (s *Stream) tell() {
	if h := s.h; h != nil && !s.closed {
		s.h = nil
		h.Closed(s, s.err)
	}
}

var _ aio.Conn = (*Stream)(nil)
