package netstack

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/link"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

const (
	// unseen is how long a loop sleeps without the scheduler's knowledge unless
	// told otherwise, and maxUnseen the most: the runtime's monitor asks for the
	// processor after 10 ms, with a signal. slowWaits is how often a loop does not
	// try after that was too short.
	unseen    = 100 * time.Microsecond
	maxUnseen = 9 * time.Millisecond
	slowWaits = 16
	// retryRead is the pause after a read error that may pass, and readPatience
	// how long such errors may go on before the device is given up.
	retryRead    = 10 * time.Millisecond
	readPatience = 5 * time.Second
)

// fault is a side's trouble with reading.
type fault struct {
	since  time.Duration // 0: none
	paused bool          // taken out of epoll until the retry
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

// impatient reports whether an ACK waits that should not while the loop sleeps.
func (l *loop) impatient() bool {
	for _, c := range l.owed {
		if c.flow.Due > 0 && !c.flow.Patient() {
			return true
		}
	}
	return l.links[0].Holding() || l.links[1].Holding()
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
		// Whoever posts again each time, as a connection does that has more than a
		// turn's work, must not keep packets out.
		_, err := l.poll()
		return err
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

// wait waits for events. While they keep coming it does so without the
// scheduler's knowledge: told of every short wait, the runtime's monitor takes
// the processor away and gives it back each time, and stays awake at 20 µs
// intervals to do so (an eighth of the CPU at 1,000 requests/s). Goroutines that
// are ready run before; those that become ready meanwhile have the other
// processors. Who stops the world sends a signal, which ends the wait.
func (l *loop) wait(events []unix.EpollEvent, timeout int) (int, error) {
	if l.slow > 0 {
		l.slow--
		return unix.EpollWait(l.epfd, events, timeout)
	}
	l.yield()
	d := l.s.cfg.Unseen
	if timeout > 0 {
		d = min(d, time.Duration(timeout)*time.Millisecond)
	}
	brief := unix.Timespec{Nsec: int64(d)}
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&brief)), 0, 0)
	switch {
	case e == 0 && n > 0:
		return int(n), nil
	case e == unix.EINTR:
		return 0, nil // the runtime wants something: let it
	case e == unix.ENOSYS || e == unix.EPERM:
		l.slow = math.MaxInt // an old kernel, or a filter that does not know the call
	default:
		l.slow = slowWaits
		if timeout > 0 && d == time.Duration(timeout)*time.Millisecond {
			return 0, nil // it was all the time there was
		}
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
