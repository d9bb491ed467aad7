package netstack

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/chunk"
	"github.com/tunmesh/tunmesh/netstack/link"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

const (
	// batch is how many packets of a side are read before the other side has its
	// turn; 16 to 256 measured alike.
	batch = 64
	// batchBytes bounds them in bytes: bulk is passed on while more of it comes.
	batchBytes = 256 << 10
	// settleRounds bounds how often handlers may wake each other in one pass.
	settleRounds = 64
	// yieldEvery is how often a busy loop lets other goroutines in, where there is
	// one processor.
	yieldEvery = 100 * time.Microsecond
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

	flows   [2]map[flowKey]*conn
	unread  map[*conn]struct{} // over and out of the table, with bytes that nobody read
	pending [2]map[flowKey]*Pending
	doors   [3]door // one for each side, and reserved
	memory  memory
	chunks  chunk.Source
	copies  bool // no memory is given: see give.go

	ready, readySpare []*conn
	young             young
	owed              []*conn // whose received bytes wait for an ACK
	tasks, deferred   funcs
	mover             mover  // of the CopyTo that runs
	sink              sink   // of the Read that runs
	source            source // of the Write that runs
	skip              skip   // of the pass that runs

	ending   bool          // nothing new begins
	yielded  time.Duration // when other goroutines had their turn
	slow     int           // waits until the next that is brief
	readable [2]bool       // a side may have packets
	faults   [2]fault
	resets   [2]bucket
	surges   [2]surge
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

var _ aio.Loop = (*loop)(nil)

func newLoop(s *Stack, id int) (*loop, error) {
	l := &loop{s: s, id: id, clock: newClock(), unread: map[*conn]struct{}{}, epfd: -1, evfd: -1}
	l.memory.limit = s.cfg.MaxHeld / len(s.cfg.App)
	devs := [2]Device{s.cfg.App[id], s.cfg.Wire[id]}
	for side := range l.links {
		l.links[side] = link.New(devs[side], uint32(s.cfg.MTU), l.Now)
		l.flows[side] = map[flowKey]*conn{}
		l.pending[side] = map[flowKey]*Pending{}
		l.doors[side].opening = newPlaces(s.cfg.MaxPending, aio.Side(side) == aio.Wire)
		l.doors[side].places = newPlaces(max(s.cfg.MaxConns/len(s.cfg.App), 1), aio.Side(side) == aio.Wire)
		l.readable[side] = true
	}
	l.doors[reserved] = door{opening: newPlaces(reservedPlaces, true), places: newPlaces(reservedPlaces, true)}
	l.links[aio.Wire].Stalled = l.stalled
	l.cheapen()
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

func (l *loop) pass() error {
	if l.halted.Load() {
		return errHalted
	}
	if l.clock.refresh(); l.clock.now-l.yielded > yieldEvery {
		l.yield()
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

// yield lets other goroutines in. With several processors they have the others,
// and Gosched would wake one to take this loop away: 4 µs, and the cache. (The
// runtime may change the number at any time.)
func (l *loop) yield() {
	l.yielded = l.clock.now
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.Gosched()
	}
}

// drain reads a side's packets; full says that there may be more.
func (l *loop) drain(side aio.Side) (full bool, err error) {
	ln := l.links[side]
	l.surges[side].tick(l.clock.now)
	for i, size := 0, 0; i < batch && size < batchBytes; i++ {
		switch err := ln.Read(); err { //nolint:errorlint // the hot path; the others are compared properly below
		case nil:
			l.faults[side].since = 0
			size += ln.Size()
			l.input(side, false)
		case tun.ErrEmpty:
			l.faults[side].since = 0
			if l.young.syns[side].len() == 0 {
				l.surges[side].stands = false
			}
			return false, nil
		default:
			return false, l.readFailed(side, err)
		}
	}
	return true, nil
}

// settle runs handlers and functions until nothing is left of this pass. It
// reports whether that was reached: parties that wake each other for ever must
// not keep packets out. Who is new has a turn after all else, and the rest of them in
// a later pass.
func (l *loop) settle() bool {
	var until time.Duration // of that turn
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
		case l.young.len() == 0:
			return true
		default:
			now := l.clock.read()
			if until == 0 {
				until = now + max(youngTime, now-l.clock.now)
				l.flush(false) // what the others sent need not wait for that
			}
			if now >= until {
				return false
			}
			l.youngTurn(until)
		}
	}
	return len(l.ready)+l.young.len()+len(l.tasks.list)+len(l.deferred.list) == 0
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

// flush writes what the stack sent, and ACKs that waited long enough, or all.
func (l *loop) flush(acks bool) {
	if int(l.memory.held.Load()) != l.memory.used {
		l.memory.held.Store(int64(l.memory.used))
	}
	l.payAcks(acks)
	for _, ln := range l.links {
		ln.FlushAcks(acks)
		ln.Flush()
	}
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
	l.grow()
	for _, side := range sides {
		for _, p := range l.pending[side] {
			p.Drop()
		}
		for _, c := range l.flows[side] {
			c.abort()
		}
	}
	for c := range l.unread {
		c.abort() // who would read it can only ask for that on this loop
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
