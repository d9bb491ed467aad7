package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// clock is a loop's time: read once per pass (reading it for every segment was
// 4 to 5 % of CPU), with timers that run on the loop. It is gVisor's clock, so
// that no TCP timer ever runs elsewhere.
type clock struct {
	base  time.Time
	now   time.Duration // since base, plus one second: gVisor takes zero for "never"
	mono  tcpip.MonotonicTime
	heap  []*timer
	stops bool // the loop has ended: timers are not taken any more
}

func newClock() *clock {
	c := &clock{base: time.Now()}
	c.refresh()
	return c
}

// read is the time now, not that of the pass.
func (c *clock) read() time.Duration { return time.Since(c.base) + time.Second }

func (c *clock) refresh() {
	c.now = c.read()
	c.mono = tcpip.MonotonicTime{}.Add(c.now)
}

// Now implements tcpip.Clock.
func (*clock) Now() time.Time { return time.Now() }

// NowMonotonic implements tcpip.Clock.
func (c *clock) NowMonotonic() tcpip.MonotonicTime { return c.mono }

// AfterFunc implements tcpip.Clock: f runs on the loop.
func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer { return c.after(d, f) }

func (c *clock) after(d time.Duration, f func()) *timer {
	t := &timer{c: c, f: f, at: -1}
	t.Reset(d)
	return t
}

// timer is one entry of a clock's heap; at is -1 outside of it.
type timer struct {
	c    *clock
	when time.Duration
	f    func()
	at   int
}

// Stop implements tcpip.Timer and aio.Timer.
func (t *timer) Stop() bool {
	if t.at < 0 {
		return false
	}
	t.c.remove(t.at)
	return true
}

// Reset implements tcpip.Timer and aio.Timer.
func (t *timer) Reset(d time.Duration) {
	t.Stop()
	if t.c.stops {
		return
	}
	t.when = t.c.now + max(d, 0)
	t.at = len(t.c.heap)
	t.c.heap = append(t.c.heap, t)
	t.c.up(t.at)
}

// runDue runs the timers that are due, at most limit of them, and reports how
// many ran. A timer that a timer sets for now runs in the next call.
func (c *clock) runDue(limit int) int {
	n := 0
	for ; n < limit && len(c.heap) > 0 && c.heap[0].when <= c.now; n++ {
		t := c.heap[0]
		c.remove(0)
		t.f()
	}
	return n
}

// next is how long until the next timer; ok is false without one.
func (c *clock) next() (time.Duration, bool) {
	if len(c.heap) == 0 {
		return 0, false
	}
	return max(c.heap[0].when-c.now, 0), true
}

func (c *clock) remove(i int) {
	t, last := c.heap[i], len(c.heap)-1
	if i != last {
		c.swap(i, last)
	}
	c.heap[last] = nil
	c.heap = c.heap[:last]
	t.at = -1
	if i < last {
		c.down(i)
		c.up(i)
	}
}

func (c *clock) swap(i, j int) {
	c.heap[i], c.heap[j] = c.heap[j], c.heap[i]
	c.heap[i].at, c.heap[j].at = i, j
}

func (c *clock) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if c.heap[p].when <= c.heap[i].when {
			return
		}
		c.swap(i, p)
		i = p
	}
}

func (c *clock) down(i int) {
	for {
		l := 2*i + 1
		if l >= len(c.heap) {
			return
		}
		if r := l + 1; r < len(c.heap) && c.heap[r].when < c.heap[l].when {
			l = r
		}
		if c.heap[i].when <= c.heap[l].when {
			return
		}
		c.swap(i, l)
		i = l
	}
}

var _ tcpip.Clock = (*clock)(nil)
