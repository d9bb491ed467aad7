package mux_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
)

// app is the user of one stream: it reads all that it may.
type app struct {
	s      *mux.Stream
	lazy   bool // reads nothing
	got    []byte
	eof    bool
	err    error
	closed []error
	room   int // times that Writable was called
}

func (a *app) Readable(c aio.Conn) {
	p := make([]byte, 5000)
	for !a.lazy {
		n, err := c.Read(p)
		a.got = append(a.got, p[:n]...)
		switch {
		case errors.Is(err, aio.ErrWouldBlock):
			return
		case errors.Is(err, io.EOF):
			a.eof = true
			return
		case err != nil:
			a.err = err
			return
		}
	}
}
func (a *app) Writable(aio.Conn)            { a.room++ }
func (a *app) Closed(_ aio.Conn, err error) { a.closed = append(a.closed, err) }

func use(s *mux.Stream) *app {
	a := &app{s: s}
	s.SetHandler(a)
	return a
}

// end is one side: the owner of its hop.
type end struct {
	raw    *aiotest.Conn
	shared *mux.Shared
	hop    *mux.Hop
	first  *app
	asked  []*mux.Stream
	idle   int
	gone   []error
}

func (e *end) Idle(*mux.Hop)              { e.idle++ }
func (e *end) Asked(s *mux.Stream)        { e.asked = append(e.asked, s) }
func (e *end) Gone(_ *mux.Hop, err error) { e.gone = append(e.gone, err) }

type pair struct {
	t    *testing.T
	loop *aiotest.Loop
	c, s *end
}

func newPair(t *testing.T, limit int) *pair {
	t.Helper()
	p := &pair{t: t, loop: aiotest.NewLoop(), c: &end{shared: mux.NewShared(0)}, s: &end{shared: mux.NewShared(0)}}
	p.c.raw, p.s.raw = aiotest.Pipe(p.loop, limit)
	p.c.hop = mux.Client(p.c.raw, p.c.shared, p.c)
	p.s.hop = mux.Server(p.s.raw, p.s.shared, p.s)
	p.c.first, p.s.first = use(p.c.hop.First()), use(p.s.hop.First())
	p.loop.Run(t)
	return p
}

// ask opens a stream and returns what came of it, once there is something.
func (p *pair) ask() (got **mux.Stream, failed *error) {
	got, failed = new(*mux.Stream), new(error)
	p.c.hop.Open(time.Second, func(s *mux.Stream, err error) { *got, *failed = s, err })
	p.loop.Run(p.t)
	return got, failed
}

// open opens a stream and returns both ends.
func (p *pair) open() (c, s *app) {
	p.t.Helper()
	got, failed := p.ask()
	if len(p.s.asked) != 1 {
		p.t.Fatalf("%d streams were asked for", len(p.s.asked))
	}
	far := p.s.asked[0]
	p.s.asked = nil
	if !far.Accept() {
		p.t.Fatal("cannot accept")
	}
	p.loop.Run(p.t)
	if *got == nil {
		p.t.Fatalf("not open: %v", *failed)
	}
	return use(*got), use(far)
}

func (p *pair) write(a *app, b string) {
	p.t.Helper()
	if n, err := a.s.Write([]byte(b)); n != len(b) || err != nil {
		p.t.Fatalf("wrote %d of %d: %v", n, len(b), err)
	}
	p.loop.Run(p.t)
}

// finish ends a stream in order.
func (p *pair) finish(c, s *app) {
	p.t.Helper()
	for _, a := range []*app{c, s} {
		if err := a.s.CloseWrite(); err != nil {
			p.t.Fatal(err)
		}
		p.loop.Run(p.t)
	}
	if !c.eof || !s.eof {
		p.t.Fatalf("eof: %v, %v", c.eof, s.eof)
	}
	c.s.Close()
	s.s.Close()
	p.loop.Run(p.t)
}

