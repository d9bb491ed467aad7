package netstack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/link"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

const (
	// batch is how many packets of a side are read before the other side has its
	// turn; 16 to 256 measured alike.
	batch = 64
	// settleRounds bounds how often handlers may wake each other in one pass.
	settleRounds = 64
	// postLimit bounds functions that wait for the loop.
	postLimit = 1 << 16
	// inboxLimit bounds packets that other loops read for this one.
	inboxLimit = 1024
	// briefWait is how long a loop may sleep without the scheduler's knowledge,
	// and slowWaits how often it does not try after that was too short.
	briefWait = 100 * time.Microsecond
	slowWaits = 16
	// yieldEvery is how often a busy loop lets other goroutines in.
	yieldEvery = 100 * time.Microsecond
	// retryRead is the pause after a read error that may pass, and readPatience
	// how long such errors may go on before the device is given up.
	retryRead    = 10 * time.Millisecond
	readPatience = 5 * time.Second
)

var (
	sides     = [...]aio.Side{aio.App, aio.Wire} //nolint:gochecknoglobals // a constant
	errHalted = errors.New("the loop was halted")
)

// loop is one goroutine's world: two links, a gVisor stack, its connections.
// Everything but the fields under mu belongs to that goroutine.
type loop struct {
	s     *Stack
	id    int
	clock *clock
	links [2]*link.Link
	core  core // gVisor

	flows      [2]map[flowKey]*conn
	pending    [2]map[flowKey]*Pending
	handshakes int // accepted connections whose handshake is not over

	ready, readySpare []*conn
	owed              []*conn // whose received bytes wait for an ACK
	tasks, deferred   funcs
	mover             mover // of the CopyTo that runs

	ending   bool          // nothing new begins
	yielded  time.Duration // when other goroutines had their turn
	slow     int           // waits until the next that is brief
	readable [2]bool       // a side may have packets
	faults   [2]fault
	resets   [2]bucket
	counters [2]sideCounters

	epfd, evfd int

	started atomic.Bool // core is there
	halted  atomic.Bool
	mail    atomic.Bool // posted or inbox has something

	mu       sync.Mutex
	posted   []func()
	inbox    []foreign
	sleeping bool // the loop waits, or is about to
	woken    bool // the eventfd was, or is about to be, written
	ended    bool
}

// foreign is a packet of this loop's that another loop read.
type foreign struct {
	side aio.Side
	h    tun.Header
	b    []byte
}

// fault is a side's trouble with reading.
type fault struct {
	since  time.Duration // 0: none
	paused bool          // taken out of epoll until the retry
}

var _ aio.Loop = (*loop)(nil)

func newLoop(s *Stack, id int) (*loop, error) {
	l := &loop{s: s, id: id, clock: newClock(), epfd: -1, evfd: -1}
	devs := [2]Device{s.cfg.App[id], s.cfg.Wire[id]}
	for side := range l.links {
		l.links[side] = link.New(devs[side], uint32(s.cfg.MTU), l.Now)
		l.flows[side] = map[flowKey]*conn{}
		l.pending[side] = map[flowKey]*Pending{}
		l.readable[side] = true
	}
	if err := l.openFDs(devs); err != nil {
		l.closeFDs()
		return nil, fmt.Errorf("new loop %d: %w", id, err)
	}
	return l, nil
}

func (l *loop) openFDs(devs [2]Device) (err error) {
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if l.evfd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	for i, fd := range []int{devs[0].FD(), devs[1].FD(), l.evfd} {
		if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return fmt.Errorf("watch queue: %w", err)
		}
	}
	return nil
}

func (l *loop) closeFDs() {
	for _, fd := range []*int{&l.epfd, &l.evfd} {
		if *fd >= 0 {
			_ = unix.Close(*fd) // nothing was written to it that could be lost
			*fd = -1
		}
	}
}

