package h1

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestSlowBodies: what was announced has to come at a rate, whatever a byte now
// and then wants to say; what was not may come when it likes.
func TestSlowBodies(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, c := range []struct {
		name, start, piece string
		every              time.Duration
		dies               bool
	}{
		{"a byte a second", head + "Content-Length: 1000\r\n\r\n", "x", time.Second, true},
		{"nothing", head + "Content-Length: 1000\r\n\r\n", "", time.Second, true},
		{"a byte a second of a chunk", head + "Transfer-Encoding: chunked\r\n\r\n3e8\r\n", "x", time.Second, true},
		{"a byte a second of an extension", head + "Transfer-Encoding: chunked\r\n\r\n3e8;a", "x", time.Second, true},
		{"a byte a second of trailers", head + "Transfer-Encoding: chunked\r\n\r\n0\r\na: ", "x", time.Second, true},
		{"300 bytes a second", head + "Content-Length: 1000000\r\n\r\n", strings.Repeat("x", 300), time.Second, false},
		{"bursts with rests", head + "Content-Length: 1000000\r\n\r\n", strings.Repeat("x", 7000), 28 * time.Second, false},
		{"small chunks with long rests", head + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", 4 * time.Minute, false},
		{"asked to go on after a while", head + "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n", "", time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var count Counters
			v := serve(t, Config{Counters: &count}, nil)
			v.put(c.start)
			for range 100 {
				if len(v.closed) > 0 || v.client.EOF() {
					break
				}
				v.loop.Advance(t, c.every)
				v.put(c.piece)
			}
			answer := v.take()
			if dead := strings.HasPrefix(answer, "HTTP/1.1 408 "); dead != c.dies || v.logs[0].aborted != c.dies {
				t.Errorf("answered %q, aborted %v", answer, v.logs[0].aborted)
			}
			if n := count.SlowBodies.Load(); n == 1 != c.dies {
				t.Errorf("%d counted", n)
			}
		})
	}
}

// TestASlowServerIsNotTheClientsFault: while the receiver holds a body up its
// sender can't go on, for as long as that takes.
func TestASlowServerIsNotTheClientsFault(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.setup = func(l *log) { l.keep = true }
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 200<<10))
	v.loop.Advance(t, time.Hour)
	if v.logs[0].aborted {
		t.Fatal("given up")
	}
	l := v.logs[0]
	l.keep = false
	l.stream.Consumed(len(l.body))
	v.loop.Advance(t, 20*time.Second)
	if l.aborted || len(l.body) != 200<<10 {
		t.Fatalf("%d bytes came through", len(l.body))
	}
	v.loop.Advance(t, time.Minute)
	if !l.aborted {
		t.Error("and then the client was waited for without end")
	}
}

// TestSlowReaders: who takes a byte now and then is as slow as who takes none;
// bytes of another protocol may rest.
func TestSlowReaders(t *testing.T) {
	for _, c := range []struct {
		name    string
		request string
		head    *message.Head
		takes   int // a minute
		dies    bool
	}{
		{"nothing is taken", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ok(3 << 20), 0, true},
		{"a trickle", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ok(3 << 20), 1000, true},
		{"slow and steady", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ok(3 << 20), 15000, false},
		{"another protocol", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", &message.Head{Status: 101, Fields: []message.Field{{Name: "Upgrade", Value: "x"}}, Upgrade: true, ContentLength: -1}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var count Counters
			v := serve(t, Config{Counters: &count}, nil)
			v.setup = func(l *log) {
				l.onHead = func(s message.Stream, _ *message.Head, _ bool) {
					s.SendHead(c.head, false)
					s.SendData(make([]byte, 3<<20), false)
				}
			}
			v.put(c.request)
			buf := make([]byte, 15000)
			for range 20 {
				v.loop.Advance(t, time.Minute)
				_, _ = v.client.Read(buf[:c.takes])
				v.loop.Run(t)
			}
			if dead := len(v.closed) > 0; dead != c.dies || count.SlowReaders.Load() == 1 != c.dies {
				t.Errorf("closed %v, counted %d", v.closed, count.SlowReaders.Load())
			}
		})
	}
}

// TestHeldBytes: a client that does not read what was made for it holds no more
// than is free, and what it held is given back.
func TestHeldBytes(t *testing.T) {
	var count Counters
	buffers := NewBuffers()
	buffers.Bound = memory.NewBound(1 << 20)
	v := serve(t, Config{Buffers: buffers, Counters: &count}, nil)
	v.setup = func(l *log) {
		l.onHead = func(s message.Stream, _ *message.Head, _ bool) { s.SendHead(ok(-1), false) }
	}
	v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	v.take()
	n := 0
	for ; len(v.closed) == 0 && n < 1000; n++ {
		v.logs[0].stream.SendData(make([]byte, 10_000), false)
		v.loop.Run(t)
	}
	// Half of the bound, and what the transport's buffer takes.
	if sent := n * 10_000; sent < 512<<10 || sent > 600<<10+1<<20 || !errors.Is(v.logs[0].err, ErrMemory) {
		t.Errorf("closed after %d bytes: %v", n*10_000, v.logs[0].err)
	}
	if count.Shed.Load() != 1 || buffers.Bound.Hits() != 1 || buffers.Bound.Held() != 0 {
		t.Errorf("%d shed, %d hits, %d held", count.Shed.Load(), buffers.Bound.Hits(), buffers.Bound.Held())
	}
}

// TestTightWindow: while others hold much, less is read ahead, and a body goes
// through all the same.
func TestTightWindow(t *testing.T) {
	buffers := NewBuffers()
	buffers.Bound = memory.NewBound(1 << 20)
	v := serve(t, Config{Buffers: buffers}, nil)
	v.setup = func(l *log) { l.keep = true }
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 30_000))
	l := v.logs[0]
	buffers.Bound.Hold(600 << 10)
	v.put(strings.Repeat("x", 170_000))
	if len(l.body) > 48<<10 {
		t.Errorf("%d bytes were read ahead", len(l.body))
	}
	for done := 0; done < 200_000; {
		n := min(len(l.body)-done, 1000)
		if n == 0 {
			t.Fatalf("stuck at %d bytes", done)
		}
		done += n
		l.stream.Consumed(n)
		v.loop.Run(t)
		if ahead := len(l.body) - done; ahead > 48<<10 {
			t.Fatalf("%d bytes were read ahead", ahead)
		}
	}
	if !l.ended {
		t.Error("the body did not end")
	}
}
