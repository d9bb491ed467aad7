package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how to ask.
type Options struct {
	// Connections, and how many requests each has under way.
	Connections, Streams int
	Duration             time.Duration
	// Rate asks at constant intervals, so many requests per second over all
	// connections, and measures from when each should have left. 0 asks as fast
	// as answers come.
	Rate float64
	// Authority and Path are the request's.
	Authority, Path string
	// Names is how many authorities connections of HTTP/1 ask for, in turn; up to 1:
	// Authority alone.
	Names int
	// Progress, if not nil, counts the answers while it goes.
	Progress *atomic.Uint64
	// Stop, if not nil, ends the run before its time.
	Stop *atomic.Bool
	// Finish waits, at the end, for the answers to all that was asked, so that
	// All is what the server was asked, too.
	Finish bool
}

// protocol is what the engine needs of HTTP/1 and HTTP/2: bytes to send for a
// request, and which requests the bytes that came have answered.
type protocol interface {
	// begin appends what a connection says first.
	begin(out []byte) []byte
	// ask appends a request that is told by slot.
	ask(out []byte, slot int) []byte
	// read takes bytes that came, appends to out what must be answered to them,
	// and calls done, which may ask again, for every request that is over.
	read(in []byte, out *[]byte, done func(slot int, ok bool)) error
}

// conn is a connection with its requests under way.
type conn struct {
	fd      int
	mark    int32
	proto   protocol
	out     []byte
	blocked bool
	sent    []time.Duration
}

type engine struct {
	o     Options
	to    netip.AddrPort
	ep    int
	conns []*conn
	hist  histogram
	r     Result
	start time.Time
	begin time.Duration // of what counts; 0 before
	timer int

	events []unix.EpollEvent
	buf    []byte

	// Open loop: slots that are free, and when the next request should leave.
	free  []slot
	due   time.Duration
	every time.Duration
	all   uint64
	asked uint64
	over  bool // nothing more is asked
}

type slot struct {
	c *conn
	n int
}

// timerMark is the Pad of the timer's event.
const timerMark = -1

// ask runs requests of a protocol.
func ask(to netip.AddrPort, o Options, proto func() protocol) (Result, error) {
	e := &engine{
		o: o, to: to, hist: newHistogram(), timer: -1, r: Result{Connections: o.Connections},
		events: make([]unix.EpollEvent, 256), buf: make([]byte, 256<<10),
	}
	ep, fds, err := connectAll(to, o.Connections, unix.EPOLLIN)
	if err != nil {
		return e.r, err
	}
	defer closeAll(ep, fds)
	e.ep = ep
	for i, fd := range fds {
		p := proto()
		e.conns = append(e.conns, &conn{fd: fd, mark: int32(i), proto: p, out: p.begin(nil), sent: make([]time.Duration, o.Streams)})
	}
	e.start = time.Now()
	if o.Rate > 0 {
		if err := e.pace(); err != nil {
			return e.r, err
		}
		defer unix.Close(e.timer)
	}
	for _, c := range e.conns {
		for n := range o.Streams {
			if o.Rate > 0 {
				e.free = append(e.free, slot{c, n})
				continue
			}
			e.send(c, n, e.now())
		}
		if err := e.flush(c); err != nil {
			return e.r, err
		}
	}
	if err := e.run(); err != nil {
		return e.r, err
	}
	e.hist.fill(&e.r, e.now()-e.begin)
	if o.Finish {
		if err := e.finish(); err != nil {
			return e.r, err
		}
	}
	e.r.All = e.all
	e.r.Retransmits = retransmits(fds)
	return e.r, nil
}

func (e *engine) now() time.Duration { return time.Since(e.start) }

// pace starts the timer of an open loop.
func (e *engine) pace() error {
	e.every = time.Duration(float64(time.Second) / e.o.Rate)
	var err error
	if e.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("create a timer: %w", err)
	}
	t := unix.NsecToTimespec(int64(e.every))
	if err := unix.TimerfdSettime(e.timer, 0, &unix.ItimerSpec{Interval: t, Value: t}, nil); err != nil {
		return fmt.Errorf("start a timer: %w", err)
	}
	e.due = e.every
	return watch(e.ep, e.timer, unix.EPOLLIN, timerMark)
}

