package netstack_test

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// TestPacketsOnTheOtherQueue: a connection stays on the loop that got its SYN,
// whichever queue its packets come from.
func TestPacketsOnTheOtherQueue(t *testing.T) {
	conns := make(chan aio.Conn, 1)
	w := newWatcher()
	var other [2]*memlink.End // the second queue's far ends
	r := newRaw(t, acceptor(w, conns), func(c *netstack.Config) {
		for side, devs := range []*[]netstack.Device{&c.App, &c.Wire} {
			a, b, err := memlink.Pair()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() })
			*devs = append((*devs)[:1:1], a)
			other[side] = b
		}
	})
	next := r.connect(aio.App, client4, at(server4, 80))
	c := <-conns
	if c.Loop() != r.stack.Loops()[0] {
		t.Fatal("not the loop that got the SYN")
	}
	next.payload = []byte("elsewhere")
	if err := other[aio.App].Write(&tun.Header{Flags: tun.NeedsChecksum}, [][]byte{next.packet()}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() (ok bool) {
		r.on(func() { ok = w.data.String() == "elsewhere" })
		return ok
	})
	if got := r.want(aio.App); got.ack != 1001+9 {
		t.Errorf("acknowledged with %+v", got)
	}
	if n := r.stack.Counters().App.Resets; n != 0 {
		t.Errorf("%d resets", n)
	}
	// Dials of the two loops never share a port.
	ports := make(chan netip.AddrPort, 2)
	for i, l := range r.stack.Loops() {
		l.Post(func() {
			l.Dial(aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(pod4, 0), Dst: at(server4, 80), Timeout: 50 * time.Millisecond, Done: func(aio.Conn, error) {}})
		})
		from := r.far[aio.Wire]
		if i == 1 {
			from = other[aio.Wire]
		}
		one := &raw{t: t, far: [2]*memlink.End{nil, from}}
		ports <- one.want(aio.Wire).src
	}
	if a, b := <-ports, <-ports; a.Port() >= 40768 || b.Port() < 40768 {
		t.Errorf("ports %d and %d are not of each loop's share", a.Port(), b.Port())
	}
	r.on(c.Reset)
}

func TestSpinning(t *testing.T) {
	w := newWorld(t, through, serve(echo), tune(func(c *netstack.Config) { c.Spin = 20 * time.Microsecond }))
	c := w.dial(at(server4, 80))
	for range 100 {
		ping(t, c, 128)
	}
}

// A loop that sleeps unseen wakes for packets, timers and what is posted, and
// gives way to whoever stops the world.
func TestUnseenSleep(t *testing.T) {
	w := newWorld(t, through, serve(echo), tune(func(c *netstack.Config) { c.Unseen = 9 * time.Millisecond }))
	c := w.dial(at(server4, 80))
	for range 20 {
		ping(t, c, 128)
		runtime.GC()
	}
}

// Who posts again each time it runs leaves packets their turn, and so does who
// sets a timer that is due at once.
func TestPostedWorkLeavesPacketsTheirTurn(t *testing.T) {
	w := newWorld(t, through, serve(echo))
	c := w.dial(at(server4, 80))
	l := w.hop.Loops()[0]
	over := make(chan struct{})
	defer close(over)
	ended := func() bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	}
	var post, due func()
	post = func() {
		if !ended() {
			l.Post(post)
		}
	}
	due = func() {
		if !ended() {
			l.AfterFunc(0, due)
		}
	}
	for _, begin := range []func(){post, due} {
		l.Post(begin)
		for range 20 {
			ping(t, c, 128)
		}
	}
}
