package h2

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestFloods: each flood ends the connection with ENHANCE_YOUR_CALM after its
// bound and is counted; what honest peers do in the same way goes on for ever.
func TestFloods(t *testing.T) {
	u32 := func(n int) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	counted := func(f func(c *Counters) *atomic.Uint64) func(*Counters) uint64 {
		return func(c *Counters) uint64 { return f(c).Load() }
	}
	resets := counted(func(c *Counters) *atomic.Uint64 { return &c.ResetFloods })
	control := counted(func(c *Counters) *atomic.Uint64 { return &c.ControlFloods })
	empty := counted(func(c *Counters) *atomic.Uint64 { return &c.EmptyFloods })
	id := uint32(1)
	opened := func(p *rawPeer, end bool) []byte {
		id += 2
		return frame.AppendHeaders(nil, id, p.block(postFields...), end, frame.MinMaxSize)
	}
	// madeYou opens a stream and then has us reset it.
	madeYou := func(b func(id uint32) []byte) func(*rawPeer) []byte {
		return func(p *rawPeer) []byte { return append(opened(p, false), b(id)...) }
	}
	for _, c := range []struct {
		name  string
		once  func(p *rawPeer) []byte
		bound int // frames or streams until the end
		count func(*Counters) uint64
	}{
		{"rapid reset", func(p *rawPeer) []byte { return frame.AppendRST(opened(p, true), id, message.Cancel) }, 1000, resets},
		{"MadeYouReset by a window of 0", madeYou(func(id uint32) []byte { return frame.AppendWindowUpdate(nil, id, 0) }), 1000, resets},
		{"MadeYouReset by a window overflow", madeYou(func(id uint32) []byte { return frame.AppendWindowUpdate(nil, id, frame.MaxWindow) }), 1000, resets},
		{"MadeYouReset by PRIORITY of a wrong length", madeYou(func(id uint32) []byte { return raw(frame.Priority, 0, id, "abc") }), 1000, control},
		{"MadeYouReset by self-dependency", madeYou(func(id uint32) []byte { return raw(frame.Priority, 0, id, u32(int(id))+"\x01") }), 1000, control},
		{"MadeYouReset by DATA after the end", func(p *rawPeer) []byte { return frame.AppendData(opened(p, true), id, []byte("x"), true) }, 1000, resets},
		{"MadeYouReset by HEADERS after the end", func(p *rawPeer) []byte {
			return append(opened(p, true), frame.AppendHeaders(nil, id, p.block("a", "b"), true, frame.MinMaxSize)...)
		}, 1000, resets},
		{"malformed requests", func(p *rawPeer) []byte {
			id += 2
			return frame.AppendHeaders(nil, id, p.block(":method", "GET"), true, frame.MinMaxSize)
		}, 1000, resets},
		{"DATA on streams that it reset", func(p *rawPeer) []byte {
			return frame.AppendData(frame.AppendRST(opened(p, false), id, message.Cancel), id, []byte("x"), false)
		}, 500, resets},
		{"streams beyond the limit", func(p *rawPeer) []byte { return opened(p, false) }, 1000 + 1000, resets},
		{"SETTINGS", func(*rawPeer) []byte { return frame.AppendSettings(nil) }, 1000, control},
		{"SETTINGS acknowledgements", func(*rawPeer) []byte { return frame.AppendSettingsAck(nil) }, 1000, control},
		{"PING", func(*rawPeer) []byte { return frame.AppendPing(nil, false, 1) }, 1000, control},
		{"PING answers", func(*rawPeer) []byte { return frame.AppendPing(nil, true, 1) }, 1000, control},
		{"PRIORITY", func(*rawPeer) []byte { return raw(frame.Priority, 0, 99, u32(1)+"\x01") }, 1000, control},
		{"unknown frames", func(*rawPeer) []byte { return raw(0x42, 0, 0, "") }, 1000, control},
		{"WINDOW_UPDATE", func(*rawPeer) []byte { return frame.AppendWindowUpdate(nil, 0, 1) }, 1000 + 1000, control},
		{"GOAWAY", func(*rawPeer) []byte { return frame.AppendGoAway(nil, 0, message.NoError, "") }, 1000, control},
		{"empty DATA", func(*rawPeer) []byte { return frame.AppendData(nil, 1, nil, false) }, 2000, empty},
		{"DATA of padding", func(*rawPeer) []byte { return raw(frame.Data, frame.Padded, 1, "\x02\x00\x00") }, 2000, empty},
	} {
		t.Run(c.name, func(t *testing.T) {
			id = 1
			p := rawClient(t, Config{}, nil)
			p.headers(1, false, postFields...)
			n := 0
			for len(p.closed) == 0 && n < 10000 {
				p.send(c.once(p))
				n++
				p.frames()
			}
			if n > c.bound+10 || n < c.bound {
				t.Errorf("ended after %d", n)
			}
			if len(p.closed) != 1 || c.count(&p.count) != 1 {
				t.Errorf("closed %v, counted %d", p.closed, c.count(&p.count))
			}
			for i, r := range p.got {
				if !r.aborted && !r.ended {
					t.Errorf("stream %d was forgotten", i)
				}
			}
			// The same at half the rate that is refilled: no harm.
			id = 1
			p = rawClient(t, Config{Limits: Limits{Resets: Rate{10, 200}, Control: Rate{10, 200}, Empty: Rate{10, 1000}}, MaxStreams: 1 << 20}, nil)
			p.headers(1, false, postFields...)
			for range 3000 {
				p.send(c.once(p))
				p.loop.Advance(t, 10*time.Millisecond)
				p.frames()
			}
			if len(p.closed) > 0 {
				t.Errorf("slow and steady: %v", p.closed)
			}
		})
	}
}

