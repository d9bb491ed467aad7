package tunproxy_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
	"github.com/tunmesh/tunmesh/tunproxy"
)

// A siege is one sidecar, an attacker, and somebody else who goes on asking.
// Two things are measured of somebody else's requests:
//
//   - their latency, whole, in turns without and with the attack. It is printed:
//     attackers, apps and kernels are of this process, whose collector and
//     threads they share with the sidecar. test/siege judges it, where they are not.
//   - the sidecar's own part: how much processor time its loop spends from the
//     arrival of a packet of theirs until it leaves, there and back. That is the
//     work that the loop does for others first, whatever else runs on the
//     machine, and is held to a line in every run.
type siege struct {
	*testing.T
	w       *world
	b       *pod
	out     *host // the attacker
	asker   *asker
	own     *ownTime
	cutsOff *pod                  // whose metrics count the attack; nil: b's
	staying float64               // connections to b that are not the attacker's; 0: 1
	hands   *memlink.End          // of connections without a kernel
	apps    map[aio.Conn]struct{} // the attacker's app's, on its loop
}

// judging: the machine is this test's; there are more turns, and longer ones.
func judging() bool { return os.Getenv("TUNPROXY_JUDGE") != "" }

const (
	besiegedIP = "10.0.0.2"
	smallWeb   = besiegedIP + ":90" // somebody else's
	flooded    = besiegedIP + ":80" // the attacker's
)

func newSiege(t *testing.T, tune func(*tunproxy.Config)) *siege {
	t.Helper()
	if judging() {
		// Threads are the kernel's to schedule: it lets who has slept go first.
		old := runtime.GOMAXPROCS(8)
		t.Cleanup(func() { runtime.GOMAXPROCS(old) })
	}
	w := newWorld(t)
	s := &siege{T: t, w: w, own: &ownTime{client: netip.MustParseAddr("10.0.0.8")}}
	s.b = w.pod("b", besiegedIP, withTune(func(c *tunproxy.Config) {
		c.Grace = time.Second
		if tune != nil {
			tune(c)
		}
	}))
	s.own.watch(s.b)
	s.b.serveRaw(90, func(c aio.Conn) { c.SetHandler(&answerer{}) })
	s.out = w.hostOutside("10.0.0.9")
	s.out.humble()
	s.asker = newAsker(t, w.hostOutside("10.0.0.8"), smallWeb)
	s.asker.ask(50)
	return s
}

// humble makes the host's kernel, and what runs on its loop, give way to others.
func (h *host) humble() {
	done := make(chan struct{})
	h.stack.Loops()[0].Post(func() {
		giveWay()
		close(done)
	})
	<-done
}

func giveWay() {
	runtime.LockOSThread()
	if judging() {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	}
}

// asker asks for something small over and over, on a loop: no goroutine has to
// be woken.
type asker struct {
	t    *testing.T
	loop aio.Loop
	conn aio.Conn
	sent time.Time
	got  []byte
	left int
	took []time.Duration
	err  error
	done chan struct{}
}

func newAsker(t *testing.T, h *host, dst string) *asker {
	t.Helper()
	a := &asker{t: t, loop: h.stack.Loops()[0], done: make(chan struct{}, 1)}
	a.loop.Post(func() {
		a.loop.Dial(aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(h.addr, 0), Dst: netipAddrPort(dst), Timeout: 20 * time.Second, Done: func(c aio.Conn, err error) {
			if a.conn, a.err = c, err; err == nil {
				c.SetHandler(a)
			}
			a.done <- struct{}{}
		}})
	})
	<-a.done
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a
}

// ask is how long n answers took, each.
func (a *asker) ask(n int) []time.Duration {
	a.t.Helper()
	a.loop.Post(func() {
		a.left, a.took = n, make([]time.Duration, 0, n)
		a.next()
	})
	select {
	case <-a.done:
	case <-time.After(5 * time.Minute): // machines stand still, now and then
		a.t.Fatal("somebody else was not served")
	}
	if a.err != nil {
		a.t.Fatalf("somebody else was not served: %v", a.err)
	}
	return a.took
}

