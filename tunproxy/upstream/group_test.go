package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// fakeClient has room for a number of streams.
type fakeClient struct {
	conn             aio.Conn
	room, gone       func()
	over             func(error)
	active, limit    int
	closing, closedC bool
}

type fakeStream struct {
	message.Stream
	c *fakeClient
}

var errNoRoom = errors.New("no room")

func (f *fakeClient) OpenStream() (message.Stream, error) {
	if f.closing || f.active >= f.limit {
		return nil, errNoRoom
	}
	f.active++
	return &fakeStream{c: f}, nil
}

func (f *fakeClient) finish() {
	f.active--
	if f.closing && f.active == 0 {
		f.over(nil)
		return
	}
	f.room()
}

func (f *fakeClient) Closing() {
	if f.closing {
		return
	}
	f.closing = true
	f.gone()
	if f.active == 0 {
		f.over(nil)
	}
}
func (f *fakeClient) Close() { f.closing = true; f.over(nil) }

type rig struct {
	t       *testing.T
	loop    *aiotest.Loop
	pool    *Pool
	clients []*fakeClient
	peers   []*aiotest.Conn
	limit   int
	dialErr error
	tlsErr  error
	dials   int
	secured []string
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, loop: aiotest.NewLoop(), limit: 2}
	r.loop.OnDial = func(aio.DialRequest) (aio.Conn, error) {
		r.dials++
		if r.dialErr != nil {
			return nil, r.dialErr
		}
		c, peer := aiotest.Pipe(r.loop, 0)
		r.peers = append(r.peers, peer)
		return c, nil
	}
	secure := func(c aio.Conn, id spiffe.ID, alpn string, done func(aio.Conn, error)) func() {
		r.secured = append(r.secured, id.ServiceAccount+" "+alpn)
		r.loop.Post(func() {
			if r.tlsErr != nil {
				c.Reset()
				done(nil, r.tlsErr)
				return
			}
			done(c, nil)
		})
		return func() {}
	}
	speak := func(limit *int) Speak {
		return func(_ Endpoint, c aio.Conn, room, gone func(), over func(error)) Client {
			f := &fakeClient{conn: c, room: room, gone: gone, over: over, limit: *limit}
			r.clients = append(r.clients, f)
			return f
		}
	}
	one := 1
	r.pool = NewPool(NewDialer(r.loop, secure), speak(&one), speak(&r.limit))
	return r
}

var (
	meshed = Endpoint{Side: aio.Wire, Addr: netip.MustParseAddrPort("10.0.0.9:80"), ID: spiffe.ID{TrustDomain: "td", Namespace: "ns", ServiceAccount: "web"}}
	plain  = Endpoint{Side: aio.Wire, Addr: netip.MustParseAddrPort("10.0.0.8:80")}
)

type waiter struct {
	s   message.Stream
	err error
}

func (w *waiter) Ready(s message.Stream) { w.s = s }
func (w *waiter) Failed(err error)       { w.err = err }

func (r *rig) get(g *Group) *waiter {
	w := &waiter{}
	if s, ok := g.Open(); ok {
		w.s = s
		return w
	}
	g.Wait(w)
	return w
}

func TestOneHTTP2ConnectionServesMany(t *testing.T) {
	r := newRig(t)
	r.limit = 100
	g := r.pool.Hold(meshed, HTTP2)
	var ws []*waiter
	for range 50 {
		ws = append(ws, r.get(g))
	}
	r.loop.Run(t)
	for i, w := range ws {
		if w.s == nil {
			t.Fatalf("waiter %d: %v", i, w.err)
		}
	}
	if r.dials != 1 || len(r.secured) != 1 || r.secured[0] != "web "+hop.ALPNRequests {
		t.Fatalf("%d dials, handshakes %q", r.dials, r.secured)
	}
	if _, ok := g.Open(); !ok {
		t.Fatal("a ready connection gives no stream at once")
	}
}