// TestHonestPings: gRPC measures bandwidth with a PING at every round trip that
// carries data.
func TestHonestPings(t *testing.T) {
	p := rawClient(t, Config{}, nil)
	p.headers(1, false, postFields...)
	for range 5000 {
		p.send(frame.AppendPing(frame.AppendData(nil, 1, []byte("x"), false), false, 7))
		p.frames()
	}
	if len(p.closed) > 0 {
		t.Error(p.closed)
	}
}

// TestHonestResets: cancelling what was answered, or what takes long, is
// everybody's right.
func TestHonestResets(t *testing.T) {
	p := rawClient(t, Config{}, func(message.Stream) *recorder {
		return &recorder{onHead: func(s message.Stream, h *message.Head, _ bool) {
			if h.Method == "GET" {
				s.SendHead(&message.Head{Status: 200}, false)
			}
		}}
	})
	id := uint32(1)
	for ; id < 6000; id += 2 {
		p.headers(id, true, getFields...)
		p.send(frame.AppendRST(nil, id, message.Cancel))
	}
	for range 5 {
		first := id
		for ; id < first+1500; id += 2 {
			p.headers(id, true, postFields...)
		}
		p.loop.Advance(t, time.Second)
		for ; first < id; first += 2 {
			p.send(frame.AppendRST(nil, first, message.Cancel))
		}
	}
	p.frames()
	if len(p.closed) > 0 || p.count.Resets.Load() != 3000+3750 {
		t.Errorf("closed %v after %d resets", p.closed, p.count.Resets.Load())
	}
}

// TestContinuationFlood: blocks that never end are cut off by count, by size,
// and cost no more memory than a header list may.
func TestContinuationFlood(t *testing.T) {
	for _, c := range []struct {
		name  string
		piece string
		bound int
	}{{"many", "\x00\x01a\x01b", 33}, {"empty", "", 33}, {"large", strings.Repeat("\x00\x01a\x01b", 3000), 6}} {
		p := rawClient(t, Config{}, nil)
		p.send(raw(frame.Headers, 1, 1, "\x82\x86\x84"))
		n := 0
		for len(p.closed) == 0 && n < 1000 {
			p.send(raw(frame.Continuation, 0, 1, c.piece))
			n++
		}
		if n > c.bound || p.count.ContinuationFloods.Load() != 1 || !p.find("GOAWAY 0 last=0 code=11") {
			t.Errorf("%s: ended after %d", c.name, n)
		}
	}
}