func (e *engine) run() error {
	for now := e.now(); now < warmUp+e.o.Duration; now = e.now() {
		if e.o.Stop != nil && e.o.Stop.Load() {
			return nil
		}
		if e.begin == 0 && now >= warmUp {
			e.begin = now
		}
		if err := e.turn(); err != nil {
			return err
		}
	}
	return nil
}

// finishTime is how long answers are waited for at the end.
const finishTime = 30 * time.Second

// finish waits for the answers that are missing and asks nothing more.
func (e *engine) finish() error {
	e.over = true
	for end := e.now() + finishTime; e.all < e.asked; {
		if e.now() > end {
			return fmt.Errorf("ask %v: %d of %d requests without an answer after %v", e.to, e.asked-e.all, e.asked, finishTime)
		}
		if err := e.turn(); err != nil {
			return err
		}
	}
	return nil
}

// turn waits for events and takes them.
func (e *engine) turn() error {
	n := wait(e.ep, e.events, 100)
	for _, ev := range e.events[:n] {
		if ev.Pad == timerMark {
			var b [8]byte
			_, _ = unix.Read(e.timer, b[:]) // how many ticks does not matter: due says
			if err := e.catchUp(); err != nil {
				return err
			}
			continue
		}
		if err := e.event(e.conns[ev.Pad], ev.Events); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) event(c *conn, events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		if err := e.flush(c); err != nil {
			return err
		}
	}
	if events&^uint32(unix.EPOLLOUT) == 0 {
		return nil
	}
	n, err := unix.Read(c.fd, e.buf)
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if err != nil || n == 0 {
		return fmt.Errorf("read from %v: %w", e.to, errors.Join(err, errEnded))
	}
	now := e.now()
	err = c.proto.read(e.buf[:n], &c.out, func(n int, ok bool) { e.done(c, n, ok, now) })
	if err != nil {
		return fmt.Errorf("answer of %v: %w", e.to, err)
	}
	return e.flush(c)
}

// done notes an answer and asks again.
func (e *engine) done(c *conn, n int, ok bool, now time.Duration) {
	e.all++
	if e.o.Progress != nil {
		e.o.Progress.Add(1)
	}
	if !ok {
		e.r.Failed++
	}
	if e.begin > 0 {
		e.hist.add(now - c.sent[n])
	}
	switch {
	case e.over:
	case e.every > 0 && e.due > now:
		e.free = append(e.free, slot{c, n})
	case e.every > 0: // one is late already
		e.send(c, n, e.due)
		e.due += e.every
	default:
		e.send(c, n, now)
	}
}

// catchUp asks what is due and has a connection to leave by. What has none
// leaves when an answer frees one; its time began when it was due.
func (e *engine) catchUp() error {
	now := e.now()
	for !e.over && len(e.free) > 0 && e.due <= now {
		s := e.free[0]
		e.free = e.free[1:]
		e.send(s.c, s.n, e.due)
		e.due += e.every
		if err := e.flush(s.c); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) send(c *conn, n int, since time.Duration) {
	e.asked++
	c.sent[n] = since
	c.out = c.proto.ask(c.out, n)
}

// flush writes what there is, and waits for room if there is too much.
func (e *engine) flush(c *conn) error {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		if errors.Is(err, unix.EAGAIN) {
			if !c.blocked {
				c.blocked = true
				return modify(e.ep, c.fd, unix.EPOLLIN|unix.EPOLLOUT, c.mark)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("send to %v: %w", e.to, err)
		}
		c.out = c.out[:copy(c.out, c.out[n:])]
	}
	if c.blocked {
		c.blocked = false
		return modify(e.ep, c.fd, unix.EPOLLIN, c.mark)
	}
	return nil
}

// modify changes what is waited for.
func modify(ep, fd int, events uint32, mark int32) error {
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: mark}); err != nil {
		return fmt.Errorf("watch a socket: %w", os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

// uint24 reads a length of an HTTP/2 frame.
func uint24(b []byte) int { return int(b[0])<<16 | int(binary.BigEndian.Uint16(b[1:])) }