// run serves until ctx is done or a device is gone.
func (l *loop) run(ctx context.Context) error {
	err := l.core.start(l)
	if err == nil {
		l.started.Store(true)
		err = l.serve(ctx)
	}
	l.end() // not deferred: a panic under an endpoint's lock must not wait for it
	if err != nil {
		return fmt.Errorf("loop %d: %w", l.id, err)
	}
	return nil
}

func (l *loop) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.halt)
	defer stop()
	for {
		switch err := l.pass(); {
		case errors.Is(err, errHalted):
			return nil
		case err != nil:
			return err
		}
	}
}

// halt makes the loop end; from any goroutine.
func (l *loop) halt() {
	l.halted.Store(true)
	l.mu.Lock()
	wake := l.wakeLocked()
	l.mu.Unlock()
	if wake {
		l.signal()
	}
}

func (l *loop) pass() error {
	if l.halted.Load() {
		return errHalted
	}
	if l.clock.refresh(); l.clock.now-l.yielded > yieldEvery {
		l.yielded = l.clock.now
		runtime.Gosched()
	}
	more := false
	for _, side := range sides {
		if l.readable[side] {
			full, err := l.drain(side)
			if err != nil {
				return err
			}
			l.readable[side] = full
			more = more || full
		}
	}
	l.clock.runDue(batch * 4)
	if l.mail.Load() {
		l.takeMail()
	}
	idle := l.settle()
	l.flush(false)
	for _, ln := range l.links {
		if err := ln.Gone(); err != nil {
			return err
		}
	}
	if more || !idle {
		// Nobody asks epoll now: look at both sides, or a busy one would starve
		// the other.
		for side := range l.readable {
			l.readable[side] = !l.faults[side].paused
		}
		return nil
	}
	return l.park()
}

// drain reads a side's packets; full says that there may be more.
func (l *loop) drain(side aio.Side) (full bool, err error) {
	ln := l.links[side]
	for range batch {
		switch err := ln.Read(); err { //nolint:errorlint // the hot path; the others are compared properly below
		case nil:
			l.faults[side].since = 0
			l.input(side, false)
		case tun.ErrEmpty:
			return false, nil
		default:
			return false, l.readFailed(side, err)
		}
	}
	return true, nil
}

// readFailed decides whether a read error ends the stack. A device that is gone
// does; anything else is tried again for a while, without a busy loop.
func (l *loop) readFailed(side aio.Side, err error) error {
	f := &l.faults[side]
	switch {
	case errors.Is(err, tun.ErrGone):
		return fmt.Errorf("read the %v side: %w", side, err)
	case f.since == 0:
		f.since = l.clock.now
		l.s.cfg.Logger.Warn("reading a queue fails", "side", side, "loop", l.id, "error", err)
	case l.clock.now-f.since > readPatience:
		return fmt.Errorf("read the %v side: failing for %v: %w", side, readPatience, err)
	}
	if !f.paused {
		f.paused = true
		l.watch(side, 0)
		l.clock.after(retryRead, func() {
			f.paused = false
			l.watch(side, unix.EPOLLIN)
			l.readable[side] = true
		})
	}
	return nil
}

func (l *loop) device(side aio.Side) Device {
	if side == aio.App {
		return l.s.cfg.App[l.id]
	}
	return l.s.cfg.Wire[l.id]
}

// watch sets what epoll says about a side's queue. Errors are always told, so
// nothing at all means taking it out.
func (l *loop) watch(side aio.Side, events uint32) {
	op := unix.EPOLL_CTL_ADD
	if events == 0 {
		op = unix.EPOLL_CTL_DEL
	}
	// A queue that cannot be watched is gone, which the next Read says.
	_ = unix.EpollCtl(l.epfd, op, l.device(side).FD(), &unix.EpollEvent{Events: events, Fd: int32(side)})
}