// intact fails unless both hops live and nothing is held for streams that are over.
func (p *pair) intact() {
	p.t.Helper()
	if len(p.c.gone)+len(p.s.gone) > 0 {
		p.t.Errorf("gone: %v, %v", p.c.gone, p.s.gone)
	}
	for _, e := range []*end{p.c, p.s} {
		if held := e.shared.Bound.Held(); e.hop.Len() == 0 && held != 0 {
			p.t.Errorf("%d bytes are promised to nobody", held)
		}
	}
}

func TestStreamsAtOnce(t *testing.T) {
	p := newPair(t, 0)
	type both struct{ c, s *app }
	all := []both{{p.c.first, p.s.first}}
	for range 20 {
		c, s := p.open()
		all = append(all, both{c, s})
	}
	for round := range 3 {
		for i, b := range all {
			p.write(b.c, string(rune('a'+i)))
			p.write(b.s, string(rune('A'+i)))
			if len(b.s.got) != round+1 || b.s.got[round] != byte('a'+i) || b.c.got[round] != byte('A'+i) {
				t.Fatalf("stream %d: %q, %q", i, b.s.got, b.c.got)
			}
		}
	}
	for i, b := range all {
		if st := b.c.s.Stats(); st.BytesOut != 3 || st.BytesIn != 3 {
			t.Errorf("stream %d counted %d out and %d in", i, st.BytesOut, st.BytesIn)
		}
		p.finish(b.c, b.s)
		if _, err := b.c.s.Write([]byte("x")); !errors.Is(err, aio.ErrClosed) {
			t.Errorf("write to a stream that is over: %v", err)
		}
	}
	if p.c.idle != 1 || p.s.idle != 1 {
		t.Errorf("idle %d and %d times", p.c.idle, p.s.idle)
	}
	p.intact()
	p.c.hop.Close()
	p.loop.Run(t)
	if len(p.c.gone) != 1 || len(p.s.gone) != 1 || p.c.gone[0] != nil || p.s.gone[0] != nil || p.s.raw.WasReset() {
		t.Errorf("gone %v and %v", p.c.gone, p.s.gone)
	}
}

