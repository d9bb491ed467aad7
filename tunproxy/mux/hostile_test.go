package mux_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
)

// raw makes a frame as the peer would.
func raw(kind byte, n int, id uint32, data ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(kind)<<24|uint32(n))
	return append(binary.BigEndian.AppendUint32(b, id), data...)
}

const (
	data = iota
	fin
	reset
	credit
	open
	opened
	refused
	elsewhere
)

func TestWhatMayNotBeSaid(t *testing.T) {
	for _, tc := range []struct {
		name     string
		toClient bool
		frames   []byte
	}{
		{"an unknown kind", false, raw(8, 0, 0)},
		{"data without bytes", false, raw(data, 0, 0)},
		{"FIN with a number", false, raw(fin, 1, 0)},
		{"a second FIN", false, append(raw(fin, 0, 0), raw(fin, 0, 0)...)},
		{"bytes behind a FIN", false, append(raw(fin, 0, 0), raw(data, 1, 0, 'x')...)},
		{"bytes of a stream to come", false, raw(data, 1, 7, 'x')},
		{"more bytes than were asked for", false, raw(data, 1<<20, 0)},
		{"no credit", false, raw(credit, 0, 0)},
		{"more credit than can be used", false, append(raw(credit, 0xff_ffff, 0), raw(credit, 0xff_ffff, 0)...)},
		{"a stream is left out", false, raw(open, 0, 2)},
		{"a stream for the second time", false, append(raw(open, 0, 1), raw(open, 0, 1)...)},
		{"OPEN with too much", false, raw(open, 0xff_ffff, 1)},
		{"OPENED to a server", false, append(raw(open, 0, 1), raw(opened, 0, 1)...)},
		{"REFUSED to a server", false, raw(refused, 0, 0)},
		{"OPEN to a client", true, raw(open, 0, 1)},
		{"OPENED that nobody asked for", true, raw(opened, 0, 0)},
		{"ELSEWHERE that nobody asked for", true, raw(elsewhere, 0, 0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, 0)
			victim, from := p.s, p.c
			if tc.toClient {
				victim, from = p.c, p.s
			}
			from.raw.Put(tc.frames)
			p.loop.Run(t)
			if len(victim.gone) != 1 || victim.gone[0] == nil || victim.shared.Breaches.Load() != 1 {
				t.Fatalf("gone %v, breaches %d", victim.gone, victim.shared.Breaches.Load())
			}
			if victim.shared.Bound.Held() != 0 || len(victim.first.closed) != 1 {
				t.Errorf("%d bytes are promised, the stream heard %v", victim.shared.Bound.Held(), victim.first.closed)
			}
		})
	}
}

// Whatever is said for ever ends the hop, before it costs much.
func TestFloods(t *testing.T) {
	const most = 200_000
	for _, tc := range []struct {
		name string
		next func(i int) []byte
		// prepare makes the stream 0 of the victim over.
		over bool
	}{
		{"credit in drops", func(int) []byte { return raw(credit, 1, 0) }, false},
		{"resets of streams that are over", func(int) []byte { return raw(reset, 0, 0) }, true},
		{"credit of streams that are over", func(int) []byte { return raw(credit, 1, 0) }, true},
		{"streams that are reset at once", func(i int) []byte {
			return append(raw(open, 0, uint32(i+1)), raw(reset, 0, uint32(i+1))...)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, 0)
			if tc.over {
				p.s.hop.First().Reset()
				p.loop.Run(t)
			}
			i := 0
			for ; i < most && len(p.s.gone) == 0; i++ {
				p.c.raw.Put(tc.next(i))
				if i%100 == 0 {
					p.loop.Run(t)
				}
			}
			if len(p.s.gone) != 1 || !errors.Is(p.s.gone[0], mux.ErrFlood) || p.s.shared.Floods.Load() != 1 {
				t.Errorf("after %d: gone %v", i, p.s.gone)
			}
		})
	}
}

// Answers that the client does not take are not held for ever.
func TestAnswersThatAreNotRead(t *testing.T) {
	p := newPair(t, 1<<20)
	p.c.raw.SetHandler(nil)
	id := uint32(0)
	for range 1_000 {
		for range 400 {
			id++
			p.c.raw.Put(raw(open, 0, id))
		}
		for p.loop.Pass() {
			for _, s := range p.s.asked {
				s.Refuse()
			}
			p.s.asked = nil
		}
		if len(p.s.gone) > 0 {
			break
		}
	}
	if len(p.s.gone) != 1 || !errors.Is(p.s.gone[0], mux.ErrFlood) {
		t.Errorf("%d answers were kept: gone %v", id, p.s.gone)
	}
}