func TestMoreStreamsThanThePeerAllows(t *testing.T) {
	r := newRig(t) // 2 streams a connection
	g := r.pool.Hold(meshed, HTTP2)
	var ws []*waiter
	for range 2*maxHTTP2 + 3 {
		ws = append(ws, r.get(g))
	}
	r.loop.Run(t)
	if r.dials != maxHTTP2 {
		t.Fatalf("%d connections, want %d", r.dials, maxHTTP2)
	}
	ready := 0
	for _, w := range ws {
		if w.s != nil {
			ready++
		}
	}
	if ready != 2*maxHTTP2 {
		t.Fatalf("%d streams, want %d", ready, 2*maxHTTP2)
	}
	r.clients[3].finish()
	if ws[2*maxHTTP2].s == nil {
		t.Fatal("room that came free went to nobody")
	}
}

func TestHTTP1TakesAConnectionForEachExchangeAndReusesIt(t *testing.T) {
	r := newRig(t)
	g := r.pool.Hold(plain, HTTP1)
	a, b := r.get(g), r.get(g)
	r.loop.Run(t)
	if a.s == nil || b.s == nil || r.dials != 2 || len(r.secured) != 0 {
		t.Fatalf("streams %v %v, %d dials, handshakes %q", a.s, b.s, r.dials, r.secured)
	}
	a.s.(*fakeStream).c.finish()
	if c := r.get(g); c.s == nil || r.dials != 2 {
		t.Fatalf("an idle connection was not used again: %d dials", r.dials)
	}
}

func TestRefusedReachesTheWaiters(t *testing.T) {
	r := newRig(t)
	r.dialErr = aio.ErrRefused
	g := r.pool.Hold(meshed, HTTP2)
	a, b := r.get(g), r.get(g)
	r.loop.Run(t)
	if !errors.Is(a.err, aio.ErrRefused) || !errors.Is(b.err, aio.ErrRefused) {
		t.Fatalf("errors %v and %v", a.err, b.err)
	}
	r.dialErr = nil // the app is back: no rest after a refusal
	if w := r.get(g); true {
		r.loop.Run(t)
		if w.s == nil {
			t.Fatal(w.err)
		}
	}
}

func TestAFailedHandshakeNeverFallsBackAndRests(t *testing.T) {
	r := newRig(t)
	r.tlsErr = errors.New("wrong identity")
	g := r.pool.Hold(meshed, HTTP2)
	w := r.get(g)
	r.loop.Run(t)
	if w.err == nil || len(r.clients) != 0 {
		t.Fatalf("err %v, %d clients", w.err, len(r.clients))
	}
	if got := r.peers[0].Take(); len(got) != 0 {
		t.Fatalf("plain bytes after a failed handshake: %q", got)
	}
	w = r.get(g)
	r.loop.Run(t)
	if w.err == nil || r.dials != 1 {
		t.Fatalf("err %v, %d dials: the endpoint did not rest", w.err, r.dials)
	}
	r.tlsErr = nil
	r.loop.Advance(t, maxRest)
	w = r.get(g)
	r.loop.Run(t)
	if w.s == nil {
		t.Fatalf("after the rest: %v", w.err)
	}
}

func TestAdoptedConnectionSavesADial(t *testing.T) {
	for _, kind := range []Kind{HTTP1, HTTP2} {
		r := newRig(t)
		g := r.pool.Hold(meshed, kind)
		c, peer := aiotest.Pipe(r.loop, 0)
		g.Adopt(c)
		w := r.get(g)
		r.loop.Run(t)
		if w.s == nil || r.dials != 0 {
			t.Fatalf("kind %d: err %v, %d dials", kind, w.err, r.dials)
		}
		if kind == HTTP2 {
			c2, peer2 := aiotest.Pipe(r.loop, 0)
			g.Adopt(c2)
			r.loop.Run(t)
			if !peer2.EOF() || len(r.clients) != 1 {
				t.Fatal("a connection that is not needed was kept")
			}
		}
		if peer.EOF() {
			t.Fatal("the adopted connection was closed")
		}
	}
}