// What becomes ready in a pass leaves in one write.
func TestFramesLeaveTogether(t *testing.T) {
	p := newPair(t, 0)
	var all []*app
	for range 10 {
		c, _ := p.open()
		all = append(all, c)
	}
	before := p.c.raw.Stats().BytesOut
	for _, a := range all {
		if _, err := a.s.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if now := p.c.raw.Stats().BytesOut; now != before {
		t.Errorf("%d bytes left before the end of the pass", now-before)
	}
	p.loop.Run(t)
	if n := p.c.raw.Stats().BytesOut - before; n != 10*108 {
		t.Errorf("%d bytes left, want 10 frames of 108", n)
	}
}

func TestHalfClose(t *testing.T) {
	p := newPair(t, 0)
	c, s := p.open()
	p.write(c, "all I have")
	if err := c.s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.loop.Run(t)
	if !s.eof || string(s.got) != "all I have" || c.eof {
		t.Fatalf("got %q, eof %v and %v", s.got, s.eof, c.eof)
	}
	p.write(s, "after your FIN")
	if string(c.got) != "after your FIN" {
		t.Errorf("got %q", c.got)
	}
	p.finish(c, s)
	p.intact()
}

func TestRefusedLeavesTheHop(t *testing.T) {
	p := newPair(t, 0)
	for range 2 {
		_, failed := p.ask()
		p.s.asked[0].Refuse()
		p.s.asked = nil
		p.loop.Run(t)
		if !errors.Is(*failed, aio.ErrRefused) {
			t.Fatalf("%v, want refused", *failed)
		}
	}
	c, s := p.open()
	p.write(c, "and now")
	if string(s.got) != "and now" {
		t.Errorf("got %q", s.got)
	}
	p.intact()
}

func TestElsewhere(t *testing.T) {
	p := newPair(t, 0)
	_, failed := p.ask()
	p.s.asked[0].Elsewhere()
	p.loop.Run(t)
	if !errors.Is(*failed, mux.ErrElsewhere) || p.c.hop.Room() {
		t.Fatalf("%v, room %v", *failed, p.c.hop.Room())
	}
	p.write(p.c.first, "goes on")
	if string(p.s.first.got) != "goes on" {
		t.Errorf("got %q", p.s.first.got)
	}
	p.finish(p.c.first, p.s.first)
	if len(p.c.gone) != 1 || p.c.gone[0] != nil {
		t.Errorf("a hop that takes no stream and has none: gone %v", p.c.gone)
	}
}

func TestNoAnswer(t *testing.T) {
	p := newPair(t, 0)
	_, failed := p.ask()
	p.loop.Advance(t, 500*time.Millisecond)
	p.write(p.s.first, "I am well, but the app is not")
	p.loop.Advance(t, 600*time.Millisecond)
	if !errors.Is(*failed, aio.ErrTimeout) || p.s.asked[0].Accept() {
		t.Errorf("%v; a stream that was given up can be accepted", *failed)
	}
	p.intact()
	_, failed = p.ask()
	p.loop.Advance(t, 2*time.Second)
	if !errors.Is(*failed, aio.ErrTimeout) || len(p.c.gone) != 1 {
		t.Errorf("a hop that says nothing: %v, gone %v", *failed, p.c.gone)
	}
}

func TestTheHopWasGone(t *testing.T) {
	for name, end := range map[string]func(*pair){
		"closed": func(p *pair) { p.s.raw.Close() },
		"reset":  func(p *pair) { p.s.raw.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 0)
			end(p)
			_, failed := p.ask()
			if *failed == nil || errors.Is(*failed, aio.ErrRefused) || len(p.c.gone) != 1 {
				t.Errorf("%v, gone %v", *failed, p.c.gone)
			}
			if len(p.c.first.closed) != 1 || !errors.Is(p.c.first.closed[0], aio.ErrReset) {
				t.Errorf("the first stream: closed %v, want a reset", p.c.first.closed)
			}
		})
	}
}

func TestResetIsOneStreams(t *testing.T) {
	p := newPair(t, 0)
	c, s := p.open()
	s.lazy = true
	p.write(c, "will not be read")
	c.s.Reset()
	p.loop.Run(t)
	if len(s.closed) != 1 || !errors.Is(s.closed[0], aio.ErrReset) {
		t.Errorf("closed %v", s.closed)
	}
	if _, err := s.s.Read(make([]byte, 10)); !errors.Is(err, aio.ErrReset) {
		t.Errorf("read after a reset: %v", err)
	}
	p.write(p.c.first, "alive")
	if string(p.s.first.got) != "alive" {
		t.Errorf("the other stream got %q", p.s.first.got)
	}
	p.finish(p.c.first, p.s.first)
	p.intact()
}