// Streams without an answer, and all streams of a hop, are bounded; beyond, the
// client hears so.
func TestStreamsAreBounded(t *testing.T) {
	p := newPair(t, 1<<20)
	p.c.raw.SetHandler(nil)
	for id := range uint32(3000) {
		p.c.raw.Put(raw(open, 0, id+1))
	}
	p.loop.Run(t)
	if n := len(p.s.asked); n != 1024 {
		t.Errorf("%d streams wait for an answer, want 1024", n)
	}
	p = newPair(t, 1<<20)
	p.c.raw.SetHandler(nil)
	for id := range uint32(3000) {
		p.c.raw.Put(raw(open, 0, id+1))
		p.loop.Run(t)
		for _, s := range p.s.asked {
			s.Accept()
		}
		p.s.asked = nil
	}
	if n := p.s.hop.Len(); n != 2048 || p.s.shared.Served() != n {
		t.Errorf("%d streams, %d counted, want 2048", n, p.s.shared.Served())
	}
	for p.c.hop.Room() {
		p.c.hop.Open(time.Second, func(*mux.Stream, error) {})
	}
	if n := p.c.hop.Len(); n != 1024 {
		t.Errorf("a client asks for %d streams, want 1024", n)
	}
}

// A FIN of the connection is no FIN of a stream.
func TestTruncationIsAReset(t *testing.T) {
	for _, sent := range []string{"", "\x00", "\x00\x00\x00\x05\x00\x00\x00\x00", "\x00\x00\x00\x05\x00\x00\x00\x00abc"} {
		p := newPair(t, 0)
		p.c.raw.Put([]byte(sent))
		_ = p.c.raw.CloseWrite()
		p.loop.Run(t)
		if len(p.s.first.closed) != 1 || p.s.first.eof {
			t.Errorf("%q and FIN: closed %v, eof %v", sent, p.s.first.closed, p.s.first.eof)
		}
	}
}

// FuzzServer: whatever a client says, a server promises no more than it said, its
// streams get their bytes in order, and the hop ends rather than guess.
func FuzzServer(f *testing.F) {
	f.Add(append(append(raw(open, 0, 1), raw(data, 3, 1, 'a', 'b', 'c')...), raw(fin, 0, 1)...))
	f.Add(append(append(raw(data, 1, 0, 'x'), raw(reset, 0, 0)...), raw(credit, 9, 0)...))
	f.Fuzz(func(t *testing.T, said []byte) {
		fuzz(t, said, func(p *pair) (from, victim *end) { return p.c, p.s })
	})
}

// FuzzClient is FuzzServer for the other side.
func FuzzClient(f *testing.F) {
	f.Add(append(raw(opened, 9, 1), raw(data, 3, 1, 'a', 'b', 'c')...))
	f.Add(append(raw(refused, 0, 1), raw(elsewhere, 0, 2)...))
	f.Fuzz(func(t *testing.T, said []byte) {
		fuzz(t, said, func(p *pair) (from, victim *end) {
			for range 2 {
				p.c.hop.Open(time.Second, func(s *mux.Stream, _ error) {
					if s != nil {
						use(s)
					}
				})
			}
			p.s.raw.SetHandler(nil)
			return p.s, p.c
		})
	})
}

func fuzz(t *testing.T, said []byte, sides func(*pair) (from, victim *end)) {
	p := newPair(t, 1<<20)
	from, victim := sides(p)
	from.raw.SetHandler(nil)
	step := 1 + len(said)%7
	var all []*app
	for len(said) > 0 && len(victim.gone) == 0 {
		n := min(step, len(said))
		from.raw.Put(said[:n])
		said = said[n:]
		p.loop.Run(t)
		for i, s := range victim.asked {
			if i%3 == 2 {
				s.Refuse()
			} else if s.Accept() {
				all = append(all, use(s))
			}
		}
		victim.asked = nil
		for _, a := range all {
			if a.eof {
				_, _ = a.s.Write(a.got)
				_ = a.s.CloseWrite()
				a.s.Close()
			}
		}
		p.loop.Run(t)
		if held, most := victim.shared.Bound.Held(), int64(1<<20*(victim.hop.Len())); held > most {
			t.Fatalf("%d bytes are promised to %d streams", held, victim.hop.Len())
		}
	}
	if len(victim.gone) > 0 && victim.shared.Bound.Held() != 0 {
		t.Fatalf("%d bytes are promised on a hop that is gone", victim.shared.Bound.Held())
	}
}

// counted counts reads.
type counted struct {
	*aiotest.Conn
	reads int
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads++
	return c.Conn.Read(p)
}

// Packets that come while a turn is over bring no other.
func TestOneTurnAPass(t *testing.T) {
	loop := aiotest.NewLoop()
	far, near := aiotest.Pipe(loop, 8<<20)
	c, s := &counted{Conn: near}, &end{shared: mux.NewShared(0)}
	s.hop = mux.Server(c, s.shared, s)
	s.hop.First().Reset() // bytes of a stream that is over cost nobody else anything
	loop.Run(t)
	most := 0
	for range 10 {
		far.Put(raw(data, mux.MaxData, 0))
		for range 16 {
			far.Put(append(make([]byte, mux.MaxData), raw(data, mux.MaxData, 0)...))
		}
		far.Put(make([]byte, mux.MaxData))
		c.reads = 0
		loop.Pass()
		most = max(most, c.reads)
	}
	if most != 4 || len(s.gone) > 0 {
		t.Errorf("%d reads in one pass, gone %v", most, s.gone)
	}
	loop.Run(t)
}
