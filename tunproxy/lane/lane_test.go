package lane_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/lane"
)

// end is one side: its owner and the handler of its stream.
type end struct {
	raw   *aiotest.Conn
	s     *lane.Stream
	lane  *lane.Lane // idle, or asked
	asked int
	gone  int

	got    []byte
	eof    bool
	err    error
	closed []error
	room   int // times that Writable was called
}

func (e *end) Idle(l *lane.Lane)  { e.lane = l }
func (e *end) Asked(l *lane.Lane) { e.lane = l; e.asked++ }
func (e *end) Gone(*lane.Lane)    { e.gone++ }

func (e *end) Readable(c aio.Conn) {
	p := make([]byte, 5000)
	for {
		n, err := c.Read(p)
		e.got = append(e.got, p[:n]...)
		switch {
		case errors.Is(err, aio.ErrWouldBlock):
			return
		case errors.Is(err, io.EOF):
			e.eof = true
			return
		case err != nil:
			e.err = err
			return
		}
	}
}
func (e *end) Writable(aio.Conn)            { e.room++ }
func (e *end) Closed(_ aio.Conn, err error) { e.closed = append(e.closed, err) }

// take makes s the end's stream, as new.
func (e *end) take(s *lane.Stream) {
	e.s, e.got, e.eof, e.err = s, nil, false, nil
	s.SetHandler(e)
}

type pair struct {
	t    *testing.T
	loop *aiotest.Loop
	c, s *end
}

func newPair(t *testing.T, limit int) *pair {
	p := &pair{t: t, loop: aiotest.NewLoop(), c: &end{}, s: &end{}}
	p.c.raw, p.s.raw = aiotest.Pipe(p.loop, limit)
	p.c.take(lane.Client(p.c.raw, p.c))
	p.s.take(lane.Server(p.s.raw, p.s))
	return p
}

func (p *pair) write(e *end, b string) {
	p.t.Helper()
	if n, err := e.s.Write([]byte(b)); n != len(b) || err != nil {
		p.t.Fatalf("wrote %d of %d: %v", n, len(b), err)
	}
	p.loop.Run(p.t)
}

// finish ends the stream in order.
func (p *pair) finish() {
	p.t.Helper()
	for _, e := range []*end{p.c, p.s} {
		if err := e.s.CloseWrite(); err != nil {
			p.t.Fatal(err)
		}
		p.loop.Run(p.t)
	}
	if !p.c.eof || !p.s.eof {
		p.t.Fatalf("eof: %v, %v", p.c.eof, p.s.eof)
	}
	p.c.s.Close()
	p.s.s.Close()
	p.loop.Run(p.t)
	if p.c.lane == nil || p.s.lane == nil {
		p.t.Fatal("not idle")
	}
}

// open opens the next stream.
func (p *pair) open() {
	p.t.Helper()
	p.c.lane.Open(time.Second, func(s *lane.Stream, err error) {
		if err != nil {
			p.t.Fatal(err)
		}
		p.c.take(s)
	})
	p.loop.Run(p.t)
	if p.s.asked == 0 {
		p.t.Fatal("not asked")
	}
	p.s.take(p.s.lane.Accept())
	p.loop.Run(p.t)
	p.c.lane, p.s.lane = nil, nil
}

func TestStreamsFollowEachOther(t *testing.T) {
	p := newPair(t, 0)
	for i := range 5 {
		p.write(p.c, "ping")
		p.write(p.s, "pong")
		if err := p.c.s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.loop.Run(t)
		p.write(p.s, " after your FIN")
		if string(p.s.got) != "ping" || string(p.c.got) != "pong after your FIN" {
			t.Fatalf("stream %d: got %q and %q", i, p.s.got, p.c.got)
		}
		if st := p.c.s.Stats(); st.BytesOut < 4 || st.BytesOut > 20 {
			t.Errorf("stream %d: %d bytes out, want its own only", i, st.BytesOut)
		}
		last := p.c.s
		p.finish()
		if _, err := last.Write([]byte("x")); !errors.Is(err, aio.ErrClosed) {
			t.Errorf("write to a stream that is over: %v", err)
		}
		if last.Stats().BytesOut == 0 {
			t.Error("a closed stream forgot its figures")
		}
		p.open()
	}
	if len(p.c.closed)+len(p.s.closed)+p.c.gone+p.s.gone > 0 {
		t.Errorf("closed %v, %v", p.c.closed, p.s.closed)
	}
}