// Close before the peer's FIN: what was written is delivered, and what the peer
// then says is answered with a reset.
func TestCloseDelivers(t *testing.T) {
	p := newPair(t, 0)
	c, s := p.open()
	if _, err := c.s.Write([]byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	c.s.Close()
	p.loop.Run(t)
	if string(s.got) != "goodbye" || !s.eof {
		t.Fatalf("got %q, eof %v", s.got, s.eof)
	}
	p.write(s, "too late")
	if len(s.closed) != 1 || !errors.Is(s.closed[0], aio.ErrReset) {
		t.Errorf("closed %v, want a reset", s.closed)
	}
	c, s = p.open()
	s.lazy = true
	p.write(c, "unread")
	s.s.Close()
	p.loop.Run(t)
	if len(c.closed) != 1 || !errors.Is(c.closed[0], aio.ErrReset) {
		t.Errorf("unread bytes: closed %v, want a reset", c.closed)
	}
	c, s = p.open()
	c.s.Close()
	p.loop.Advance(t, time.Minute)
	if len(s.closed) != 1 || p.c.hop.Len() != 1 {
		t.Errorf("a peer without end: closed %v, %d streams", s.closed, p.c.hop.Len())
	}
	p.intact()
}

func TestPeekConsumesNothing(t *testing.T) {
	p := newPair(t, 0)
	c, s := p.open()
	s.s.SetHandler(nil)
	if _, err := s.s.Peek(make([]byte, 8)); !errors.Is(err, aio.ErrWouldBlock) {
		t.Fatal(err)
	}
	p.write(c, "abc")
	for range 2 {
		b := make([]byte, 8)
		if n, err := s.s.Peek(b); string(b[:n]) != "abc" || err != nil {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	_ = c.s.CloseWrite()
	p.loop.Run(t)
	late := use(s.s)
	p.loop.Run(t)
	if string(late.got) != "abc" || !late.eof {
		t.Errorf("a handler that came late got %q, eof %v", late.got, late.eof)
	}
}

// A reader that rests stops its own sender, and no other; its window bounds what
// is held.
func TestASlowReaderStopsItsOwnSender(t *testing.T) {
	p := newPair(t, 1<<20)
	c, s := p.open()
	s.lazy = true
	sent := 0
	for range 1000 {
		n, err := c.s.Write(make([]byte, 10_000))
		sent += n
		p.loop.Run(t)
		if err != nil {
			break
		}
	}
	if sent > 64<<10 {
		t.Errorf("%d bytes were sent to somebody who does not read", sent)
	}
	p.write(p.c.first, "past it")
	if string(p.s.first.got) != "past it" {
		t.Errorf("the other stream got %q", p.s.first.got)
	}
	was := c.room
	s.lazy = false
	s.Readable(s.s)
	p.loop.Run(t)
	if c.room == was || len(s.got) != sent {
		t.Errorf("nobody said that there is room (%d of %d bytes were read)", len(s.got), sent)
	}
}

// A stream that is fast gets a larger window, while there is memory; when there is
// none left to promise, windows shrink, and everybody still goes on.
func TestWindowsFollowMemory(t *testing.T) {
	p := newPair(t, 4<<20)
	p.s.shared.Bound.Hold(p.s.shared.Bound.Limit() * 3 / 4)
	c, s := p.open()
	small := p.s.shared.Bound.Held()
	p.s.shared.Bound.Hold(-p.s.shared.Bound.Limit() * 3 / 4)
	pump := func(a *app, n int) {
		for n > 0 {
			k, err := a.s.Write(make([]byte, min(n, 100_000)))
			n -= k
			if p.loop.Run(t); k == 0 && err == nil {
				t.Fatal("nothing was written")
			}
		}
	}
	pump(c, 10<<20)
	grown := p.s.shared.Bound.Held()
	if grown < 1<<20 {
		t.Errorf("%d bytes are promised to a fast sender, want a megabyte", grown)
	}
	p.s.shared.Bound.Hold(p.s.shared.Bound.Limit() - 2<<20)
	pump(c, 10<<20)
	if held := p.s.shared.Bound.Held() - int64(p.s.shared.Bound.Limit()) + 2<<20; held > grown/8 {
		t.Errorf("%d bytes are promised when memory is scarce, %d before", held, grown)
	}
	if len(s.got) != 20<<20 || small <= 0 || p.s.shared.Bound.Hits() == 0 {
		t.Errorf("%d bytes arrived; %d hits", len(s.got), p.s.shared.Bound.Hits())
	}
}

// While one stream has more to say than the connection takes, another says a word
// and is heard before all of that.
func TestBulkDoesNotStarveOthers(t *testing.T) {
	p := newPair(t, 100<<10)
	bulk, sink := p.open()
	w := &pusher{t: t, left: 50 << 20}
	bulk.s.SetHandler(w)
	other, heard := p.open()
	w.Writable(bulk.s)
	for range 20 {
		before := len(sink.got)
		for len(sink.got) < before+1<<20 && w.left > 0 {
			p.loop.Pass()
		}
		if _, err := other.s.Write([]byte("word")); err != nil {
			t.Fatalf("a word: %v", err)
		}
		said, at := len(heard.got), len(sink.got)
		for len(heard.got) == said {
			p.loop.Pass()
		}
		if behind := len(sink.got) - at; behind > 1<<20 {
			t.Fatalf("the word came behind %d bytes", behind)
		}
	}
	if !p.c.hop.Bulk() {
		t.Error("new streams are not told to avoid this hop")
	}
}

// pusher writes as much as it can.
type pusher struct {
	t    *testing.T
	left int
}

func (w *pusher) Readable(aio.Conn)      {}
func (w *pusher) Closed(aio.Conn, error) {}
func (w *pusher) Writable(c aio.Conn) {
	for w.left > 0 {
		n, err := c.Write(make([]byte, min(w.left, 64<<10)))
		w.left -= n
		if err != nil {
			return
		}
	}
}

// Two that push get the same, give or take a turn.
func TestPushersShare(t *testing.T) {
	p := newPair(t, 100<<10)
	var pushers, sinks []*app
	for range 3 {
		c, s := p.open()
		pushers, sinks = append(pushers, c), append(sinks, s)
	}
	for _, c := range pushers {
		w := &pusher{t: t, left: 20 << 20}
		c.s.SetHandler(w)
		w.Writable(c.s)
	}
	for len(sinks[0].got)+len(sinks[1].got)+len(sinks[2].got) < 24<<20 {
		p.loop.Pass()
	}
	for i, s := range sinks {
		if n := len(s.got); n < 6<<20 || n > 10<<20 {
			t.Errorf("pusher %d moved %d of 24 MB", i, n)
		}
	}
}

// Anything through a connection with hardly any room, in pieces of any size.
func TestBytesSurviveBackpressure(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := newPair(t, 1+r.IntN(3000))
		var cs, ss []*app
		var want [][]byte
		for range 4 {
			c, s := p.open()
			b := make([]byte, r.IntN(100_000))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			cs, ss, want = append(cs, c), append(ss, s), append(want, b)
		}
		rest := append([][]byte(nil), want...)
		for more := true; more; {
			more = false
			for i := range rest {
				if len(rest[i]) == 0 {
					continue
				}
				more = true
				n, err := cs[i].s.Write(rest[i][:1+r.IntN(len(rest[i]))])
				rest[i] = rest[i][n:]
				if err != nil {
					was := cs[i].room
					if p.loop.Run(t); cs[i].room == was {
						t.Fatalf("seed %d: nobody said that there is room", seed)
					}
				}
			}
		}
		for i := range cs {
			p.finish(cs[i], ss[i])
			if !bytes.Equal(ss[i].got, want[i]) {
				t.Fatalf("seed %d: %d bytes arrived of %d", seed, len(ss[i].got), len(want[i]))
			}
		}
		p.intact()
	}
}

// TestStatsAreCountedOnce: what the hop went through is said by one of its streams,
// and by none that was not there yet.
func TestStatsAreCountedOnce(t *testing.T) {
	p := newPair(t, 0)
	p.c.raw.Net = aio.Stats{RTT: time.Millisecond, Retransmits: 3, ZeroWindows: 1}
	if s := p.c.first.s.Stats(); s.Retransmits != 3 || s.ZeroWindows != 1 || s.RTT != time.Millisecond {
		t.Errorf("the first stream: %+v", s)
	}
	c, s := p.open()
	p.c.raw.Net.Retransmits, p.c.raw.Net.OutOfOrder = 10, 2
	a, b := c.s.Stats(), p.c.first.s.Stats()
	if a.Retransmits != 7 || b.Retransmits != 3 || a.OutOfOrder != 2 || b.OutOfOrder != 0 {
		t.Errorf("%+v and %+v", a, b)
	}
	p.finish(c, s)
	if a := c.s.Stats(); a.Retransmits != 7 {
		t.Errorf("after its end: %+v", a)
	}
}
