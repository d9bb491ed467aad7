package mux

import (
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

type state uint8

const (
	asking state = iota // client: OPEN was sent
	asked               // server: OPEN was received
	open
	over // the hop has forgotten it
)

// Stream is one byte stream on a hop: an aio.Conn.
type Stream struct {
	hop   *Hop
	h     aio.Handler
	id    uint32
	state state

	finIn  bool // the peer's FIN came
	finOut bool // ours was said
	wants  bool // a Write was short
	queued bool // in the hop's waiting
	bulk   bool // moved much of late
	closed bool // by this side
	told   bool // Closed was delivered
	err    error

	buf  []byte // received, unread
	view []byte // received just now, in the hop's buffer

	window   int // promised to the peer, in all
	promised int // of it, what the peer may still send
	freed    int // of it, what was read and the peer has not heard of
	granted  time.Duration

	credit  int // what the peer lets us send
	credits uint64
	in, out uint64
	net     aio.Stats // what Stats said last

	mark    uint64        // of in and out
	marked  time.Duration // and when
	askedAt time.Duration
	done    func(*Stream, error) // of Open
	timer   aio.Timer            // of Open, or of linger
}

// Hop is what the stream runs on.
func (s *Stream) Hop() *Hop { return s.hop }

// Loop implements aio.Conn.
func (s *Stream) Loop() aio.Loop { return s.hop.c.Loop() }

// Local implements aio.Conn.
func (s *Stream) Local() netip.AddrPort { return s.hop.c.Local() }

// Remote implements aio.Conn.
func (s *Stream) Remote() netip.AddrPort { return s.hop.c.Remote() }

// Stats implements aio.Conn: the bytes are the stream's, the rest the hop's.
func (s *Stream) Stats() aio.Stats {
	if !s.hop.gone {
		s.hop.attribute(s)
	}
	s.net.BytesIn, s.net.BytesOut = s.in, s.out
	return s.net
}

// Accept answers the client that asked. false: it is gone.
func (s *Stream) Accept() bool {
	if s.state != asked {
		return false
	}
	s.state = open
	s.hop.asked--
	s.hop.opened++
	s.hop.say(frame{kindOpened, s.window - baseWindow, s.id})
	return true
}

// Refuse is Accept's opposite: what is behind us does not answer.
func (s *Stream) Refuse() { s.decline(kindRefused) }

// Elsewhere tells the client to ask on another hop: this one takes no new stream.
func (s *Stream) Elsewhere() {
	s.hop.full = true
	s.decline(kindElsewhere)
}

func (s *Stream) decline(k kind) {
	if s.state == asked {
		s.hop.say(frame{k, 0, s.id})
		s.hop.forget(s)
	}
}

// answer ends the wait for a stream.
func (s *Stream) answer(got *Stream, err error) {
	if done := s.done; done != nil {
		s.done = nil
		s.timer.Stop()
		s.timer = nil
		done(got, err)
	}
}

// unanswered: nothing came of the OPEN. A hop that was silent all the while is
// gone.
func (s *Stream) unanswered() {
	h := s.hop
	if s.state != asking {
		return
	}
	if h.heard <= s.askedAt {
		h.abort(aio.ErrTimeout)
		return
	}
	h.say(frame{kindReset, 0, s.id})
	h.forget(s)
	s.answer(nil, aio.ErrTimeout)
}

// SetHandler implements aio.Conn.
func (s *Stream) SetHandler(h aio.Handler) {
	s.h = h
	if h == nil || s.closed || s.unread() == 0 && !s.finIn && s.err == nil {
		return
	}
	s.Loop().Post(func() {
		if s.h != h || s.closed {
			return
		}
		h.Readable(s)
		if s.err != nil && s.h == h {
			s.tell()
		}
	})
}

func (s *Stream) unread() int { return len(s.buf) + len(s.view) }

// receive takes bytes that are only lent.
func (s *Stream) receive(b []byte) {
	switch {
	case s.state == over:
		return
	case s.closed: // nobody will read them
		s.hop.say(frame{kindReset, 0, s.id})
		s.hop.forget(s)
		return
	}
	s.in += uint64(len(b))
	s.moved(len(b))
	if len(s.buf) > 0 {
		s.buf = append(s.buf, b...)
		s.readable()
		return
	}
	s.view = b
	s.readable()
	if b = s.view; len(b) > 0 {
		s.buf = append(s.buf, b...)
	}
	s.view = nil
}

// ended is the peer's FIN.
func (s *Stream) ended() {
	s.finIn = true
	if s.closed {
		s.hop.forget(s)
		return
	}
	s.readable()
}

func (s *Stream) readable() {
	if s.h != nil {
		s.h.Readable(s)
	}
}

// room: there may be room for what a Write could not take.
func (s *Stream) room() {
	if s.wants && !s.queued && s.credit > 0 {
		s.wants = false
		if s.h != nil && s.err == nil {
			s.h.Writable(s)
		}
	}
}

// reading says why nothing can be read.
func (s *Stream) reading() error {
	switch {
	case s.closed:
		return aio.ErrClosed
	case s.err != nil:
		return s.err
	case s.unread() > 0:
		return nil
	case s.finIn:
		return io.EOF
	}
	return aio.ErrWouldBlock
}

// Read implements aio.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.reading(); err != nil {
		return 0, err
	}
	n := copy(p, s.buf)
	n += copy(p[n:], s.view)
	s.consume(n)
	return n, nil
}