func TestAdoptedConnectionsLeaveWithTheirClients(t *testing.T) {
	r := newRig(t)
	r.limit = 1
	g := r.pool.Hold(meshed, HTTP1)
	open := func() (n int) {
		for _, c := range r.clients {
			if !c.closing {
				n++
			}
		}
		return n
	}
	adopt := func() {
		c, _ := aiotest.Pipe(r.loop, 0)
		g.AdoptFor(c)
		r.loop.Run(t)
	}
	for range 3 {
		adopt()
	}
	busy := r.get(g)
	if busy.s == nil || r.dials != 0 || open() != 3 {
		t.Fatalf("%v, %d dials, %d connections", busy.err, r.dials, open())
	}
	g.Left()
	g.Left()
	if open() != 1 {
		t.Fatalf("%d connections for one client, want 1", open())
	}
	if c := busy.s.(*fakeStream).c; c.closing {
		t.Fatal("the one with an exchange went before idle ones")
	}
	// What a client broke is not made up for by another's connection.
	adopt()
	busy.s.(*fakeStream).c.Close()
	g.Left()
	if open() != 1 {
		t.Fatalf("%d connections, want the other client's", open())
	}
	g.Left()
	if open() != 0 {
		t.Fatalf("%d connections for nobody", open())
	}

	// A connection that many share stays for the next.
	shared := r.pool.Hold(meshed, HTTP2)
	c, _ := aiotest.Pipe(r.loop, 0)
	shared.AdoptFor(c)
	r.loop.Run(t)
	shared.Left()
	if open() != 1 {
		t.Fatal("a shared connection left with its client")
	}
}

func TestALostConnectionIsReplaced(t *testing.T) {
	r := newRig(t)
	g := r.pool.Hold(meshed, HTTP2)
	r.get(g)
	r.loop.Run(t)
	r.clients[0].over(aio.ErrReset)
	if g.Live() {
		t.Fatal("a dead connection counts as live")
	}
	w := r.get(g)
	r.loop.Run(t)
	if w.s == nil || r.dials != 2 {
		t.Fatalf("err %v, %d dials", w.err, r.dials)
	}
}

func TestReleasedGroupDrains(t *testing.T) {
	r := newRig(t)
	g := r.pool.Hold(meshed, HTTP2)
	r.get(g)
	r.loop.Run(t)
	g.Release()
	if r.pool.Hold(meshed, HTTP2) != g {
		t.Fatal("a group held again is another")
	}
	g.Release()
	r.loop.Advance(t, 2*linger)
	if !r.clients[0].closing || r.pool.Len() != 0 {
		t.Fatalf("closing %v, %d groups", r.clients[0].closing, r.pool.Len())
	}
	if r.clients[0].closedC || r.clients[0].active != 1 {
		t.Fatal("the stream under way was cut")
	}
	r.clients[0].finish()
}

func TestTheQueueIsBounded(t *testing.T) {
	r := newRig(t)
	r.loop.OnDial = func(aio.DialRequest) (aio.Conn, error) { return nil, aio.ErrRefused }
	g := r.pool.Hold(meshed, HTTP2)
	ws := make([]waiter, maxWaiting)
	for i := range ws {
		g.Wait(&ws[i])
	}
	var w waiter
	g.Wait(&w)
	if !errors.Is(w.err, ErrOverload) {
		t.Fatalf("err %v", w.err)
	}
	g.Forget(&ws[0])
	r.loop.Run(t)
	if ws[0].err != nil || ws[1].err == nil {
		t.Fatalf("forgotten %v, waiting %v", ws[0].err, ws[1].err)
	}
}

func TestErrorsNameTheEndpoint(t *testing.T) {
	r := newRig(t)
	r.dialErr = aio.ErrRefused
	var got error
	NewDialer(r.loop, nil).TCP(meshed, func(_ aio.Conn, err error) { got = err })
	r.loop.Advance(t, time.Second)
	if want := fmt.Sprintf("dial %s: %v", meshed, aio.ErrRefused); got == nil || got.Error() != want {
		t.Fatalf("got %v, want %s", got, want)
	}
}
