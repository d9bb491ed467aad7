package measure

import (
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/result"
)

// counters begins to count what both halves of a pair allocate and execute; the
// returned function says it of each.
func (b *Bench) counters(p *peer.Peer) func([]result.Side) {
	var ends []func(*result.Side)
	for _, s := range p.Pair {
		ends = append(ends, b.counter(s))
	}
	return func(sides []result.Side) {
		for i, end := range ends {
			end(&sides[i])
		}
	}
}

func (b *Bench) counter(s peer.Sidecar) func(*result.Side) {
	var before peer.Said
	known := false
	if s.Tells != nil {
		before, known = s.Tells()
	}
	var hardware *proc.Counter
	if b.counts {
		if c, err := proc.Instructions(proc.Tree(s.PID())...); err == nil {
			hardware = c
		}
	}
	return func(side *result.Side) {
		if hardware != nil {
			if n, err := hardware.Read(); err == nil {
				side.Instructions = &n
			}
			hardware.Close()
		}
		if known {
			if after, ok := s.Tells(); ok {
				n := after.Allocs - before.Allocs
				side.Allocs, side.Series = &n, after.Series
			}
		}
	}
}
