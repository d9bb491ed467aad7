package netstack

import (
	"net/netip"
	"testing"
)

// Whoever was greedy before, a client that comes new finds a place.
func TestPlaces(t *testing.T) {
	const most = 1200
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	greedy := func(p *places, who netip.Addr) int {
		n := 0
		for p.take(who) == placed {
			n++
		}
		return n
	}
	p := newPlaces(most, true)
	for i, want := range []int{600, 300, 150, 75, 38, 19, 9, 5, 2, 1, 1} {
		if got := greedy(&p, client(i)); got != want {
			t.Errorf("greedy client %d got %d places, want %d", i, got, want)
		}
	}
	if got := p.take(client(99)); got != sideFull {
		t.Errorf("without a place: %v", got)
	}
	if got := p.take(client(0)); got != sideFull {
		t.Errorf("without a place: %v", got)
	}
	for range 600 {
		p.give(client(0))
	}
	if got := p.take(client(1)); got != placed {
		t.Errorf("300 of a client and 600 free: %v", got)
	}
	if got := greedy(&p, client(2)); got == 0 || p.take(client(2)) != clientsFull || p.take(client(100)) != placed {
		t.Errorf("a greedy client got %d and left nothing", got)
	}
	for c, n := range p.by {
		for range n {
			p.give(c)
		}
	}
	if p.used != 0 || len(p.by) != 0 {
		t.Errorf("%d places in use, %d clients remembered, after all have left", p.used, len(p.by))
	}

	p = newPlaces(most, false) // the pod is the app side's only client
	if got := greedy(&p, client(0)); got != most {
		t.Errorf("the only client got %d", got)
	}
}