// TestHeaderList: too large a head is answered with 431; the connection lives.
func TestHeaderList(t *testing.T) {
	p := rawClient(t, Config{MaxHeaderList: 10000}, nil)
	p.headers(1, true, append(getFields[:8:8], "x-large", strings.Repeat("x", 9800))...)
	p.headers(3, false, append(postFields[:8:8], "x-large", strings.Repeat("x", 9900))...)
	p.want("HEADERS 1 status=431 content-length=0 end", "HEADERS 3 status=431 content-length=0 end", "RST_STREAM 3 0")
	p.send(frame.AppendData(nil, 3, []byte("on its way"), true))
	p.headers(5, true, append(getFields[:8:8], "x-large", strings.Repeat("x", 9700))...)
	if len(p.got) != 1 || len(p.closed) > 0 || p.count.Oversize.Load() != 2 {
		t.Errorf("%d requests, closed %v", len(p.got), p.closed)
	}
	p.headers(9, true, append(getFields[:8:8], slices.Repeat([]string{"x-many", "1"}, 10000/fieldShare+1)...)...)
	p.want("HEADERS 9 status=431 content-length=0 end")
	p.headers(11, true, append(getFields[:8:8], slices.Repeat([]string{"x-many", "1"}, 10000/fieldShare)...)...)
	if len(p.got) != 2 || len(p.closed) > 0 || p.count.Oversize.Load() != 3 {
		t.Errorf("%d requests, closed %v", len(p.got), p.closed)
	}
	p.headers(13, false, postFields...)
	p.headers(13, true, "x-large", strings.Repeat("x", 9970))
	p.want("RST_STREAM 13 11")

	c := rawServer(t, Config{MaxHeaderList: 10000})
	s, _ := c.client.OpenStream()
	r := &recorder{}
	s.SetReceiver(r)
	s.SendHead(get("/"), true)
	c.frames()
	c.headers(1, true, ":status", "200", "x-large", strings.Repeat("x", 10000))
	if !r.aborted || r.code != message.EnhanceYourCalm || r.err == nil || len(c.closed) > 0 {
		t.Errorf("%+v", r)
	}
}

// TestHPACKBomb: a small block of references to one large table entry.
func TestHPACKBomb(t *testing.T) {
	p := rawClient(t, Config{}, nil)
	plain := p.enc.Begin(nil)
	for i := 0; i < len(getFields); i += 2 {
		plain = p.enc.Append(plain, getFields[i], getFields[i+1], hpack.Without)
	}
	block := slices.Clone(plain)
	block = p.enc.Append(block, "x-bomb", strings.Repeat("b", 4000), hpack.Always)
	index := byte(0x80 | 62)
	block = append(block, bytes.Repeat([]byte{index}, 20)...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for id := uint32(1); id < 100; id += 2 { // somewhat too large
		p.send(frame.AppendHeaders(nil, id, block, true, frame.MinMaxSize))
		block = append(slices.Clone(plain), bytes.Repeat([]byte{index}, 20)...)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("%d bytes allocated", got)
	}
	if len(p.got) != 0 || p.count.Oversize.Load() != 50 || len(p.closed) > 0 {
		t.Errorf("%d requests, %d oversize, closed %v", len(p.got), p.count.Oversize.Load(), p.closed)
	}
	// Far too large: nobody honest does that.
	p.send(frame.AppendHeaders(nil, 101, append(slices.Clone(plain), bytes.Repeat([]byte{index}, 14000)...), true, frame.MinMaxSize))
	if p.count.Bombs.Load() != 1 || !p.find("GOAWAY 0 last=99 code=11") {
		t.Errorf("%d bombs, closed %v", p.count.Bombs.Load(), p.closed)
	}
}

// TestUnreadReplies: who provokes answers and does not read them is cut off.
func TestUnreadReplies(t *testing.T) {
	loop := aiotest.NewLoop()
	loop.Advance(t, time.Second)
	ours, theirs := aiotest.Pipe(loop, 1<<10)
	var count Counters
	var closed []error
	s := NewServer(ours, Config{
		Counters: &count, Limits: Limits{Control: Rate{1 << 30, 1}, Replies: 20 << 10},
		OnClosed: func(err error) { closed = append(closed, err) },
	}, func(message.Stream) {})
	theirs.Put(frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface))))
	loop.Run(t)
	n := 0
	for ; len(closed) == 0 && n < 10000; n++ {
		theirs.Put(frame.AppendPing(nil, false, uint64(n)))
		loop.Run(t)
		if u := s.Stats().Unsent; u > 22<<10 {
			t.Fatalf("%d bytes wait", u)
		}
	}
	if count.ReplyFloods.Load() != 1 || n > 1300 {
		t.Errorf("ended after %d: %v", n, closed)
	}
}

