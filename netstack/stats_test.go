package netstack_test

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// TestStatsTellOfThePath: a connection says that segments were missing and that
// nobody read, and one that nothing happened to says nothing.
func TestStatsTellOfThePath(t *testing.T) {
	var far stalled
	w := newWorld(t, through, far.syn)
	quiet := w.dial(at(server4, 80))
	ping(t, quiet, 1000)
	n := 0
	w.wireEnd.SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) { // on the hop's loop only
		if len(p) > 1000 {
			if n++; n == 2 {
				return memlink.Lose, nil
			}
		}
		return memlink.Pass, nil
	})
	c := w.dial(at(server4, 81))
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	go func() { _, _ = c.Write(make([]byte, 4<<20)) }() // ends with c
	defer c.Close()
	waitFor(t, func() bool {
		far.mu.Lock()
		defer far.mu.Unlock()
		return len(far.conns) == 1
	})
	got := func() aio.Stats {
		answer := make(chan aio.Stats, 1)
		far.conns[0].Loop().Post(func() { answer <- far.conns[0].Stats() })
		return <-answer
	}
	waitForLong(t, 20*time.Second, func() bool { s := got(); return s.OutOfOrder > 0 && s.ZeroWindows > 0 })
	if s := got(); s.Retransmits != 0 || s.DroppedMemory != 0 {
		t.Errorf("who only received: %+v", s)
	}
	if w.hop.Counters().TCP.Retransmits == 0 {
		t.Error("nothing was sent again")
	}
}