// A fast client's OPEN comes right behind its FIN.
func TestOpenBehindTheFin(t *testing.T) {
	p := newPair(t, 0)
	if err := p.s.s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.loop.Run(t)
	_, _ = p.c.s.Write([]byte("x"))
	_ = p.c.s.CloseWrite()
	p.c.s.Close()
	p.c.lane.Open(time.Second, func(s *lane.Stream, err error) {
		if err != nil {
			t.Fatal(err)
		}
		p.c.take(s)
	})
	p.loop.Run(t)
	if string(p.s.got) != "x" || !p.s.eof || p.s.asked != 0 {
		t.Fatalf("got %q, eof %v, asked %d", p.s.got, p.s.eof, p.s.asked)
	}
	p.s.s.Close()
	p.loop.Run(t)
	if p.s.asked != 1 {
		t.Fatal("the OPEN was not heard")
	}
	p.s.take(p.s.lane.Accept())
	p.loop.Run(t)
	p.write(p.s, "welcome")
	if string(p.c.got) != "welcome" {
		t.Errorf("got %q", p.c.got)
	}
}

func TestRefusedLeavesTheLane(t *testing.T) {
	p := newPair(t, 0)
	p.finish()
	for range 2 {
		var got error
		l := p.c.lane
		p.c.lane = nil
		l.Open(time.Second, func(_ *lane.Stream, err error) { got = err })
		p.loop.Run(t)
		p.s.lane.Refuse()
		p.loop.Run(t)
		if !errors.Is(got, aio.ErrRefused) || p.c.lane == nil {
			t.Fatalf("%v, idle %v", got, p.c.lane != nil)
		}
	}
	p.open()
	p.write(p.c, "and now")
	if string(p.s.got) != "and now" {
		t.Errorf("got %q", p.s.got)
	}
}

func TestNoAnswer(t *testing.T) {
	p := newPair(t, 0)
	p.finish()
	var got error
	p.c.lane.Open(time.Second, func(_ *lane.Stream, err error) { got = err })
	p.loop.Advance(t, 2*time.Second)
	if !errors.Is(got, aio.ErrTimeout) || p.c.gone != 1 {
		t.Errorf("%v, gone %d", got, p.c.gone)
	}
	if p.s.lane.Accept() != nil {
		t.Error("a lane that is gone was accepted")
	}
}

// The end of the connection while nobody knows whether it was asked.
func TestTheLaneWasGone(t *testing.T) {
	for name, end := range map[string]func(*pair){
		"closed": func(p *pair) { p.s.lane.Close() },
		"reset":  func(p *pair) { p.s.raw.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 0)
			p.finish()
			end(p)
			var got error
			p.c.lane.Open(time.Second, func(_ *lane.Stream, err error) { got = err })
			p.loop.Run(t)
			if got == nil || errors.Is(got, aio.ErrRefused) || p.c.gone != 1 {
				t.Errorf("%v, gone %d", got, p.c.gone)
			}
		})
	}
}

func TestIdleLanesEnd(t *testing.T) {
	p := newPair(t, 0)
	p.finish()
	p.c.lane.Close()
	p.loop.Run(t)
	if p.c.gone != 1 || p.s.gone != 1 || !p.s.raw.IsClosed() || p.s.raw.WasReset() {
		t.Errorf("gone %d and %d, closed %v, reset %v", p.c.gone, p.s.gone, p.s.raw.IsClosed(), p.s.raw.WasReset())
	}
}

func TestResetIsReset(t *testing.T) {
	p := newPair(t, 0)
	p.write(p.c, "half a")
	p.c.s.Reset()
	p.loop.Run(t)
	if p.c.gone != 1 || p.s.gone != 1 || len(p.s.closed) != 1 || !errors.Is(p.s.closed[0], aio.ErrReset) {
		t.Errorf("gone %d, %d; closed %v", p.c.gone, p.s.gone, p.s.closed)
	}
}

// A FIN of the connection is no FIN of the stream.
func TestTruncationIsAReset(t *testing.T) {
	for _, sent := range []string{"", "\x00", "\x00\x00\x00\x05", "\x00\x00\x00\x05abc"} {
		p := newPair(t, 0)
		p.c.raw.Put([]byte(sent))
		_ = p.c.raw.CloseWrite()
		p.loop.Run(t)
		if !errors.Is(p.s.err, aio.ErrReset) {
			t.Errorf("%q and FIN: %v", sent, p.s.err)
		}
	}
}

// Close before the peer's FIN: what was written is delivered.
func TestCloseDelivers(t *testing.T) {
	p := newPair(t, 0)
	_, _ = p.c.s.Write([]byte("goodbye"))
	p.c.s.Close()
	p.loop.Run(t)
	if string(p.s.got) != "goodbye" || !p.s.eof || p.c.gone != 1 {
		t.Errorf("got %q, eof %v, gone %d", p.s.got, p.s.eof, p.c.gone)
	}
	p = newPair(t, 0)
	p.s.s.SetHandler(nil)
	p.write(p.c, "unread")
	p.s.s.Close()
	p.loop.Run(t)
	if len(p.c.closed) != 1 || !errors.Is(p.c.closed[0], aio.ErrReset) {
		t.Errorf("unread bytes: closed %v", p.c.closed)
	}
}