// TestUnreadResponses: a peer that opens streams, gets responses, resets the
// streams and never reads costs a bounded output.
func TestUnreadResponses(t *testing.T) {
	loop := aiotest.NewLoop()
	loop.Advance(t, time.Second)
	ours, theirs := aiotest.Pipe(loop, 1<<12)
	r := &recorder{onEnd: func(s message.Stream) {
		s.SendHead(&message.Head{Status: 200, Fields: []message.Field{{Name: "x-large", Value: strings.Repeat("{", 3000)}}}, false)
		s.SendData(make([]byte, 30000), true)
	}}
	s := NewServer(ours, Config{Limits: Limits{Resets: Rate{1 << 30, 1}}}, func(s message.Stream) { s.SetReceiver(&recorder{onEnd: r.onEnd}) })
	theirs.Put(frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface))))
	loop.Run(t)
	enc := hpack.NewEncoder(4096)
	for id := uint32(1); id < 20000; id += 2 {
		var block []byte
		for i := 0; i < 8; i += 2 {
			block = enc.Append(block, getFields[i], getFields[i+1], hpack.Auto)
		}
		theirs.Put(frame.AppendRST(frame.AppendHeaders(nil, id, block, true, frame.MinMaxSize), id, message.Cancel))
		loop.Run(t)
		if u := s.Stats().Unsent; u > 128<<10 || cap(s.out.buf) > 512<<10 {
			t.Fatalf("%d bytes wait in a buffer of %d", u, cap(s.out.buf))
		}
	}
	if st := s.Stats(); st.Open != 0 {
		t.Errorf("%+v", st)
	}
}

// TestInformationalFlood: 1xx heads that wait are bounded.
func TestInformationalFlood(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 1000)
	s, _ := w.open()
	s.SendHead(get("/"), true)
	w.run()
	w.cc.SetHandler(nil)
	down := w.streams[0]
	h := &message.Head{Status: 103, Fields: []message.Field{{Name: "link", Value: strings.Repeat("{", 4000)}}}
	for range 100 {
		down.SendHead(h, false)
	}
	w.run()
	if r := w.received[0]; !r.aborted || r.code != message.EnhanceYourCalm || r.err == nil {
		t.Errorf("%+v", r)
	}
}

// TestLongHeadsAtOnce: a connection has room for so many long heads; who sends more
// of them is told to come again, and who never stops is cut off. Requests with
// usual heads are none of it, and room is there again when they are over.
func TestLongHeadsAtOnce(t *testing.T) {
	p := rawClient(t, Config{MaxStreams: 10000, Limits: Limits{Resets: Rate{10, 20}}}, nil)
	long := slices.Clone(getFields[:8:8])
	for i := range 400 {
		long = append(long, fmt.Sprint("x-", i), "v")
	}
	const room = maxLong / ((400 - fieldsUsual) * fieldCost)
	id := uint32(1)
	for range room {
		p.headers(id, true, long...)
		id += 2
	}
	if st := p.server.Stats(); st.Open != room || p.count.Refused.Load() != 0 {
		t.Fatalf("%+v, %d refused", st, p.count.Refused.Load())
	}
	p.frames()
	p.headers(id, true, long...)
	p.want(fmt.Sprintf("RST_STREAM %d 7", id))
	usual := slices.Clone(getFields[:8:8])
	for i := range fieldsUsual {
		usual = append(usual, fmt.Sprint("x-", i), "v")
	}
	p.headers(id+2, true, usual...)
	if st := p.server.Stats(); st.Open != room+1 {
		t.Fatalf("%+v", st)
	}
	p.answer()
	p.frames()
	if p.server.long != 0 {
		t.Errorf("%d bytes are left of none", p.server.long)
	}
	p.headers(id+4, true, long...)
	if st := p.server.Stats(); st.Open != 1 {
		t.Errorf("%+v", st)
	}
	for id += 6; p.count.ResetFloods.Load() == 0; id += 2 {
		if id > 1000 {
			t.Fatal("who never stops is not cut off")
		}
		p.headers(id, true, long...)
	}
}

