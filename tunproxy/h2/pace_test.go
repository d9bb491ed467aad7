package h2

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// quiet is a connection without PINGs: the tests let hours pass.
func quiet() Config { return Config{Keepalive: Keepalive{Interval: -1}} }

// TestSlowBodies: what was announced has to come; between the frames of a body
// that nobody measured, silence is a stream's right.
func TestSlowBodies(t *testing.T) {
	p := rawClient(t, quiet(), nil)
	p.headers(1, false, append(postFields[:8:8], "content-length", "1000")...)
	p.headers(3, false, postFields...)
	p.headers(5, false, append(postFields[:8:8], "content-type", "application/grpc")...)
	p.headers(7, false, append(postFields[:8:8], "content-length", "100000")...)
	for range 29 { // a byte now and then does not help
		p.send(frame.AppendData(nil, 1, []byte("x"), false))
		p.send(frame.AppendData(nil, 7, make([]byte, 300), false))
		p.loop.Advance(t, time.Second)
	}
	p.want()
	p.send(frame.AppendData(nil, 7, make([]byte, 300), false))
	p.loop.Advance(t, 2*time.Second)
	p.want("RST_STREAM 1 11")
	if r := p.got[0]; !r.aborted || r.err == nil {
		t.Errorf("%+v", r)
	}
	for range 100 {
		p.send(frame.AppendData(nil, 7, make([]byte, 6000/20), false))
		p.loop.Advance(t, time.Second)
	}
	p.frames()
	if len(p.closed) > 0 || p.got[1].aborted || p.got[2].aborted || p.got[3].aborted {
		t.Errorf("closed %v; idle %v, gRPC %v, steady %v", p.closed, p.got[1].aborted, p.got[2].aborted, p.got[3].aborted)
	}
	if n := p.count.SlowBodies.Load(); n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

// TestASlowServerIsNotTheClientsFault: while the receiver holds a body up, its
// sender may wait for ever.
func TestASlowServerIsNotTheClientsFault(t *testing.T) {
	p := rawClient(t, quiet(), func(message.Stream) *recorder { return &recorder{lazy: true} })
	p.headers(1, false, append(postFields[:8:8], "content-length", "100000")...)
	p.send(frame.AppendData(nil, 1, make([]byte, 16000), false))
	p.loop.Advance(t, 10*time.Minute)
	if p.got[0].aborted {
		t.Fatal("a body was given up while the server did not take it")
	}
	p.server.streams.get(1).Consumed(16000)
	p.loop.Advance(t, time.Minute)
	if !p.got[0].aborted {
		t.Error("and then the client was waited for without end")
	}
}

// TestSlowFrames: a DATA frame that was begun has to come, too.
func TestSlowFrames(t *testing.T) {
	p := rawClient(t, quiet(), nil)
	p.headers(1, false, append(postFields[:8:8], "content-type", "application/grpc")...)
	whole := frame.AppendData(nil, 1, make([]byte, 16000), false)
	for i := range 16 { // 600 bytes at a time is a pace
		p.send(whole[i*1000:][:1000])
		p.loop.Advance(t, 3*time.Second)
	}
	p.send(whole[16000:])
	p.loop.Advance(t, time.Hour)
	if len(p.closed) > 0 {
		t.Fatalf("closed %v by a frame that came steadily, or by silence after it", p.closed)
	}
	for i := range 100 {
		p.send(whole[i:][:1])
		p.loop.Advance(t, time.Second)
	}
	if len(p.closed) != 1 || p.count.SlowFrames.Load() != 1 {
		t.Errorf("closed %v, counted %d", p.closed, p.count.SlowFrames.Load())
	}
}

// TestSlowReaders: a response that its client does not take is given up, but
// gRPC's clients may rest.
func TestSlowReaders(t *testing.T) {
	var streams []message.Stream
	p := rawClient(t, quiet(), func(s message.Stream) *recorder {
		streams = append(streams, s)
		return &recorder{onHead: func(s message.Stream, _ *message.Head, _ bool) {
			s.SendHead(&message.Head{Status: 200, ContentLength: -1}, false)
		}}
	})
	p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 0}))
	p.headers(1, true, getFields...)
	p.headers(3, true, append(getFields[:8:8], "content-type", "application/grpc+proto")...)
	p.headers(5, true, getFields...)
	p.headers(7, true, getFields...)
	for _, s := range streams[:3] {
		s.SendData(make([]byte, 1<<20), true)
	}
	p.loop.Run(t)
	for range 11 {
		p.send(frame.AppendWindowUpdate(nil, 1, 10))     // a trickle
		p.send(frame.AppendWindowUpdate(nil, 5, 240*60)) // 240 bytes a second
		p.send(frame.AppendWindowUpdate(nil, 0, 240*70))
		p.loop.Advance(t, time.Minute)
	}
	if !p.find("RST_STREAM 1 11") {
		t.Error("a trickle kept a response for ever")
	}
	if !p.got[0].aborted || p.got[1].aborted || p.got[2].aborted || p.got[3].aborted || len(p.closed) > 0 {
		t.Errorf("trickle %v, gRPC %v, steady %v, silent %v, closed %v", p.got[0].aborted, p.got[1].aborted, p.got[2].aborted, p.got[3].aborted, p.closed)
	}
	if n := p.count.SlowReaders.Load(); n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

