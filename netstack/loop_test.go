package netstack

import (
	"context"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"net/netip"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/memlink"
)

// idle is a running stack with nobody on either side.
func idle(t *testing.T, queues int) (s *Stack, stop func()) {
	t.Helper()
	var app, wire []Device
	for range queues {
		for _, to := range []*[]Device{&app, &wire} {
			a, b, err := memlink.Pair()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() })
			*to = append(*to, a)
		}
	}
	s, err := New(Config{App: app, Wire: wire, Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.5")}, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return s, stop
}

// TestPin: inline.go, give.go and package chunk use parts of gVisor that are not
// exported. Before this version may move, compare what their head comments list.
func TestPin(t *testing.T) {
	raw, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`gvisor\.dev/gvisor (v\S+)`).FindSubmatch(raw)
	if m == nil {
		t.Fatal("go.mod does not name gVisor")
	}
	if got := string(m[1]); got != gvisorPin {
		t.Errorf("go.mod has gVisor %s, inline.go was read against %s: compare transport/tcp/{dispatcher,accept,connect,endpoint,segment,segment_queue,snd}.go and buffer/{chunk,view}.go, run these tests, then move the pin", got, gvisorPin)
	}
}

func TestPostFromManyGoroutines(t *testing.T) {
	s, stop := idle(t, 1)
	l := s.Loops()[0]
	var ran, running atomic.Int64
	var wg sync.WaitGroup
	const goroutines, each = 8, 2000
	for range goroutines {
		wg.Go(func() {
			for range each {
				for !l.Post(func() {
					if running.Add(1) > 1 {
						t.Error("two functions run at once")
					}
					ran.Add(1)
					running.Add(-1)
				}) {
					time.Sleep(time.Millisecond) // the bound was met
				}
			}
		})
	}
	wg.Wait()
	done := make(chan struct{})
	l.Post(func() { close(done) })
	<-done
	if n := ran.Load(); n != goroutines*each {
		t.Errorf("%d of %d functions ran", n, goroutines*each)
	}
	stop()
	if l.Post(func() { t.Error("ran after the end") }) {
		t.Error("Post after the end is taken")
	}
}

func TestPostIsBounded(t *testing.T) {
	s, _ := idle(t, 1)
	l := s.Loops()[0]
	block, blocked := make(chan struct{}), make(chan struct{})
	l.Post(func() { close(blocked); <-block })
	<-blocked
	n := 0
	for l.Post(func() {}) {
		if n++; n > postLimit {
			t.Fatal("no bound")
		}
	}
	close(block)
	if n != postLimit {
		t.Errorf("%d functions were taken, want %d", n, postLimit)
	}
}

func TestDeferAndTimers(t *testing.T) {
	s, _ := idle(t, 1)
	l := s.Loops()[0]
	var order []string
	done := make(chan time.Duration, 1)
	l.Post(func() {
		start := l.Now()
		say := func(what string) func() { return func() { order = append(order, what) } }
		l.Defer(say("deferred"))
		l.AfterFunc(20*time.Millisecond, func() { say("20")(); done <- l.Now() - start })
		l.AfterFunc(5*time.Millisecond, say("5"))
		l.AfterFunc(10*time.Millisecond, say("10"))
		stopped := l.AfterFunc(7*time.Millisecond, say("stopped"))
		if !stopped.Stop() || stopped.Stop() {
			t.Error("Stop does not say that it prevented the call, once")
		}
		say("posted")()
	})
	took := <-done
	if want := []string{"posted", "deferred", "5", "10", "20"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
	if took < 20*time.Millisecond || took > 500*time.Millisecond {
		t.Errorf("20 ms took %v", took)
	}
}

// TestClockHeap: timers fire in order whatever is stopped and moved meanwhile.
func TestClockHeap(t *testing.T) {
	c := newClock()
	var fired []int
	var timers []*timer
	for i := range 200 {
		d := time.Duration(i*7919%200) * time.Millisecond
		timers = append(timers, c.after(d, func() { fired = append(fired, int(d/time.Millisecond)) }))
	}
	for i := 0; i < 200; i += 3 {
		if !timers[i].Stop() {
			t.Fatalf("timer %d was not there", i)
		}
	}
	for i := 0; i < 200; i += 6 {
		timers[i].Reset(time.Duration(i*7919%200) * time.Millisecond)
	}
	if d, ok := c.next(); !ok || d > 2*time.Millisecond {
		t.Errorf("next: %v, %v", d, ok)
	}
	c.now += time.Second
	if n := c.runDue(50); n != 50 {
		t.Errorf("%d ran, the limit is 50", n)
	}
	for c.runDue(50) > 0 {
	}
	if !slices.IsSorted(fired) || len(fired) != 200-67+34 {
		t.Errorf("%d fired, sorted: %v", len(fired), slices.IsSorted(fired))
	}
	if _, ok := c.next(); ok {
		t.Error("something is left")
	}
}

func TestDirectoryKnowsTheOwner(t *testing.T) {
	d := newDirectory()
	a, b := &loop{}, &loop{}
	k := keyOf(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2"))
	d.add(aio.App, k, a)
	if d.owner(aio.App, k) != a || d.owner(aio.Wire, k) != nil {
		t.Error("owner")
	}
	d.add(aio.App, k, b) // the tuple was used again, elsewhere
	d.remove(aio.App, k, a)
	if d.owner(aio.App, k) != b {
		t.Error("a former owner's remove took the new one out")
	}
	d.remove(aio.App, k, b)
	if d.owner(aio.App, k) != nil {
		t.Error("still there")
	}
	var none *directory
	none.add(aio.App, k, a)
	none.remove(aio.App, k, a)
	if none.owner(aio.App, k) != nil {
		t.Error("no directory has an owner")
	}
}

func TestConfigIsChecked(t *testing.T) {
	a, b, err := memlink.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	addr := netip.MustParseAddr("10.1.0.5")
	good := Config{App: []Device{a}, Wire: []Device{b}, Addrs: []netip.Addr{addr}, MTU: 1500}
	for name, bad := range map[string]func(*Config){
		"no queue":      func(c *Config) { c.App, c.Wire = nil, nil },
		"uneven":        func(c *Config) { c.Wire = append(c.Wire, b) },
		"too many":      func(c *Config) { c.App = slices.Repeat(c.App, 17); c.Wire = slices.Repeat(c.Wire, 17) },
		"no address":    func(c *Config) { c.Addrs = nil },
		"group address": func(c *Config) { c.Addrs = []netip.Addr{netip.MustParseAddr("224.0.0.1")} },
		"loopback":      func(c *Config) { c.Addrs = []netip.Addr{netip.MustParseAddr("::1")} },
		"small mtu":     func(c *Config) { c.MTU = 1279 },
		"large mtu":     func(c *Config) { c.MTU = 65536 },
		"long sleep":    func(c *Config) { c.Unseen = 10 * time.Millisecond },
		"long spin":     func(c *Config) { c.Spin = time.Millisecond },
	} {
		c := good
		bad(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
