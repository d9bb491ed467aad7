package main

import (
	"context"
	"runtime"
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
	// gcOften is how soon after its last time the collector must run for the room to
	// grow, and gcSeldom how long it must not have run for the room to shrink. A
	// second of requests makes no more than a few megabytes.
	gcOften, gcSeldom = 300 * time.Millisecond, time.Second
	// gcStep is the change that is worth stopping the process for a moment.
	gcStep = 5
	// gcIdle is how long the collector must not have run until it is asked to, and to
	// give back what is free, if the process keeps more than gcLarge: thousands of
	// connections that ended left it behind, and the runtime's own two minutes, after
	// which it gives back slowly, are long for a node that needs it. Requests make so
	// little garbage that a busy process may have nothing to collect for as long; with
	// ten thousand endpoints this costs it a thousandth of a processor.
	gcIdle  = 30 * time.Second
	gcLarge = 16 << 20
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
	ran     time.Time // the collector's last time
	live    []metrics.Sample
	kept    []metrics.Sample // all that is mapped, and what of it was given back
}

func newCollector(now time.Time) *collector {
	return &collector{
		percent: gcPercent, room: gcRoom, ran: now,
		live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}},
		kept: []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}},
	}
}

// collected notes that the runtime's collector ran. Who floods is not waited for: each
// time costs others, and the room is as large as it has to be after some of them.
func (c *collector) collected(now time.Time) {
	since := now.Sub(c.ran)
	c.ran = now
	if room := grown(c.room, since); room != c.room {
		c.room = room
		c.fit()
	}
}

// tick keeps the room in proportion while the collector does not run, and the process
// small when it has nothing to do.
func (c *collector) tick(now time.Time) {
	if now.Sub(c.ran) >= gcIdle && c.keeps() > gcLarge {
		debug.FreeOSMemory() // and that the collector ran is heard of as always
	}
	c.room = shrunk(c.room, now.Sub(c.ran))
	c.fit()
}

// keeps is how much memory the runtime has of the kernel, in bytes.
func (c *collector) keeps() uint64 {
	metrics.Read(c.kept)
	for _, s := range c.kept {
		if s.Value.Kind() != metrics.KindUint64 {
			return 0
		}
	}
	return c.kept[0].Value.Uint64() - c.kept[1].Value.Uint64()
}

// fit sets the room, if that changes much.
func (c *collector) fit() {
	metrics.Read(c.live)
	if c.live[0].Value.Kind() != metrics.KindUint64 {
		return
	}
	if next := percentFor(c.live[0].Value.Uint64(), c.room); next != c.percent {
		debug.SetGCPercent(next)
		c.percent = next
	}
}

// grown is the room after the collector ran, that long after its last time.
func grown(room uint64, since time.Duration) uint64 {
	if since < gcOften {
		return min(2*room, gcMost)
	}
	return room
}

// shrunk is the room when the collector has not run for that long.
func shrunk(room uint64, since time.Duration) uint64 {
	if since > gcSeldom {
		return max(room/2, gcRoom)
	}
	return room
}

// collections tells, until ctx ends, that the runtime's collector ran: that is when
// it finds an object that nobody needs.
func collections(ctx context.Context) <-chan struct{} {
	ran := make(chan struct{}, 1)
	type unneeded struct{ _ *int } // with a pointer: those without share memory
	var found func(*unneeded)
	found = func(u *unneeded) {
		if ctx.Err() != nil {
			return
		}
		select {
		case ran <- struct{}{}:
		default: // whoever listens has not heard of the last one
		}
		runtime.SetFinalizer(u, found)
	}
	runtime.SetFinalizer(new(unneeded), found)
	return ran
}