// TestManyStreams: 10,000 streams at once, none of which moves, on a server
// that allows them.
func TestManyStreams(t *testing.T) {
	p := rawClient(t, Config{MaxStreams: 10000}, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for id := uint32(1); id < 20000; id += 2 {
		p.headers(id, false, postFields...)
	}
	p.got = p.got[:len(p.got):len(p.got)]
	runtime.GC()
	runtime.ReadMemStats(&after)
	if st := p.server.Stats(); st.Open != 10000 {
		t.Errorf("%+v", st)
	}
	per := float64(after.HeapAlloc-before.HeapAlloc) / 10000
	t.Logf("%.0f bytes a stream, the test's own included", per)
	if per > 2500 {
		t.Errorf("%.0f bytes a stream", per)
	}
	// Windows of all change with one SETTINGS frame of many settings: one walk.
	var settings []frame.Setting
	for i := range 2000 {
		settings = append(settings, frame.Setting{ID: frame.InitialWindowSize, Value: uint32(i)})
	}
	start := time.Now()
	p.send(frame.AppendSettings(nil, settings...))
	if d := time.Since(start); d > time.Second {
		t.Errorf("a SETTINGS frame took %v", d)
	}
	for id := uint32(1); id < 20000; id += 2 {
		p.server.streams.get(id).SendHead(&message.Head{Status: 200}, true)
	}
	p.frames()
	p.headers(20001, true, getFields...)
	p.want("RST_STREAM 20001 7")
}

// TestOverInside: a connection that ends from inside a stream's method, or
// from inside a receiver, tells everybody once and later.
func TestOverInside(t *testing.T) {
	var p *rawPeer
	p = rawClient(t, Config{Limits: Limits{Replies: 50}}, func(message.Stream) *recorder {
		return &recorder{onHead: func(s message.Stream, h *message.Head, _ bool) {
			if h.Path == "/close" {
				p.server.Close()
				s.SendHead(&message.Head{Status: 200}, true)
			}
		}}
	})
	for id := uint32(1); id < 20; id += 2 {
		p.headers(id, false, postFields...)
	}
	p.conn.SetHandler(nil)
	var streams []*stream
	for _, s := range p.server.streams.slots {
		if s != nil {
			streams = append(streams, s)
		}
	}
	for _, s := range streams {
		s.Abort(message.Cancel) // the fourth RST_STREAM is one too many
	}
	for i, r := range p.got {
		if r.aborted {
			t.Errorf("stream %d was told from inside", i)
		}
	}
	p.loop.Run(t)
	told := 0
	for _, r := range p.got {
		if r.aborted {
			told++
		}
	}
	if len(p.closed) != 1 || told != 6 {
		t.Errorf("closed %v, %d streams told", p.closed, told)
	}

	p = rawClient(t, Config{}, func(message.Stream) *recorder {
		return &recorder{onHead: func(s message.Stream, _ *message.Head, _ bool) { p.server.Close() }}
	})
	b := frame.AppendHeaders(nil, 1, p.block(getFields...), true, frame.MinMaxSize)
	p.send(frame.AppendHeaders(b, 3, p.block(getFields...), true, frame.MinMaxSize))
	if len(p.got) != 1 || !p.got[0].aborted || len(p.closed) != 1 {
		t.Errorf("%d requests, closed %v", len(p.got), p.closed)
	}
}

func TestBucket(t *testing.T) {
	var b bucket
	r := Rate{Burst: 3, PerSecond: 2}
	for i := range 3 {
		if !b.take(r, 0) {
			t.Fatalf("token %d", i)
		}
	}
	if b.take(r, 0) {
		t.Error("a fourth token")
	}
	if !b.take(r, time.Second) {
		t.Error("nothing refilled")
	}
	if fmt.Sprint(b.take(r, time.Hour), b.take(r, time.Hour), b.take(r, time.Hour), b.take(r, time.Hour)) != "true true true false" {
		t.Error("more than a burst was saved up")
	}
}