// settle runs handlers and functions until nothing is left of this pass. It
// reports whether that was reached: parties that wake each other for ever must
// not keep packets out.
func (l *loop) settle() bool {
	for range settleRounds {
		switch {
		case len(l.ready) > 0:
			sweep := l.ready
			l.ready, l.readySpare = l.readySpare[:0], nil
			for i, c := range sweep {
				sweep[i] = nil
				c.deliver()
			}
			l.readySpare = sweep
		case len(l.tasks.list) > 0:
			l.tasks.run()
		case len(l.deferred.list) > 0:
			l.deferred.run()
		default:
			return true
		}
	}
	return len(l.ready)+len(l.tasks.list)+len(l.deferred.list) == 0
}

// funcs is a list of functions that is added to while it runs.
type funcs struct{ list, spare []func() }

func (f *funcs) add(g func()) { f.list = append(f.list, g) }

func (f *funcs) run() {
	list := f.list
	f.list, f.spare = f.spare[:0], nil
	for i, g := range list {
		list[i] = nil
		g()
	}
	f.spare = list
}

func (l *loop) takeMail() {
	l.mu.Lock()
	posted, inbox := l.posted, l.inbox
	l.posted, l.inbox = nil, nil
	l.mail.Store(false)
	l.mu.Unlock()
	for _, p := range inbox {
		l.links[p.side].Load(p.h, p.b)
		l.input(p.side, true)
	}
	for _, f := range posted {
		f()
	}
}

// impatient reports whether an ACK waits that should not while the loop sleeps.
func (l *loop) impatient() bool {
	for _, c := range l.owed {
		if c.flow.Due > 0 && !c.flow.Patient() {
			return true
		}
	}
	return l.links[0].Holding() || l.links[1].Holding()
}

// flush writes what the stack sent, and ACKs that waited long enough, or all.
func (l *loop) flush(acks bool) {
	l.payAcks(acks)
	for _, ln := range l.links {
		ln.FlushAcks(acks)
		ln.Flush()
	}
}

// park waits for something to do. ACKs that are held while the other side may
// still answer go out first.
func (l *loop) park() error {
	if l.impatient() {
		if n, err := l.poll(); n > 0 || err != nil {
			return err
		}
		l.flush(true)
	}
	if l.s.cfg.Spin > 0 {
		for start := time.Now(); time.Since(start) < l.s.cfg.Spin; {
			if n, err := l.poll(); n > 0 || err != nil || l.mail.Load() {
				return err
			}
		}
	}
	timeout := -1
	if d, ok := l.clock.next(); ok {
		timeout = int(min((d+time.Millisecond-1)/time.Millisecond, 60_000))
	}
	if len(l.owed) > 0 { // what is left has patience, up to a point
		if ms := int(link.HoldTime / time.Millisecond); timeout < 0 || timeout > ms {
			timeout = ms
		}
	}
	l.mu.Lock()
	if l.mail.Load() || l.halted.Load() || timeout == 0 {
		l.mu.Unlock()
		return nil
	}
	l.sleeping = true
	l.mu.Unlock()

	var events [3]unix.EpollEvent
	n, err := l.wait(events[:], timeout)

	l.mu.Lock()
	l.sleeping = false
	drain := l.woken
	l.woken = false
	l.mu.Unlock()
	if drain {
		l.drainSignal()
	}
	return l.polled(events[:max(n, 0)], err)
}

// wait waits for events. While they keep coming within 100 µs it does so without
// the scheduler's knowledge: told of every short wait, the runtime's monitor
// takes the processor away and gives it back each time, and stays awake at 20 µs
// intervals to do so (a tenth of the CPU of a ping-pong). Goroutines that are
// ready run before; those that become ready meanwhile wait for 100 µs at most.
func (l *loop) wait(events []unix.EpollEvent, timeout int) (int, error) {
	if l.slow > 0 {
		l.slow--
		return unix.EpollWait(l.epfd, events, timeout)
	}
	l.yielded = l.clock.now
	runtime.Gosched()
	brief := unix.Timespec{Nsec: int64(briefWait)}
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&brief)), 0, 0)
	if e == 0 && n > 0 {
		return int(n), nil
	}
	l.slow = slowWaits
	if e == unix.ENOSYS || e == unix.EPERM {
		l.slow = math.MaxInt // an old kernel, or a filter that does not know the call
	}
	return unix.EpollWait(l.epfd, events, timeout)
}

