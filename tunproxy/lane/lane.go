// Package lane carries byte streams over one secured connection, one after the
// other, so that a connection of an app does not cost a connection and a
// handshake between two sidecars (docs/design/0008). It owns the frames, who may
// say what when, and half-close and reset of a stream; it refuses to know what
// the bytes mean, who the ends are and how long an idle lane is kept.
//
// A Lane belongs to one side:
//
//	client:  open ──both FINs──▶ idle ──Open──▶ asking ──OPENED──▶ open
//	                              ▲───────────REFUSED──┘
//	server:  open ──both FINs──▶ idle ──OPEN──▶ asked ──Accept───▶ open
//	                              ▲────────────Refuse──┘
//
// from each of which an error, a reset or Close leads to its end. The first
// stream is open from the beginning: the connection itself asked for it.
//
// A Stream is an aio.Conn for as long as it is open. Its reset is the lane's: the
// connection is reset, as when it carried one stream only, and so is whatever
// was not delivered yet.
package lane

import (
	"errors"
	"io"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// Owner hears of what happens to a lane beside its streams. Its methods are
// called on the lane's loop, and may be called from inside a method of a Stream.
type Owner interface {
	// Idle: a stream is over and the lane could carry the next.
	Idle(l *Lane)
	// Asked: the client wants a stream. Server lanes only; Accept or Refuse
	// answers, now or later.
	Asked(l *Lane)
	// Gone: the lane is over, once. A stream that was open says so as well.
	Gone(l *Lane)
}

type state uint8

const (
	open   state = iota
	idle         // nobody uses it
	asking       // client: OPEN was sent
	asked        // server: OPEN was received
	gone
)

// Lane is a connection that carries streams. Its methods belong to its loop.
type Lane struct {
	c      aio.Conn
	owner  Owner
	server bool
	state  state
	s      *Stream // while open

	head  [headerLen]byte // of the frame that is being written
	hdr   [headerLen]byte // of the frame that is being read
	got   int             // bytes of hdr
	left  int             // bytes of the data frame that is being read
	out   []byte          // frames, or the rest of one, that c had no room for
	done  func(*Stream, error)
	timer aio.Timer // of asking

	// Of c, when the open stream began.
	in0, out0 uint64
}

// gatherer is a connection that writes two pieces as one; *mtls.Conn is.
type gatherer interface {
	// WriteParts takes both pieces whole, or nothing with ErrWouldBlock.
	WriteParts(head, body []byte) error
}

// Client makes a lane of c, which it takes, for the side that dialled. Server is
// the same for the other one. The lane's first stream is open.
func Client(c aio.Conn, o Owner) *Stream { return begin(c, o, false) }

// Server is described at Client.
func Server(c aio.Conn, o Owner) *Stream { return begin(c, o, true) }

func begin(c aio.Conn, o Owner, server bool) *Stream {
	l := &Lane{c: c, owner: o, server: server}
	s := l.begin()
	c.SetHandler(l)
	return s
}

func (l *Lane) begin() *Stream {
	st := l.c.Stats()
	l.in0, l.out0 = st.BytesIn, st.BytesOut
	l.state, l.s = open, &Stream{l: l}
	return l.s
}

// Conn is what the lane runs on. It is for asking, not for using.
func (l *Lane) Conn() aio.Conn { return l.c }

// Open asks for the next stream on an idle client lane. done is called once, on
// the loop and never from inside: with the stream, with aio.ErrRefused when the
// other end's app refused (the lane is idle again), or with another error that
// says that the lane is gone and that nobody knows about the app.
func (l *Lane) Open(timeout time.Duration, done func(*Stream, error)) {
	l.state, l.done = asking, done
	l.timer = l.c.Loop().AfterFunc(timeout, l.expire)
	l.say(kindOpen)
}

func (l *Lane) expire() { l.abort(aio.ErrTimeout) }

// answer ends the wait for a stream.
func (l *Lane) answer(s *Stream, err error) {
	if done := l.done; done != nil {
		l.done = nil
		l.timer.Stop()
		done(s, err)
	}
}

// Accept answers the client of a lane that was asked. nil: it is gone.
func (l *Lane) Accept() *Stream {
	if l.state != asked {
		return nil
	}
	l.say(kindOpened)
	return l.begin()
}

// Refuse is Accept's opposite.
func (l *Lane) Refuse() {
	if l.state == asked {
		l.say(kindRefused)
		l.rest()
	}
}

// Close ends a lane that is not open, in order.
func (l *Lane) Close() {
	if l.state == open || l.state == gone {
		return
	}
	l.c.Close()
	l.end(aio.ErrClosed)
}

// abort resets the connection and forgets it.
func (l *Lane) abort(err error) {
	if l.state != gone {
		l.c.Reset()
		l.end(err)
	}
}

// end forgets the connection.
func (l *Lane) end(err error) {
	if l.state == gone {
		return
	}
	l.state = gone
	l.out = nil
	l.answer(nil, err)
	l.owner.Gone(l)
}

// rest makes the lane idle once everything has left.
func (l *Lane) rest() {
	if l.state == gone {
		return
	}
	l.state, l.s = idle, nil
	if len(l.out) == 0 {
		l.owner.Idle(l)
		switch {
		case l.state != idle:
		case l.got > 0: // the next frame came with the last one
			l.c.Loop().Post(l.listen)
		default:
			l.c.SetHandler(l) // it may be there already
		}
	}
}

// say sends a frame without bytes.
func (l *Lane) say(k kind) {
	l.head = header(k, 0)
	if errors.Is(l.send(l.head[:]), aio.ErrWouldBlock) {
		l.out = append(l.out, l.head[:]...)
	}
}

// send writes a frame, and holds what did not fit. After an error nothing was
// taken.
func (l *Lane) send(frame []byte) error {
	if len(l.out) > 0 {
		return aio.ErrWouldBlock
	}
	n, err := l.c.Write(frame)
	if n == 0 {
		return err
	}
	l.out = append(l.out, frame[n:]...)
	return nil
}

// flush writes what was held; it reports whether all of it went.
func (l *Lane) flush() bool {
	for len(l.out) > 0 {
		n, err := l.c.Write(l.out)
		if l.out = l.out[n:]; err != nil {
			return false // room, or the end, will be told
		}
	}
	l.out = nil
	return true
}

// header reads the rest of a frame's header.
func (l *Lane) header() error {
	for l.got < headerLen {
		n, err := l.c.Read(l.hdr[l.got:])
		if l.got += n; n == 0 {
			return err
		}
	}
	l.got = 0
	return nil
}

// next reads a frame that has no bytes.
func (l *Lane) next() (kind, error) {
	if err := l.header(); err != nil {
		return 0, err
	}
	k, n, err := parse(l.hdr)
	if err == nil && n > 0 {
		err = errFrame
	}
	return k, err
}

// listen takes the frames that are for the lane, not for a stream.
func (l *Lane) listen() {
	for l.state != open && l.state != gone {
		if l.state == idle && len(l.out) > 0 {
			return // Writable goes on
		}
		k, err := l.next()
		switch {
		case errors.Is(err, aio.ErrWouldBlock):
			return
		case errors.Is(err, io.EOF) && l.state == idle:
			l.c.Close()
			l.end(aio.ErrClosed)
		case err != nil:
			l.abort(err)
		case k == kindOpened && l.state == asking:
			l.answer(l.begin(), nil)
		case k == kindRefused && l.state == asking:
			l.state = idle
			l.answer(nil, aio.ErrRefused)
			l.owner.Idle(l)
		case k == kindOpen && l.state == idle && l.server:
			l.state = asked
			l.owner.Asked(l)
		default:
			l.abort(errFrame)
		}
	}
}

// Readable implements aio.Handler for the connection.
func (l *Lane) Readable(aio.Conn) {
	if l.state != open {
		l.listen()
		return
	}
	if s := l.s; s.h != nil {
		s.h.Readable(s)
	}
}

// Writable implements aio.Handler for the connection.
func (l *Lane) Writable(aio.Conn) {
	if l.state == gone || !l.flush() {
		return
	}
	switch s := l.s; {
	case l.state == idle:
		l.rest()
	case l.state == open && s.wants:
		s.wants = false
		if s.h != nil {
			s.h.Writable(s)
		}
	}
}

// Closed implements aio.Handler for the connection.
func (l *Lane) Closed(_ aio.Conn, err error) {
	s := l.s
	if s != nil && err == nil && !s.finIn && s.h != nil {
		s.h.Readable(s) // what came before the end is still there
	}
	if l.state == gone {
		return
	}
	if err == nil {
		err = errTruncated
	}
	if s != nil {
		s.broke(err)
	}
	l.abort(err)
}

var _ aio.Handler = (*Lane)(nil)
