package upstream

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/lane"
)

// farSide accepts whatever a lane asks for, and ends its streams in order.
type farSide struct {
	s *lane.Stream
}

func (*farSide) Idle(*lane.Lane)        {}
func (*farSide) Gone(*lane.Lane)        {}
func (*farSide) Writable(aio.Conn)      {}
func (*farSide) Closed(aio.Conn, error) {}
func (f *farSide) Asked(l *lane.Lane)   { f.serve(l.Accept()) }
func (f *farSide) serve(s *lane.Stream) { f.s = s; s.SetHandler(f) }
func (f *farSide) Readable(aio.Conn) {
	if _, err := f.s.Read(make([]byte, 10)); !errors.Is(err, aio.ErrWouldBlock) {
		_ = f.s.CloseWrite()
		f.s.Close()
	}
}

// dated is a connection whose certificates may be out of date.
type dated struct {
	*aiotest.Conn
	old bool
}

func (d *dated) Current() bool { return !d.old }

func laneTo(addr string) Endpoint {
	return Endpoint{Side: aio.Wire, Addr: netip.MustParseAddrPort(addr), Src: netip.MustParseAddr("10.0.0.1")}
}

type lanesTest struct {
	t    *testing.T
	loop *aiotest.Loop
	s    *Lanes
	e    Endpoint
}

func newLanesTest(t *testing.T) *lanesTest {
	l := aiotest.NewLoop()
	return &lanesTest{t: t, loop: l, s: NewLanes(l), e: laneTo("10.0.0.2:9000")}
}

// stream makes a lane, and returns its open stream.
func (lt *lanesTest) stream() (*lane.Stream, *dated) {
	a, b := aiotest.Pipe(lt.loop, 0)
	d := &dated{Conn: a}
	s := lt.s.Adopt(lt.e, d)
	f := &farSide{}
	f.serve(lane.Server(b, f))
	return s, d
}

// finish ends a stream in order.
func (lt *lanesTest) finish(s *lane.Stream) {
	lt.t.Helper()
	_ = s.CloseWrite()
	lt.loop.Run(lt.t)
	if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, aio.ErrWouldBlock) {
		lt.t.Fatal("no FIN from the far side", err)
	}
	s.Close()
	lt.loop.Run(lt.t)
}

func (lt *lanesTest) reopen(l *lane.Lane) *lane.Stream {
	lt.t.Helper()
	var got *lane.Stream
	l.Open(time.Second, func(s *lane.Stream, err error) {
		if err != nil {
			lt.t.Fatal(err)
		}
		got = s
	})
	lt.loop.Run(lt.t)
	return got
}

func TestLanesServeAgain(t *testing.T) {
	lt := newLanesTest(t)
	if lt.s.Take(lt.e) != nil {
		t.Fatal("a lane from nowhere")
	}
	s, _ := lt.stream()
	if lt.s.Len() != 0 || lt.s.Take(lt.e) != nil {
		t.Fatal("a lane in use is idle")
	}
	for range 3 {
		lt.finish(s)
		if other := lt.s.Take(laneTo("10.0.0.3:9000")); other != nil || lt.s.Len() != 1 {
			t.Fatal("another endpoint's lane")
		}
		l := lt.s.Take(lt.e)
		if l == nil || lt.s.Len() != 0 {
			t.Fatal("no idle lane")
		}
		s = lt.reopen(l)
	}
}

func TestIdleLanesAreFewAndEnd(t *testing.T) {
	lt := newLanesTest(t)
	var streams []*lane.Stream
	for range maxIdleLanesEach + 10 {
		s, _ := lt.stream()
		streams = append(streams, s)
	}
	for _, s := range streams {
		lt.finish(s)
	}
	if lt.s.Len() != maxIdleLanesEach {
		t.Errorf("%d idle lanes, want %d", lt.s.Len(), maxIdleLanesEach)
	}
	lt.loop.Advance(t, laneIdle/2)
	used := lt.reopen(lt.s.Take(lt.e))
	lt.finish(used)
	lt.loop.Advance(t, laneIdle/2+laneIdle/5)
	if lt.s.Len() != 1 {
		t.Errorf("%d lanes are left, want the one that was used", lt.s.Len())
	}
	lt.loop.Advance(t, 2*laneIdle)
	if lt.s.Len() != 0 || len(lt.s.idle) != 0 {
		t.Errorf("%d lanes are left", lt.s.Len())
	}
}

func TestOldLanesServeNobody(t *testing.T) {
	lt := newLanesTest(t)
	s, d := lt.stream()
	lt.finish(s)
	d.old = true
	if lt.s.Take(lt.e) != nil || !d.IsClosed() {
		t.Error("a lane of certificates that are out was taken")
	}
	s, d = lt.stream()
	lt.loop.Advance(t, laneAge)
	lt.finish(s)
	if lt.s.Len() != 0 || !d.IsClosed() {
		t.Error("a lane of another age is kept")
	}
}

func TestALaneThatBreaksIsForgotten(t *testing.T) {
	lt := newLanesTest(t)
	s, d := lt.stream()
	lt.finish(s)
	d.Conn.Reset()
	s.Lane().Closed(d, aio.ErrReset)
	if lt.s.Len() != 0 || lt.s.Take(lt.e) != nil {
		t.Error("a lane that broke is idle")
	}
}
