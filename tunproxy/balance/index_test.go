package balance

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestIndex: it is as a map, whatever comes and goes, and its size follows.
func TestIndex(t *testing.T) {
	x, want := newIndex[int](), map[netip.AddrPort]*Member[int]{}
	rnd := rand.New(rand.NewPCG(1, 2))
	check := func(n int) {
		t.Helper()
		for i := range n {
			if got := x.get(addr(i)); got != want[addr(i)] {
				t.Fatalf("%d of %d: %v, want %v", i, n, got, want[addr(i)])
			}
		}
		if x.used != len(want) || 4*x.used > 3*len(x.slots) || len(x.slots) > 8*x.used+2 {
			t.Fatalf("%d in %d slots, want %d", x.used, len(x.slots), len(want))
		}
	}
	check(10)
	for _, n := range []int{1, 2, 3, 7, 20, 100, 5000, 30, 5, 1} {
		for range 4 * n { // about half of n are there
			m := &Member[int]{addr: addr(rnd.IntN(n))}
			if old := want[m.addr]; old != nil {
				x.remove(m) // another of the same address: no change
				x.remove(old)
				delete(want, m.addr)
				continue
			}
			x.add(m)
			want[m.addr] = m
		}
		for a, m := range want {
			if len(want) > n {
				x.remove(m)
				delete(want, a)
			}
		}
		check(5000)
	}
	for a, m := range want {
		x.remove(m)
		delete(want, a)
	}
	check(10)
}