// Peek implements aio.Conn.
func (s *Stream) Peek(p []byte) (int, error) {
	if err := s.reading(); err != nil {
		return 0, err
	}
	n := copy(p, s.buf)
	return n + copy(p[n:], s.view), nil
}

// CopyTo implements aio.Copier.
func (s *Stream) CopyTo(dst aio.Conn) (total int64, err error, ok bool) { //nolint:revive // the interface's order
	for {
		if err := s.reading(); err != nil {
			return total, err, true
		}
		b := s.buf
		if len(b) == 0 {
			b = s.view
		}
		n, err := dst.Write(b)
		s.consume(n)
		total += int64(n)
		if err != nil {
			return total, err, true
		}
	}
}

// consume lets go of n bytes that were read, and promises as many again.
func (s *Stream) consume(n int) {
	if s.state == over {
		return // the other end broke while it was written to
	}
	k := min(n, len(s.buf))
	if s.buf = s.buf[k:]; len(s.buf) == 0 {
		s.buf = nil // an idle stream holds no buffer
	}
	s.view = s.view[n-k:]
	s.freed += n
	if s.freed < s.window/2 || s.finIn {
		return
	}
	s.resize()
	if s.freed > 0 {
		s.hop.say(frame{kindCredit, s.freed, s.id})
		s.promised += s.freed
		s.freed = 0
	}
}

// resize fits the window to how fast it is used and to the memory there is.
func (s *Stream) resize() {
	b, now := s.hop.shared.Bound, s.Loop().Now()
	took := now - s.granted
	s.granted = now
	switch {
	case b.Free() < b.Limit()/8 && s.window > baseWindow:
		n := min(s.window/2, s.freed)
		n = min(n, s.window-baseWindow)
		s.window -= n
		s.freed -= n
		b.Hold(-n)
		b.Hit()
	case s.window >= maxWindow:
	case took >= growWithin && took >= 4*s.hop.c.Stats().RTT:
	case b.Over(2 * s.window):
		b.Hit()
	default:
		b.Hold(s.window)
		s.freed += s.window
		s.window *= 2
	}
}

// moved looks whether the stream is a bulk one.
func (s *Stream) moved(n int) {
	if all := s.in + s.out; all-s.mark > bulkBytes {
		now := s.Loop().Now()
		if s.bulk = now-s.marked < bulkWithin; s.bulk {
			s.hop.bulkAt = now
		}
		s.mark, s.marked = all, now
	}
}

// Room is how many bytes a Write would take, unless the connection turns out to
// be full. 0: Writable will say when there is room.
func (s *Stream) Room() int {
	if s.closed || s.finOut || s.err != nil {
		return MaxData // Write says why not
	}
	n := s.sendable()
	s.wants = s.wants || n == 0
	return n
}

// sendable is how long a frame may be now; 0: the stream waits for its turn, or for
// credit.
func (s *Stream) sendable() int {
	if s.credit == 0 || s.queued {
		return 0
	}
	n := s.hop.allows(s)
	if n == 0 {
		s.hop.wait(s)
	}
	return min(n, s.credit)
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
		k := min(len(p)-n, s.sendable())
		err := aio.ErrWouldBlock
		if k > 0 {
			err = s.hop.data(s, p[n:n+k])
		}
		if err != nil {
			s.wants = errors.Is(err, aio.ErrWouldBlock)
			return n, err
		}
		s.credit -= k
		s.out += uint64(k)
		s.moved(k)
		n += k
	}
	return n, nil
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
		s.hop.say(frame{kindFin, 0, s.id})
	}
	return nil
}

// Close implements aio.Conn.
func (s *Stream) Close() {
	switch {
	case s.closed:
		return
	case s.err == nil && s.unread() > 0:
		s.Reset() // received data would be lost
		return
	case s.err == nil:
		_ = s.CloseWrite() // what fails here has ended already
	}
	s.closed, s.h = true, nil
	switch {
	case s.err != nil:
	case s.finIn:
		s.hop.forget(s)
	default:
		s.timer = s.Loop().AfterFunc(linger, s.abandon)
	}
}

// abandon ends a stream whose peer has not ended it in time.
func (s *Stream) abandon() {
	if s.state != over && !s.hop.gone {
		s.hop.say(frame{kindReset, 0, s.id})
		s.hop.forget(s)
	}
}

// Reset implements aio.Conn.
func (s *Stream) Reset() {
	if s.closed {
		return
	}
	s.closed, s.h = true, nil
	if s.err == nil {
		s.hop.say(frame{kindReset, 0, s.id})
		s.hop.forget(s)
	}
}

// broke is the end of the stream that this side did not ask for.
func (s *Stream) broke(err error) {
	s.hop.forget(s)
	if s.done != nil {
		s.answer(nil, err)
		return
	}
	if s.err == nil {
		s.err = err
	}
	s.tell()
}

// tell delivers the last event.
func (s *Stream) tell() {
	if h := s.h; h != nil && !s.closed && !s.told {
		s.told, s.h = true, nil
		h.Closed(s, s.err)
	}
}

var (
	_ aio.Conn   = (*Stream)(nil)
	_ aio.Copier = (*Stream)(nil)
)