// TestSmallWindowsFlood: a window of a byte makes a frame of every byte.
func TestSmallWindowsFlood(t *testing.T) {
	p := rawClient(t, quiet(), func(message.Stream) *recorder {
		return &recorder{onHead: func(s message.Stream, _ *message.Head, _ bool) {
			s.SendHead(&message.Head{Status: 200, ContentLength: -1}, false)
			s.SendData(make([]byte, 1<<20), true)
		}}
	})
	p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 1}))
	p.headers(1, true, getFields...)
	n := 0
	for ; len(p.closed) == 0 && n < 10000; n++ {
		p.send(frame.AppendWindowUpdate(nil, 1, 1))
		p.frames()
	}
	if n < 2000 || n > 2200 || p.count.EmptyFloods.Load() != 1 {
		t.Errorf("ended after %d bytes: %v", n, p.closed)
	}
}

// TestTurns: what came in one go is parsed in turns, and all of it is, also when
// nothing more comes; the wait between turns is nobody's slowness.
func TestTurns(t *testing.T) {
	p := rawClient(t, quiet(), nil)
	p.headers(1, false, postFields...)
	var b []byte
	for range 5 * framesPerPass {
		b = frame.AppendData(b, 1, []byte("x"), false)
	}
	b = frame.AppendData(b, 1, nil, true)
	p.conn.Put(b[:len(b)-3])
	turns := 0
	for last := -1; ; turns++ {
		p.loop.Pass()
		n := p.got[0].body.Len()
		if n-last > framesPerPass+1 {
			t.Errorf("%d frames in one turn", n-last)
		}
		if n == last && n == 5*framesPerPass {
			break
		}
		last = n
		if turns > 100 {
			t.Fatalf("%d bytes arrived", n)
		}
	}
	if turns < 5 {
		t.Errorf("all in %d turns", turns)
	}
	p.send(b[len(b)-3:])
	if r := p.got[0]; !r.ended || p.server.in.waiting || p.server.due.frame != 0 {
		t.Errorf("ended %v, waits for a frame %v", r.ended, p.server.in.waiting)
	}
}

// TestOneTurnAPass: packets that come while a turn is over bring no other, in
// that pass or in those that follow.
func TestOneTurnAPass(t *testing.T) {
	p := rawClient(t, quiet(), nil)
	p.headers(1, false, postFields...)
	var b []byte
	const frames = 20 * framesPerPass
	for range frames {
		b = frame.AppendData(b, 1, []byte("x"), false)
	}
	for last := 0; last < frames; {
		n := min(len(b), 16<<10) // more frames than a turn has
		p.conn.Put(b[:n])
		b = b[n:]
		p.loop.Pass()
		got := p.got[0].body.Len()
		if got-last > framesPerPass {
			t.Fatalf("%d frames in one pass", got-last)
		}
		if len(b) == 0 && got == last {
			t.Fatalf("%d of %d frames arrived", got, frames)
		}
		last = got
	}
}

// TestTurnsOfMany: a pass has room for some turns, however many connections have
// more to say; each has its turn before another has two, and who comes with little
// waits for no more than those before him.
func TestTurnsOfMany(t *testing.T) {
	const peers, frames = 40, 3 * framesPerPass
	mem, loop := NewMemory(), aiotest.NewLoop()
	cfg := quiet()
	cfg.Memory = mem
	var ps []*rawPeer
	for range peers {
		p := rawClientOn(t, loop, cfg, nil)
		p.headers(1, false, postFields...)
		ps = append(ps, p)
	}
	late := rawClientOn(t, loop, cfg, nil)
	var b []byte
	for range frames {
		b = frame.AppendData(b, 1, []byte("x"), false)
	}
	for _, p := range ps {
		p.conn.Put(b)
	}
	passes, came := 0, 0
	for last := 0; ; passes++ {
		if passes == 1 {
			late.conn.Put(frame.AppendHeaders(nil, 1, late.block(getFields...), true, frame.MinMaxSize))
		}
		loop.Pass()
		all, least, most := 0, frames, 0
		for _, p := range ps {
			n := p.got[0].body.Len()
			all, least, most = all+n, min(least, n), max(most, n)
		}
		if all-last > turnsPerPass {
			t.Fatalf("%d frames in one pass", all-last)
		}
		if most-least > framesPerPass+1 {
			t.Fatalf("one connection had %d frames, another %d", most, least)
		}
		if came == 0 && len(late.got) > 0 {
			came = passes
		}
		if last = all; all == peers*frames {
			break
		}
		if passes > 200 {
			t.Fatalf("%d of %d frames arrived", all, peers*frames)
		}
	}
	if least := peers * frames / againsPerPass; passes < least-2 || passes > least+5 {
		t.Errorf("all in %d passes, not in about %d", passes, least)
	}
	if came != 1 {
		t.Errorf("the late one's turn came in pass %d", came)
	}
}

