package netstack

import (
	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/link"
)

// Watcher hears of a packet on the loop that has it: one that was read on a side
// or, sent, written to it. A packet may be longer than the MTU and without a
// checksum where the kernel cuts it up and sums it. The parts, which are the
// packet one after the other, are borrowed; it must not block.
type Watcher func(side aio.Side, sent bool, parts [][]byte, size int)

// Watch has every packet of both sides shown from now on; nil: none. While there
// is none, that costs one load for each packet. It may be called at any time.
func (s *Stack) Watch(w Watcher) {
	for _, side := range sides {
		var f *link.Watcher
		if w != nil {
			one := link.Watcher(func(sent bool, parts [][]byte, size int) { w(side, sent, parts, size) })
			f = &one
		}
		for _, l := range s.loops {
			l.links[side].Watch.Store(f)
		}
	}
}