func TestPeekConsumesNothing(t *testing.T) {
	p := newPair(t, 0)
	p.s.s.SetHandler(nil)
	if _, err := p.s.s.Peek(make([]byte, 8)); !errors.Is(err, aio.ErrWouldBlock) {
		t.Fatal(err)
	}
	p.write(p.c, "abc")
	for range 2 {
		b := make([]byte, 8)
		if n, err := p.s.s.Peek(b); string(b[:n]) != "abc" || err != nil {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	p.s.take(p.s.s)
	p.loop.Run(t)
	if string(p.s.got) != "abc" {
		t.Errorf("got %q", p.s.got)
	}
	_ = p.c.s.CloseWrite()
	p.loop.Run(t)
	if _, err := p.s.s.Peek(make([]byte, 8)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// A handler that comes late hears of the end that was read before.
func TestLateHandlerHearsTheEnd(t *testing.T) {
	p := newPair(t, 0)
	_ = p.c.s.CloseWrite()
	p.loop.Run(t)
	other := &end{}
	p.s.s.SetHandler(other)
	p.loop.Run(t)
	if !other.eof {
		t.Error("no EOF")
	}
	p.s.s.SetHandler(nil)
	p.c.raw.Reset()
	p.loop.Run(t)
	p.s.s.SetHandler(other)
	p.loop.Run(t)
	if len(other.closed) != 1 {
		t.Errorf("closed %v", other.closed)
	}
}

// Anything through a transport with hardly any room, in pieces of any size.
func TestBytesSurviveBackpressure(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := newPair(t, 1+r.IntN(3000))
		for range 3 {
			want := make([]byte, r.IntN(200_000))
			for i := range want {
				want[i] = byte(r.Uint32())
			}
			for rest := want; len(rest) > 0; {
				n, err := p.c.s.Write(rest[:1+r.IntN(len(rest))])
				rest = rest[n:]
				if err != nil {
					if !errors.Is(err, aio.ErrWouldBlock) {
						t.Fatal(err)
					}
					was := p.c.room
					p.loop.Run(t)
					if p.c.room == was {
						t.Fatalf("seed %d: nobody said that there is room", seed)
					}
				}
			}
			p.finish()
			if !bytes.Equal(p.s.got, want) {
				t.Fatalf("seed %d: %d bytes arrived of %d", seed, len(p.s.got), len(want))
			}
			p.open()
		}
	}
}

func TestWhatMayNotBeSaid(t *testing.T) {
	type who uint8
	const (
		openServer who = iota
		openClient
		idleServer
		idleClient
		askedServer
	)
	for _, tc := range []struct {
		name  string
		to    who
		frame string
	}{
		{"an unknown kind", openServer, "\x05\x00\x00\x00"},
		{"data without bytes", openServer, "\x00\x00\x00\x00"},
		{"a FIN with bytes", openServer, "\x01\x00\x00\x01x"},
		{"OPEN in mid-stream", openServer, "\x02\x00\x00\x00"},
		{"OPENED in mid-stream", openClient, "\x03\x00\x00\x00"},
		{"bytes behind a FIN", openServer, "\x01\x00\x00\x00\x00\x00\x00\x01x"},
		{"data to an idle server", idleServer, "\x00\x00\x00\x01x"},
		{"FIN to an idle server", idleServer, "\x01\x00\x00\x00"},
		{"OPENED to a server", idleServer, "\x03\x00\x00\x00"},
		{"OPEN to a client", idleClient, "\x02\x00\x00\x00"},
		{"OPENED that nobody asked for", idleClient, "\x03\x00\x00\x00"},
		{"a second OPEN", askedServer, "\x02\x00\x00\x00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, 0)
			victim, from := p.s, p.c
			switch tc.to {
			case openClient:
				victim, from = p.c, p.s
			case idleServer:
				p.finish()
			case idleClient:
				p.finish()
				victim, from = p.c, p.s
			case askedServer:
				p.finish()
				p.c.lane.Open(time.Second, func(*lane.Stream, error) {})
				p.loop.Run(t)
			case openServer:
			}
			from.raw.Put([]byte(tc.frame))
			p.loop.Run(t)
			if victim.err == nil && victim.gone == 0 {
				t.Errorf("nothing happened: got %q, eof %v", victim.got, victim.eof)
			}
		})
	}
}

// FuzzServer: whatever a client says, a server's streams get it in order, and
// the lane ends rather than guess.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03abc\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x01x"))
	f.Add([]byte("\x01\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		p := newPair(t, 1<<20)
		step := 1 + len(said)%7
		for len(said) > 0 && p.s.gone == 0 && !p.c.raw.WasReset() {
			n := min(step, len(said))
			p.c.raw.Put(said[:n])
			said = said[n:]
			p.loop.Run(t)
			switch {
			case p.s.lane != nil && p.s.asked > 0:
				p.s.asked = 0
				if s := p.s.lane.Accept(); s != nil {
					p.s.take(s)
				}
				p.s.lane = nil
			case p.s.err != nil:
				p.s.s.Reset()
			case p.s.eof:
				p.s.eof = false
				_ = p.s.s.CloseWrite()
				p.s.s.Close()
			}
			p.loop.Run(t)
		}
	})
}
