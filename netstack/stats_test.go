package netstack_test

import (
	"encoding/binary"
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
	// Of each connection another packet is lost: whether something is on its way
	// behind it, and out of order then, is a matter of timing.
	const conns = 8
	seen := map[uint16]int{}                                                 // packets with data, by the client's port
	w.wireEnd.SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) { // on the hop's loop only
		if len(p) > 1000 {
			port := binary.BigEndian.Uint16(p[20:])
			if seen[port]++; seen[port] == 1+len(seen) {
				return memlink.Lose, nil
			}
		}
		return memlink.Pass, nil
	})
	for range conns {
		c := w.dial(at(server4, 81))
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		go func() { _, _ = c.Write(make([]byte, 4<<20)) }() // ends with c
		defer c.Close()
	}
	waitFor(t, func() bool {
		far.mu.Lock()
		defer far.mu.Unlock()
		return len(far.conns) == conns
	})
	got := func() (sum aio.Stats) {
		for _, c := range far.conns {
			answer := make(chan aio.Stats, 1)
			c.Loop().Post(func() { answer <- c.Stats() })
			s := <-answer
			sum.OutOfOrder += s.OutOfOrder
			sum.ZeroWindows += s.ZeroWindows
			sum.Retransmits += s.Retransmits
			sum.DroppedMemory += s.DroppedMemory
		}
		return sum
	}
	waitForLong(t, 20*time.Second, func() bool { s := got(); return s.OutOfOrder > 0 && s.ZeroWindows > 0 })
	if s := got(); s.Retransmits != 0 || s.DroppedMemory != 0 {
		t.Errorf("who only received: %+v", s)
	}
	if w.hop.Counters().TCP.Retransmits == 0 {
		t.Error("nothing was sent again")
	}
}
