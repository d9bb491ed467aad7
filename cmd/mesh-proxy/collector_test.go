package main

import (
	"bytes"
	"context"
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
		how   func(uint64, time.Duration) uint64
		since time.Duration
		want  uint64
	}{
		{grown, time.Second, gcRoom},
		{grown, gcOften, gcRoom}, // now and then is not often
		{grown, 299 * time.Millisecond, 2 * gcRoom},
		{shrunk, gcSeldom, 2 * gcRoom},
		{grown, 0, 4 * gcRoom},
		{grown, 0, gcMost},
		{grown, 0, gcMost},
		{shrunk, 1001 * time.Millisecond, gcMost / 2},
		{shrunk, time.Minute, gcMost / 4},
		{shrunk, time.Minute, gcRoom},
		{shrunk, time.Minute, gcRoom},
	} {
		if room = step.how(room, step.since); room != step.want {
			t.Fatalf("after %v: %d, want %d", step.since, room, step.want)
		}
	}
}

func TestTheCollectorFollowsTheHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	now := time.Now()
	c := newCollector(now)
	heap := make([]byte, 20<<20)
	runtime.GC()
	c.tick(now.Add(time.Hour))
	if set := debug.SetGCPercent(gcPercent); c.percent != gcLeast || set != gcLeast {
		t.Errorf("a large heap: %d %%, and %d is set", c.percent, set)
	}
	debug.SetGCPercent(c.percent)
	runtime.KeepAlive(heap)
	runtime.GC()
	c.tick(now.Add(2 * time.Hour))
	if set := debug.SetGCPercent(gcPercent); c.percent != gcPercent || set != gcPercent {
		t.Errorf("a small heap: %d %%, and %d is set", c.percent, set)
	}
	// Garbage comes fast: it was collected twice at once.
	c.collected(now.Add(3 * time.Hour))
	c.collected(now.Add(3*time.Hour + time.Millisecond))
	if set := debug.SetGCPercent(gcPercent); c.room != 2*gcRoom || c.percent != 200 || set != 200 {
		t.Errorf("much garbage: room for %d, %d %%, and %d is set", c.room, c.percent, set)
	}
}

// What ended connections left behind is given back once the collector had nothing to do
// for a while, and not before.
func TestMemoryIsGivenBackWhenIdle(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	now := time.Now()
	c := newCollector(now)
	heap := make([][]byte, 0, 1024)
	for range cap(heap) {
		heap = append(heap, bytes.Repeat([]byte{1}, 64<<10)) // 64 MB, all of them touched
	}
	runtime.GC()
	runtime.KeepAlive(heap)
	const half = 32 << 20
	before := c.keeps()
	c.tick(now.Add(gcIdle - time.Millisecond))
	if early := c.keeps(); early+half < before {
		t.Errorf("given back before it was time: %d MB, %d before", early>>20, before>>20)
	}
	c.tick(now.Add(gcIdle))
	if after := c.keeps(); after+half > before {
		t.Errorf("%d MB kept, %d before", after>>20, before>>20)
	}
	c.collected(now.Add(gcIdle)) // as it is heard of
	if c.room != gcRoom {
		t.Errorf("room for %d: giving back counts as much garbage", c.room)
	}
	if c.ran != now.Add(gcIdle) {
		t.Error("the next time is not as long after this one")
	}
}

// The collector is heard of each time that it runs, and not after the end.
func TestCollections(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ran := collections(ctx)
	for i := range 3 {
		runtime.GC()
		select {
		case <-ran:
		case <-time.After(10 * time.Second):
			t.Fatalf("time %d was not heard of", i+1)
		}
	}
	cancel()
	runtime.GC() // the last that may be heard of, if it or another began before
	time.Sleep(50 * time.Millisecond)
	select {
	case <-ran:
	default:
	}
	runtime.GC()
	time.Sleep(50 * time.Millisecond)
	select {
	case <-ran:
		t.Error("heard of after the end")
	default:
	}
}