// poll looks without waiting; the scheduler need not know.
func (l *loop) poll() (int, error) {
	var events [3]unix.EpollEvent
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if e != 0 {
		return 0, l.polled(nil, e)
	}
	return int(n), l.polled(events[:n], nil)
}

func (l *loop) polled(events []unix.EpollEvent, err error) error {
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for packets: %w", err)
	}
	for _, e := range events {
		if e.Fd > 1 {
			continue // the eventfd: park drains it
		}
		l.readable[e.Fd] = true
		if e.Events&unix.EPOLLIN == 0 {
			// Trouble without packets: if the queue says empty, too, waiting for
			// it would spin. Look again in a while.
			if err := l.links[e.Fd].Read(); err == nil {
				l.input(aio.Side(e.Fd), false)
			} else if err := l.readFailed(aio.Side(e.Fd), err); err != nil {
				return err
			}
		}
	}
	return nil
}

// wakeLocked says whether the caller must signal, once mu is unlocked.
func (l *loop) wakeLocked() bool {
	wake := l.sleeping && !l.woken
	l.woken = l.woken || wake
	return wake
}

func (l *loop) signal() {
	_, _ = unix.Write(l.evfd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail but when full, which wakes as well
}

// drainSignal takes the signal that was announced. Its writer may still be
// between the announcement and the write: left unread, epoll would spin.
func (l *loop) drainSignal() {
	var b [8]byte
	for {
		if _, err := unix.Read(l.evfd, b[:]); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return
		}
		runtime.Gosched()
	}
}

// Post implements aio.Loop. It also refuses when 65,536 functions wait.
func (l *loop) Post(f func()) bool {
	l.mu.Lock()
	if l.ended || len(l.posted) >= postLimit {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, f)
	l.mail.Store(true)
	wake := l.wakeLocked()
	l.mu.Unlock()
	if wake {
		l.signal()
	}
	return true
}

// give puts a packet into the loop's inbox, from another loop.
func (l *loop) give(p foreign) bool {
	l.mu.Lock()
	if l.ended || len(l.inbox) >= inboxLimit {
		l.mu.Unlock()
		return false
	}
	l.inbox = append(l.inbox, p)
	l.mail.Store(true)
	wake := l.wakeLocked()
	l.mu.Unlock()
	if wake {
		l.signal()
	}
	return true
}

// Defer implements aio.Loop.
func (l *loop) Defer(f func()) { l.deferred.add(f) }

// soon runs f in this pass or the next, never from inside the caller.
func (l *loop) soon(f func()) { l.tasks.add(f) }

// AfterFunc implements aio.Loop.
func (l *loop) AfterFunc(d time.Duration, f func()) aio.Timer { return l.clock.after(d, f) }

// Now implements aio.Loop.
func (l *loop) Now() time.Duration { return l.clock.now }

// end resets what is left, tells everyone, and stops gVisor.
func (l *loop) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.ending = true
	for _, side := range sides {
		for _, p := range l.pending[side] {
			p.Drop()
		}
		for _, c := range l.flows[side] {
			c.abort()
		}
	}
	// Handlers may close, post and dial in turn: each finds the end, so a few
	// rounds bring everything to rest.
	for range settleRounds {
		l.takeMail()
		if l.settle() && !l.mail.Load() {
			break
		}
	}
	for _, ln := range l.links {
		ln.Flush()
	}
	l.core.stop()
	l.clock.stops = true
	for _, ln := range l.links {
		ln.Discard()
	}
}