// TestTurnsOfFields: a turn is charged what header blocks decode to, not only
// their bytes; an ordinary head counts as before.
func TestTurnsOfFields(t *testing.T) {
	const acceptEncoding = 0x80 | 16 // 60 bytes of a list
	for _, c := range []struct{ fields, least, most int }{{10, 50, 64}, {30, 40, 64}, {200, 2, 2}, {500, 1, 1}} {
		p := rawClient(t, quiet(), nil)
		var b []byte
		requests := min(70, 2*maxLong/fieldCost/c.fields/3)
		for i := range requests {
			block := append(p.block(getFields...), bytes.Repeat([]byte{acceptEncoding}, c.fields)...)
			b = frame.AppendHeaders(b, uint32(1+2*i), block, true, frame.MinMaxSize)
		}
		p.conn.Put(b)
		p.loop.Pass()
		if n := len(p.got); n < c.least || n > c.most {
			t.Errorf("%d requests of %d fields in one turn, want %d to %d", n, c.fields, c.least, c.most)
		}
		if p.loop.Run(t); len(p.got) != requests || len(p.closed) > 0 {
			t.Errorf("%d of %d requests arrived: %v", len(p.got), requests, p.closed)
		}
	}
}

// TestShedding: when connections hold more than is free, it is the stream which
// holds most that goes, of the connection that holds most; and everything that
// was held is given back.
func TestShedding(t *testing.T) {
	const limit = 1 << 20
	mem := NewMemory()
	mem.Bound = memory.NewBound(limit)
	loop := aiotest.NewLoop()
	var count Counters
	newPeer := func() *rawPeer {
		p := rawClientOn(t, loop, Config{Memory: mem, Counters: &count, Keepalive: Keepalive{Interval: -1}}, func(message.Stream) *recorder {
			return &recorder{onHead: func(s message.Stream, h *message.Head, end bool) {
				if !end {
					return
				}
				n := 48_000
				if _, most := h.Get("x-most"); most {
					n = 50_000
				}
				s.SendHead(&message.Head{Status: 200, ContentLength: -1}, false)
				s.SendData(make([]byte, n), true)
			}}
		})
		p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 0}))
		return p
	}
	greedy, modest := newPeer(), newPeer()
	modest.headers(1, true, getFields...)
	peak := int64(0)
	for id := uint32(1); id < 200; id += 2 {
		if id == 15 { // the seventh asks for more than the others
			greedy.headers(id, true, append(getFields[:8:8], "x-most", "1")...)
		} else {
			greedy.headers(id, true, getFields...)
		}
		peak = max(peak, mem.Bound.Held())
	}
	if peak > limit/2+150<<10 {
		t.Errorf("%d bytes were held for one connection and a modest one, the bound is %d", peak, limit)
	}
	left := 0
	for _, r := range greedy.got {
		if !r.aborted {
			left++
		}
	}
	if left < 5 || left > 11 || !greedy.got[7].aborted {
		t.Errorf("%d streams are left; the one that held most was reset: %v", left, greedy.got[7].aborted)
	}
	if modest.got[0].aborted || count.Shed.Load() == 0 || mem.Bound.Hits() != count.Shed.Load() {
		t.Errorf("the modest one aborted: %v; %d shed, %d hits", modest.got[0].aborted, count.Shed.Load(), mem.Bound.Hits())
	}
	modest.headers(3, true, getFields...)
	if len(modest.got) != 2 || modest.got[1].aborted {
		t.Error("a newcomer found no room")
	}
	// Heads count, too: of a thousand large ones most are refused.
	before := len(greedy.got)
	for id := uint32(201); id < 1200; id += 2 {
		greedy.headers(id, false, append(postFields[:8:8], "x-large", strings.Repeat("x", 8000))...)
	}
	if held, n := mem.Bound.Held(), len(greedy.got)-before; held > limit*3/4 || n > 100 {
		t.Errorf("%d bytes are held, and %d large heads were taken", held, n)
	}
	greedy.server.Close()
	modest.server.Close()
	loop.Advance(t, time.Minute)
	if held := mem.Bound.Held(); held != 0 {
		t.Errorf("%d bytes are held by nobody", held)
	}
}
