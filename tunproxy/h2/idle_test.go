package h2

import (
	"runtime"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestIdleMemory: what a pair of connections holds after each was used once and
// fell idle. Buffers belong to the loop's Memory, not to connections.
func TestIdleMemory(t *testing.T) {
	const pairs = 500
	loop := aiotest.NewLoop()
	cfg := Config{Memory: NewMemory(), Counters: new(Counters), Keepalive: Keepalive{Interval: -1}}
	keep := make([]any, 0, 4*pairs)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range pairs {
		a, b := aiotest.Pipe(loop, 0)
		server := NewServer(b, cfg, func(s message.Stream) {
			s.SetReceiver(&recorder{onEnd: func(s message.Stream) { s.SendHead(&message.Head{Status: 200}, true) }})
		})
		client := NewClient(a, cfg)
		s, err := client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		s.SetReceiver(&recorder{})
		s.SendHead(get("/"), true)
		loop.Run(t)
		keep = append(keep, a, b, server, client)
	}
	loop.Advance(t, time.Minute)
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := (after.HeapAlloc - before.HeapAlloc) / (2 * pairs)
	t.Logf("%d bytes of heap per idle connection, the fake transport included", per)
	if per > 4<<10 {
		t.Errorf("%d bytes of heap per idle connection, at most 4096 are good", per)
	}
	runtime.KeepAlive(keep)
}
