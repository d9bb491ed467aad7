package upstream

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
)

// farSide accepts whatever a hop asks for, and ends its streams in order.
type farSide struct{}

func (farSide) Idle(*mux.Hop)          {}
func (farSide) Gone(*mux.Hop, error)   {}
func (f farSide) Asked(s *mux.Stream)  { s.Accept(); s.SetHandler(f) }
func (farSide) Writable(aio.Conn)      {}
func (farSide) Closed(aio.Conn, error) {}
func (farSide) Readable(c aio.Conn) {
	p := make([]byte, 64<<10)
	for {
		n, err := c.Read(p)
		if n == 0 {
			if !errors.Is(err, aio.ErrWouldBlock) {
				_ = c.CloseWrite()
				c.Close()
			}
			return
		}
	}
}

// dated is a connection whose certificates may be out of date.
type dated struct {
	*aiotest.Conn
	old bool
}

func (d *dated) Current() bool { return !d.old }

func hopTo(addr string) Endpoint {
	return Endpoint{Side: aio.Wire, Addr: netip.MustParseAddrPort(addr), Src: netip.MustParseAddr("10.0.0.1")}
}

type hopsTest struct {
	t    *testing.T
	loop *aiotest.Loop
	s    *Hops
	e    Endpoint
}

func newHopsTest(t *testing.T) *hopsTest {
	l := aiotest.NewLoop()
	return &hopsTest{t: t, loop: l, s: NewHops(l, mux.NewShared(0)), e: hopTo("10.0.0.2:9000")}
}

// adopt makes a hop, and returns its first stream.
func (ht *hopsTest) adopt() (*mux.Stream, *dated) {
	a, b := aiotest.Pipe(ht.loop, 1<<20)
	d := &dated{Conn: a}
	s := ht.s.Adopt(ht.e, d)
	mux.Server(b, mux.NewShared(0), farSide{}).First().SetHandler(farSide{})
	ht.loop.Run(ht.t)
	return s, d
}

// finish ends a stream in order.
func (ht *hopsTest) finish(s *mux.Stream) {
	ht.t.Helper()
	_ = s.CloseWrite()
	ht.loop.Run(ht.t)
	if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, aio.ErrWouldBlock) {
		ht.t.Fatal("no FIN from the far side", err)
	}
	s.Close()
	ht.loop.Run(ht.t)
}

func (ht *hopsTest) open(h *mux.Hop) *mux.Stream {
	ht.t.Helper()
	var got *mux.Stream
	h.Open(time.Second, func(s *mux.Stream, err error) {
		if err != nil {
			ht.t.Fatal(err)
		}
		got = s
	})
	ht.loop.Run(ht.t)
	return got
}

// fill opens streams until another hop is wanted, or n are open.
func (ht *hopsTest) fill(n int) (opened int) {
	ht.t.Helper()
	for ; opened < n; opened++ {
		h := ht.s.Take(ht.e)
		if h == nil {
			break
		}
		ht.open(h)
	}
	return opened
}

func TestStreamsShareHops(t *testing.T) {
	ht := newHopsTest(t)
	if ht.s.Take(ht.e) != nil {
		t.Fatal("a hop from nowhere")
	}
	ht.adopt()
	if ht.s.Take(hopTo("10.0.0.3:9000")) != nil {
		t.Fatal("another endpoint's hop")
	}
	for range spreadHops - 1 {
		if n := ht.fill(100); n > spreadFrom {
			t.Errorf("%d streams were opened before another hop was wanted", n)
		}
		ht.adopt()
	}
	if n := ht.fill(500); n != 500 || ht.s.Len() != spreadHops {
		t.Errorf("%d streams were opened on %d hops", n, ht.s.Len())
	}
	for _, h := range ht.s.ends[ht.e].hops {
		if n := h.mux.Len(); n < 500/spreadHops || n > 520/spreadHops+1 {
			t.Errorf("a hop has %d of 500 streams", n)
		}
	}
}

// New streams avoid hops that carry bulk, up to a number of hops.
func TestBulkIsAvoided(t *testing.T) {
	ht := newHopsTest(t)
	for i := range maxHops {
		s, _ := ht.adopt()
		for n := 0; n < 20<<20; {
			k, err := s.Write(make([]byte, 64<<10))
			if n += k; err != nil {
				ht.loop.Run(t)
			}
		}
		if h := ht.s.Take(ht.e); (h == nil) != (i < maxHops-1) {
			t.Fatalf("with %d bulk hops: %v", i+1, h)
		}
	}
	ht.loop.Advance(t, 10*time.Second)
	if n := ht.fill(50); n != 50 {
		t.Errorf("%d streams were opened on hops that had carried bulk", n)
	}
}

func TestIdleHopsEnd(t *testing.T) {
	ht := newHopsTest(t)
	a, _ := ht.adopt()
	b, _ := ht.adopt()
	ht.adopt() // its stream goes on
	ht.finish(a)
	ht.finish(b)
	ht.loop.Advance(t, hopIdle/2)
	ht.finish(ht.open(ht.s.Take(ht.e)))
	ht.loop.Advance(t, hopIdle/2+hopIdle/5)
	if ht.s.Len() != 2 {
		t.Errorf("%d hops are left, want the one in use and the one that was used", ht.s.Len())
	}
	ht.loop.Advance(t, 2*hopIdle)
	if ht.s.Len() != 1 {
		t.Errorf("%d hops are left, want the one in use", ht.s.Len())
	}
}

func TestOldHopsTakeNobody(t *testing.T) {
	ht := newHopsTest(t)
	s, d := ht.adopt()
	d.old = true
	if ht.s.Take(ht.e) != nil || d.IsClosed() {
		t.Error("a hop of certificates that are out took a stream, or left its own")
	}
	ht.finish(s)
	if !d.IsClosed() || ht.s.Len() != 0 {
		t.Error("it is kept")
	}
	s, d = ht.adopt()
	ht.loop.Advance(t, hopAge)
	if ht.s.Take(ht.e) != nil {
		t.Error("a hop of another age took a stream")
	}
	ht.finish(s)
	if ht.s.Len() != 0 || !d.IsClosed() || len(ht.s.ends) != 0 {
		t.Error("a hop of another age is kept")
	}
}

func TestAHopThatBreaksIsForgotten(t *testing.T) {
	ht := newHopsTest(t)
	s, d := ht.adopt()
	d.Conn.Reset()
	s.Hop().Closed(d, aio.ErrReset)
	if ht.s.Len() != 0 || ht.s.Take(ht.e) != nil {
		t.Error("a hop that broke is there")
	}
}

// Who comes while a hop is being made waits for it, but not for long.
func TestTheWaitForAHop(t *testing.T) {
	ht := newHopsTest(t)
	called := 0
	wait := func() bool { return ht.s.Wait(ht.e, func() { called++ }) }
	if wait() {
		t.Fatal("nobody makes a hop")
	}
	ht.s.Making(ht.e)
	if !wait() || !wait() || called != 0 {
		t.Fatal("no wait")
	}
	ht.adopt()
	ht.s.Made(ht.e)
	ht.loop.Run(t)
	if called != 2 || wait() {
		t.Errorf("%d were called", called)
	}
	ht.s.Making(ht.e)
	if !wait() {
		t.Fatal("no wait")
	}
	ht.loop.Advance(t, 2*hopWait)
	if called != 3 {
		t.Error("the wait has no end")
	}
	ht.s.Made(ht.e)
	ht.loop.Run(t)
	if called != 3 {
		t.Error("called twice")
	}
}
