package netstack_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// TestAPathThatSwallowsLargePackets: nobody says that they were too large; bytes
// arrive all the same, and paths that take them are left alone.
func TestAPathThatSwallowsLargePackets(t *testing.T) {
	for _, dst := range []netip.Addr{server4, server6} {
		w := newWorld(t, through, serve(echo))
		before := w.dial(at(dst, 80))
		ping(t, before, 100_000)
		w.wireEnd.SetTap(func(h tun.Header, p []byte) (memlink.Verdict, error) {
			size := len(p)
			if h.GSOType != 0 {
				size = min(size, int(h.HeaderLen)+int(h.GSOSize))
			}
			if size > 1280 {
				return memlink.Lose, nil
			}
			return memlink.Pass, nil
		})
		start := time.Now()
		ping(t, before, 100_000) // an open connection
		ping(t, w.dial(at(dst, 80)), 1<<20)
		t.Logf("%v: %v", dst, time.Since(start))
		if n := w.hop.Counters().Wire.Narrowed; n != 2 {
			t.Errorf("%v: %d connections were narrowed, want 2", dst, n)
		}
		w.wireEnd.SetTap(nil)
		ping(t, w.dial(at(dst, 80)), 1<<20)
		if n := w.hop.Counters().Wire.Narrowed; n != 2 {
			t.Errorf("%v: a path that takes everything was narrowed too (%d)", dst, n)
		}
	}
}

// TestWhatIsSmallIsNotNarrowed: what is small is not the reason.
func TestWhatIsSmallIsNotNarrowed(t *testing.T) {
	w := newWorld(t, through, serve(echo))
	c := w.dial(at(server4, 80))
	ping(t, c, 100)
	w.wireEnd.SetTap(func(tun.Header, []byte) (memlink.Verdict, error) { return memlink.Lose, nil })
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); w.hop.Counters().TCP.Timeouts < 4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the segment was not sent again four times")
		}
	}
	if n := w.hop.Counters().Wire.Narrowed; n != 0 {
		t.Errorf("%d connections were narrowed", n)
	}
}
