package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent trades a little CPU for memory: the live heap of an idle sidecar
	// is 1 MB, and Go's default would let it grow to 4 MB before collecting.
	gcPercent = 50
	// gcRoom is enough garbage for any heap: what is asked for on the request path
	// makes little, so that one which knows ten thousand endpoints need not be
	// half as large again. gcLeast keeps collecting large heaps cheap.
	gcRoom  = 4 << 20
	gcLeast = 20
	// gcMost is the room where garbage is made fast, by who opens thousands of
	// connections a second or sends heads of hundreds of fields: with gcRoom the
	// collector would run a hundred times a second, and others' requests wait for it.
	gcMost = 32 << 20
	// gcOften and gcSeldom are how often it runs a second for the room to grow, and
	// to shrink.
	gcOften, gcSeldom = 10, 2
	// gcStep is the change that is worth stopping the process for a moment.
	gcStep = 5
)

// smallHeap tunes the runtime for a process of a few megabytes.
func smallHeap() { debug.SetGCPercent(gcPercent) }

// percentFor is how much larger than live a heap may become with that room.
func percentFor(live, room uint64) int {
	most := uint64(gcPercent)
	if room > gcRoom {
		most = room * 100 / gcRoom // the runtime's least heap is 4 MB for 100 %
	}
	return int(min(max(room*100/max(live, 1)/gcStep*gcStep, gcLeast), most)) //nolint:gosec // a percentage
}

// collector fits the runtime's to the heap, and to how much garbage is made.
type collector struct {
	percent int // that is set
	room    uint64
	cycles  uint64 // seen
	at      time.Time
	samples [2]metrics.Sample
}

func newCollector(now time.Time) *collector {
	c := &collector{percent: gcPercent, room: gcRoom, at: now}
	c.samples[0].Name, c.samples[1].Name = "/gc/heap/live:bytes", "/gc/cycles/automatic:gc-cycles"
	_, c.cycles, _ = c.read()
	return c
}

func (c *collector) read() (live, cycles uint64, ok bool) {
	metrics.Read(c.samples[:])
	for _, s := range c.samples {
		if s.Value.Kind() != metrics.KindUint64 {
			return 0, 0, false
		}
	}
	return c.samples[0].Value.Uint64(), c.samples[1].Value.Uint64(), true
}

// fit keeps the room for garbage in proportion.
func (c *collector) fit(now time.Time) {
	live, cycles, ok := c.read()
	if !ok {
		return
	}
	c.room = roomFor(c.room, cycles-c.cycles, now.Sub(c.at))
	c.cycles, c.at = cycles, now
	if next := percentFor(live, c.room); next != c.percent {
		debug.SetGCPercent(next)
		c.percent = next
	}
}

// roomFor is the room after one in which the collector ran n times in that time.
func roomFor(room, n uint64, in time.Duration) uint64 {
	switch rate := float64(n) / max(in, time.Millisecond).Seconds(); {
	case rate > gcOften:
		return min(2*room, gcMost)
	case rate < gcSeldom:
		return max(room/2, gcRoom)
	}
	return room
}
