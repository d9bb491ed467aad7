package balance

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
)

// index finds members by address: a table of pointers, probed one after the other.
// A map would hold every address a second time.
type index[T any] struct {
	seed  maphash.Seed
	slots []*Member[T] // as many as a power of two, a quarter of them free at least
	used  int
}

func newIndex[T any]() index[T] { return index[T]{seed: maphash.MakeSeed()} }

// home is the slot that an address is looked for at first.
func (x *index[T]) home(a netip.AddrPort) int {
	return int(maphash.Comparable(x.seed, a) & uint64(len(x.slots)-1)) //nolint:gosec // below the length
}

// after is the slot behind i.
func (x *index[T]) after(i int) int { return (i + 1) & (len(x.slots) - 1) }

// slot is where the member with an address is, or else would be put.
func (x *index[T]) slot(a netip.AddrPort) int {
	i := x.home(a)
	for x.slots[i] != nil && x.slots[i].addr != a {
		i = x.after(i)
	}
	return i
}

// get is the member with an address, or nil.
func (x *index[T]) get(a netip.AddrPort) *Member[T] {
	if x.used == 0 {
		return nil
	}
	return x.slots[x.slot(a)]
}

// add puts in a member whose address is not there.
func (x *index[T]) add(m *Member[T]) {
	x.used++
	x.fit()
	x.slots[x.slot(m.addr)] = m
}

// remove takes a member out, if it is there.
func (x *index[T]) remove(m *Member[T]) {
	if x.get(m.addr) != m {
		return
	}
	free := x.slot(m.addr)
	// Those behind it that would be looked for at the free slot move there.
	for i := x.after(free); x.slots[i] != nil; i = x.after(i) {
		mask := len(x.slots) - 1
		if (i-x.home(x.slots[i].addr))&mask >= (i-free)&mask {
			x.slots[free], free = x.slots[i], i
		}
	}
	x.slots[free] = nil
	x.used--
	x.fit()
}

// fit makes the table larger or smaller when it has to be.
func (x *index[T]) fit() {
	if n := len(x.slots); 4*x.used <= 3*n && 8*x.used >= n {
		return
	}
	old := x.slots
	x.slots = make([]*Member[T], 1<<bits.Len(uint(x.used*4/3+1))) //nolint:gosec // never negative
	for _, m := range old {
		if m != nil {
			x.slots[x.slot(m.addr)] = m
		}
	}
}
