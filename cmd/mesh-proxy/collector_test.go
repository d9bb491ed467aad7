package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestRoomForGarbage(t *testing.T) {
	for live, want := range map[uint64]int{0: 50, 1 << 20: 50, 8 << 20: 50, 10 << 20: 40, 14 << 20: 25, 20 << 20: 20, 1 << 30: 20} {
		if got := percentFor(live, gcRoom); got != want {
			t.Errorf("%d MB live: %d %%, want %d", live>>20, got, want)
		}
	}
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 4 << 20: 800, 32 << 20: 100, 64 << 20: 50, 1 << 30: 20} {
		if got := percentFor(live, gcMost); got != want {
			t.Errorf("%d MB live, and much garbage: %d %%, want %d", live>>20, got, want)
		}
	}
}

func TestRoomFollowsHowMuchGarbageIsMade(t *testing.T) {
	room := uint64(gcRoom)
	for _, step := range []struct {
		cycles uint64
		in     time.Duration
		want   uint64
	}{
		{0, time.Second, gcRoom},
		{10, time.Second, gcRoom}, // now and then is not often
		{11, time.Second, 2 * gcRoom},
		{110, 10 * time.Second, 4 * gcRoom},
		{3, time.Second, 4 * gcRoom},
		{100, time.Second, gcMost},
		{100, time.Second, gcMost},
		{0, 0, gcMost / 2}, // a clock that stands
		{0, time.Second, gcRoom * 2},
		{0, time.Second, gcRoom},
		{0, time.Second, gcRoom},
	} {
		if room = roomFor(room, step.cycles, step.in); room != step.want {
			t.Fatalf("%d in %v: %d, want %d", step.cycles, step.in, room, step.want)
		}
	}
}

func TestTheCollectorFollowsTheHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	now := time.Now()
	c := newCollector(now)
	heap := make([]byte, 20<<20)
	runtime.GC()
	c.fit(now.Add(time.Hour))
	if set := debug.SetGCPercent(gcPercent); c.percent != gcLeast || set != gcLeast {
		t.Errorf("a large heap: %d %%, and %d is set", c.percent, set)
	}
	debug.SetGCPercent(c.percent)
	runtime.KeepAlive(heap)
	runtime.GC()
	c.fit(now.Add(2 * time.Hour))
	if set := debug.SetGCPercent(gcPercent); c.percent != gcPercent || set != gcPercent {
		t.Errorf("a small heap: %d %%, and %d is set", c.percent, set)
	}
	// Much garbage in no time at all: it is collected many times.
	var kept []byte
	for range 300 {
		kept = make([]byte, 1<<20)
	}
	runtime.KeepAlive(kept)
	c.fit(now.Add(2*time.Hour + time.Second))
	if c.room != 2*gcRoom || c.percent != 200 {
		t.Errorf("much garbage: room for %d, %d %%", c.room, c.percent)
	}
}