func (a *asker) next() {
	if a.left--; a.left < 0 || a.err != nil {
		a.tell()
		return
	}
	a.sent, a.got = time.Now(), a.got[:0]
	_, _ = a.conn.Write([]byte(helloRequest))
}

func (a *asker) Readable(c aio.Conn) {
	var buf [512]byte
	for {
		n, err := c.Read(buf[:])
		a.got = append(a.got, buf[:n]...)
		if errors.Is(err, aio.ErrWouldBlock) {
			break
		}
		if err != nil {
			a.Closed(c, err)
			return
		}
	}
	if bytes.HasSuffix(a.got, []byte("\r\n\r\nok")) {
		a.took = append(a.took, time.Since(a.sent))
		a.loop.AfterFunc(500*time.Microsecond, a.next)
	}
}
func (*asker) Writable(aio.Conn) {}
func (a *asker) Closed(_ aio.Conn, err error) {
	if a.err = err; err == nil {
		a.err = io.EOF
	}
	a.tell()
}

// tell never keeps the loop: the end of the test may come first.
func (a *asker) tell() {
	select {
	case a.done <- struct{}{}:
	default:
	}
}

// ownTime is the processor time that a sidecar's loop spends while somebody
// else's request or response is with it. One is under way at a time.
type ownTime struct {
	client netip.Addr
	thread atomic.Int32 // of the sidecar's loop
	there  atomic.Int64 // when the request arrived, in the loop's time
	back   atomic.Int64 // when the response did, less the time of the way there
	mu     sync.Mutex
	spent  []time.Duration
}

func (o *ownTime) watch(b *pod) {
	addr := b.addr
	b.w.mu.Lock()
	b.w.watch = func(src, dst netip.Addr, p []byte) {
		switch {
		case src == o.client && dst == addr && carries(p): // on the client's loop
			if now := o.now(); now > 0 {
				o.there.Store(now)
			}
		case src == addr:
			if o.thread.Load() == 0 { // on the sidecar's
				runtime.LockOSThread()
				o.thread.Store(int32(unix.Gettid()))
			}
			if dst == o.client && carries(p) {
				if began := o.back.Swap(0); began != 0 {
					o.mu.Lock()
					o.spent = append(o.spent, time.Duration(o.now()-began))
					o.mu.Unlock()
				}
			}
		}
	}
	b.w.mu.Unlock()
	of := func(b []byte, at int) bool { return b[0]>>4 == 4 && netip.AddrFrom4([4]byte(b[at:at+4])) == o.client }
	b.appEnd.SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) { // on the sidecar's
		if of(p, 12) && carries(p) {
			if began := o.there.Load(); began > 0 {
				o.there.Store(began - o.now()) // ready to be taken off
			}
		}
		return memlink.Pass, nil
	})
	b.hostEnd.SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) { // on the app's kernel's
		if of(p, 16) && carries(p) {
			if spent := o.there.Swap(0); spent < 0 {
				o.back.Store(o.now() + spent)
			}
		}
		return memlink.Pass, nil
	})
}

// carries: the TCP segment has bytes.
func carries(p []byte) bool {
	return p[0] == 0x45 && len(p) >= 40 && p[9] == 6 && len(p) > 20+int(p[32]>>4)*4
}

// now is how much processor time the sidecar's loop has used.
func (o *ownTime) now() int64 {
	tid := o.thread.Load()
	if tid == 0 {
		return 0
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(^tid<<3|6, &ts); err != nil { // the clock of a thread, clock_getcpuclockid(3)
		return 0
	}
	return ts.Nano()
}

// take is what was measured since the last take.
func (o *ownTime) take() []time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	got := o.spent
	o.spent = nil
	return got
}

func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)*p/100]
}

// figures are what a judgement found.
type figures struct {
	before, during time.Duration // the median of the turns' p99
	again          float64       // of the turns before, every other one to the rest: what the machine does by itself
	own            time.Duration // of the sidecar's part during the attack, p90
	ownBefore      time.Duration
	added          time.Duration // by the attack to the sidecar's part, p99
	pairs          int
}

// ratio is what the attack does to others. Nobody's network is faster than the
// least that counts as before.
func (f figures) ratio() float64 { return float64(f.during) / float64(max(f.before, leastP99)) }

// sidecars is the same if only the sidecar's work for others had been added to
// what was: without the processors that attackers, apps and kernels take from
// somebody else's, in this process.
func (f figures) sidecars() float64 {
	before := max(f.before, leastP99)
	return float64(before+f.added) / float64(before)
}

const leastP99 = 300 * time.Microsecond

// judge has turns without and with the attack, and compares their medians.
func (s *siege) judge(attack func() (end func())) (f figures) {
	s.Helper()
	turn, pairs := 100, 15
	switch n, err := strconv.Atoi(os.Getenv("TUNPROXY_JUDGE")); {
	case err != nil:
		turn, pairs = 50, 2
	case n > 1:
		pairs = n
	}
	var before, during []time.Duration
	var own, ownBefore []time.Duration
	for f.pairs < pairs {
		s.own.take()
		before = append(before, percentile(s.asker.ask(turn), 99))
		ownBefore = append(ownBefore, s.own.take()...)
		end := attack()
		during = append(during, percentile(s.asker.ask(turn), 99))
		own = append(own, s.own.take()...)
		end()
		s.gone()
		f.pairs++
		f.before, f.during = percentile(before, 50), percentile(during, 50)
		var halves [2][]time.Duration
		for i, d := range before {
			halves[i%2] = append(halves[i%2], d)
		}
		a, b := percentile(halves[0], 50), percentile(halves[1], 50)
		f.again = float64(max(a, b)) / float64(max(min(a, b), 1))
	}
	f.own, f.ownBefore = percentile(own, 90), percentile(ownBefore, 90)
	f.added = max(percentile(own, 99)-percentile(ownBefore, 99), 0)
	if len(own) == 0 || len(ownBefore) == 0 {
		s.Error("the sidecar's own part was not measured")
	}
	return f
}

// gone waits until only somebody else is left. A reset of the attacker's that
// was lost on the way is not waited for: connections that say nothing cost no time.
func (s *siege) gone() {
	left := func() float64 { return s.b.metric("tcp_open_connections", `direction="inbound"`, `peer="src"`) }
	stay := max(s.staying, 1)
	for end := time.Now().Add(2 * time.Second); left() > stay; {
		if time.Now().After(end) {
			s.Logf("%v connections are left: resets ignored %v, invalid segments %v, dropped as too many %v, packets that found no room %v", left()-stay,
				s.b.metric("netstack_drops_total", `reason="reset_ignored"`), s.b.metric("netstack_tcp_invalid_segments_total"),
				s.b.metric("netstack_drops_total", `reason="inbox_limit"`), s.b.metric("netstack_tcp_queue_drops_total"))
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// kernels is what those of the attacker and of the apps hold in their buffers,
// in this process, too.
func (s *siege) kernels() int64 {
	return s.out.stack.Counters().Held + s.b.stack.Counters().Held
}

// heap is the bytes of objects, without stopping anybody.
func heap() int64 {
	m := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(m)
	return int64(m[0].Value.Uint64())
}

// every calls f on the host's loop again and again; stop returns when it is over.
func (h *host) every(d time.Duration, f func()) (stop func()) {
	loop, over := h.stack.Loops()[0], false
	var tick func()
	tick = func() {
		if over {
			return
		}
		f()
		loop.AfterFunc(d, tick)
	}
	loop.Post(tick)
	return func() {
		done := make(chan struct{})
		loop.Post(func() {
			over = true
			close(done)
		})
		<-done
	}
}
