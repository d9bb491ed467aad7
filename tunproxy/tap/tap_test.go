package tap_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plane is the control plane's end of a tap stream.
type plane struct {
	api.UnimplementedTapServer
	commands chan *api.Command
	hello    chan string
	read     chan struct{} // closed: messages are read
	leave    chan error    // ends the stream

	mu     sync.Mutex
	events []*api.Event
	packs  []*api.Packets
	lost   map[uint64]uint64
	told   int // messages about losses

	connections []*api.Connections
}

func (p *plane) Attach(s api.Tap_AttachServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	p.hello <- first.GetHello().GetPod()
	go func() {
		for {
			select {
			case c := <-p.commands:
				_ = s.Send(c)
			case <-s.Context().Done():
				return
			}
		}
	}()
	go func() {
		<-p.read
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			p.mu.Lock()
			if e := m.GetEvent(); e != nil {
				p.events = append(p.events, e)
			}
			if c := m.GetConnections(); c != nil {
				p.connections = append(p.connections, c)
			}
			if x := m.GetPackets(); x != nil {
				p.packs = append(p.packs, x)
			}
			if l := m.GetLost(); l != nil {
				p.lost[l.GetTap()] += l.GetEvents()
				p.told++
			}
			p.mu.Unlock()
		}
	}()
	select {
	case err := <-p.leave:
		return err
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

func (p *plane) seen() (events []*api.Event, lost uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.lost {
		lost += n
	}
	return append([]*api.Event{}, p.events...), lost
}

// many are the connections of a sidecar that has 3,000.
func many(_ context.Context, limit int) ([]wire.Connection, int) {
	all := make([]wire.Connection, limit)
	for i := range all {
		all[i].Protocol = "http/2"
	}
	return all, 3000
}

// world is a hub attached to a plane.
type world struct {
	t     *testing.T
	hub   *tap.Hub
	plane *plane
	ended chan error
	once  sync.Once
	now   time.Time
	mu    sync.Mutex
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t *testing.T, reading bool) *world {
	t.Helper()
	w := &world{t: t, now: time.Unix(1e9, 0), ended: make(chan error, 1), plane: &plane{
		commands: make(chan *api.Command), hello: make(chan string, 1), read: make(chan struct{}), leave: make(chan error, 1), lost: map[uint64]uint64{},
	}}
	if reading {
		close(w.plane.read)
	}
	srv := grpc.NewServer()
	api.RegisterTapServer(srv, w.plane)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if w.hub, err = tap.New(tap.Config{Pod: "prod/web-1", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), MaxTaps: 3, MaxRPS: 2500, Queue: 100, Now: w.clock, Connections: many, Own: netip.MustParseAddrPort("10.9.9.9:8086")}); err != nil {
		t.Fatal(err)
	}
	c := rpc.New(nc, rpc.Config{Authority: "x"})
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { _ = c.Run(ctx) })
	wg.Go(func() { w.ended <- w.hub.Attach(ctx, c) })
	t.Cleanup(func() {
		if !reading {
			w.open()
		}
		cancel()
		srv.Stop()
		wg.Wait()
	})
	if pod := <-w.plane.hello; pod != "prod/web-1" {
		t.Fatalf("hello from %q", pod)
	}
	return w
}

// open lets the plane read.
func (w *world) open() { w.once.Do(func() { close(w.plane.read) }) }

func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// command sends one and waits until it is obeyed: until a marker tap that
// follows it ended as well.
func (w *world) command(c *api.Command) {
	w.t.Helper()
	was := w.hub.Active()
	w.plane.commands <- c
	if c.Match == nil || c.MaxRps == 0 {
		w.eventually("a tap's end", func() bool { return !w.hub.Active() || was })
		time.Sleep(20 * time.Millisecond)
		return
	}
	w.eventually("a tap", w.hub.Active)
	time.Sleep(20 * time.Millisecond) // a further one
}

// begin begins a request, and shows it if a tap follows it.
func (w *world) begin(m *tap.Meta, head *message.Head) *tap.Span {
	s := w.hub.Begin(&tap.Meta{Direction: m.Direction, Source: tap.Peer{Addr: m.Source.Addr}, Destination: tap.Peer{Addr: m.Destination.Addr}}, head)
	s.Show(m, head)
	return s
}

func get(path string) *message.Head {
	return &message.Head{Method: "GET", Scheme: "http", Authority: "web.prod:80", Path: path, Fields: []message.Field{{Name: "user-agent", Value: "curl"}}}
}

func meta(d flow.Direction) *tap.Meta {
	return &tap.Meta{
		Direction:   d,
		Source:      tap.Peer{Addr: netip.MustParseAddrPort("10.1.0.1:40000"), Labels: map[string]string{"pod": "bot-1"}},
		Destination: tap.Peer{Addr: netip.MustParseAddrPort("10.1.0.2:8080"), Labels: map[string]string{"pod": "web-1"}},
		TLS:         "true", Route: map[string]string{"name": "default"},
	}
}

func TestEventsOfARequest(t *testing.T) {
	w := newWorld(t, true)
	if w.hub.Active() || w.begin(meta(flow.Inbound), get("/")) != nil {
		t.Error("followed although nobody watches")
	}
	w.command(&api.Command{Tap: 5, MaxRps: 100, Headers: true, Match: &api.Match{}})
	s := w.begin(meta(flow.Inbound), get("/a"))
	w.advance(1500 * time.Microsecond)
	s.Response(&message.Head{Status: 200, Fields: []message.Field{{Name: "server", Value: "x"}}})
	s.Response(&message.Head{Status: 500}) // only the first counts
	w.advance(2 * time.Millisecond)
	end := tap.Result{Bytes: 77, GRPC: 0, Trailers: []message.Field{{Name: "grpc-status", Value: "0"}}}
	s.End(end)
	s.End(end)
	w.eventually("three events", func() bool { e, _ := w.plane.seen(); return len(e) == 3 })
	e, lost := w.plane.seen()
	if lost != 0 {
		t.Errorf("%d lost", lost)
	}
	for i, x := range e {
		if x.GetTap() != 5 || x.GetStream() != e[0].GetStream() || x.GetBase() != e[0].GetBase() || x.GetDirection() != "in" || x.GetTls() != "true" ||
			x.GetSource().GetIp() != "10.1.0.1" || x.GetSource().GetPort() != 40000 || x.GetDestination().GetLabels()["pod"] != "web-1" || x.GetRoute()["name"] != "default" {
			t.Errorf("event %d: %v", i, x)
		}
	}
	req, rsp, fin := e[0].GetRequest(), e[1].GetResponse(), e[2].GetEnd()
	if req.GetMethod() != "GET" || req.GetPath() != "/a" || req.GetAuthority() != "web.prod:80" || len(req.GetHeaders()) != 1 || string(req.GetHeaders()[0].GetValue()) != "curl" {
		t.Errorf("request %v", req)
	}
	if rsp.GetStatus() != 200 || rsp.GetSinceRequestUs() != 1500 || rsp.GetHeaders()[0].GetName() != "server" {
		t.Errorf("response %v", rsp)
	}
	if fin.GetSinceRequestUs() != 3500 || fin.GetSinceResponseUs() != 2000 || fin.GetResponseBytes() != 77 || fin.GrpcStatus == nil || fin.GetGrpcStatus() != 0 || fin.Reset_ != nil || len(fin.GetTrailers()) != 1 {
		t.Errorf("end %v", fin)
	}
	// A reset without a response, and no header fields where none were asked for.
	w.command(&api.Command{Tap: 5, MaxRps: 100, Match: &api.Match{}})
	s = w.begin(meta(flow.Outbound), get("/b"))
	s.End(tap.Result{GRPC: -1, WasReset: true, Reset: message.Cancel})
	w.eventually("five events", func() bool { e, _ := w.plane.seen(); return len(e) == 5 })
	e, _ = w.plane.seen()
	if fin := e[4].GetEnd(); fin.GetReset_() != 8 || fin.GrpcStatus != nil || fin.GetSinceResponseUs() != 0 || e[4].GetDirection() != "out" || len(e[3].GetRequest().GetHeaders()) != 0 {
		t.Errorf("%v", e[3:])
	}
	if e[3].GetStream() == e[0].GetStream() {
		t.Error("two requests of one id")
	}
	w.command(&api.Command{Tap: 5})
	w.eventually("nobody watches", func() bool { return !w.hub.Active() })
}

func TestMatch(t *testing.T) {
	w := newWorld(t, true)
	for i, c := range []struct {
		m         *api.Match
		head      *message.Head
		direction flow.Direction
		want      bool
	}{
		{&api.Match{Method: "get"}, get("/"), flow.Inbound, true},
		{&api.Match{Method: "POST"}, get("/"), flow.Inbound, false},
		{&api.Match{Scheme: "https"}, get("/"), flow.Inbound, false},
		{&api.Match{Authority: "WEB.prod:80"}, get("/"), flow.Inbound, true},
		{&api.Match{Authority: "web"}, get("/"), flow.Inbound, false},
		{&api.Match{PathPrefix: "/api"}, get("/api/x"), flow.Inbound, true},
		{&api.Match{PathPrefix: "/api"}, get("/ap"), flow.Inbound, false},
		{&api.Match{Direction: "in"}, get("/"), flow.Inbound, true},
		{&api.Match{Direction: "in"}, get("/"), flow.Outbound, false},
		{&api.Match{Direction: "out"}, get("/"), flow.Outbound, true},
		{&api.Match{Direction: "out"}, get("/"), flow.Inbound, false},
		// The peer is the other end.
		{&api.Match{Peers: []string{"10.9.9.9", "10.1.0.1"}}, get("/"), flow.Inbound, true},
		{&api.Match{Peers: []string{"10.1.0.2"}}, get("/"), flow.Inbound, false},
		{&api.Match{Peers: []string{"::ffff:10.1.0.2"}}, get("/"), flow.Outbound, true},
		{&api.Match{Peers: []string{"10.1.0.1"}}, get("/"), flow.Outbound, false},
	} {
		w.command(&api.Command{Tap: 1, MaxRps: 1000, Match: c.m})
		if got := w.begin(meta(c.direction), c.head) != nil; got != c.want {
			t.Errorf("%d: %v matches: %v", i, c.m, got)
		}
	}
}

// Commands that make no sense, or one too many, change nothing.
func TestBadCommands(t *testing.T) {
	w := newWorld(t, true)
	for i := range 3 {
		w.command(&api.Command{Tap: uint64(i), MaxRps: 1000, Match: &api.Match{PathPrefix: "/only"}})
	}
	w.command(&api.Command{Tap: 9, MaxRps: 1000, Match: &api.Match{}}) // the fourth
	w.command(&api.Command{Tap: 0, MaxRps: 1000, Match: &api.Match{Direction: "up"}})
	w.command(&api.Command{Tap: 0, MaxRps: 1000, Match: &api.Match{Peers: []string{"web"}}})
	if w.begin(meta(flow.Inbound), get("/x")) != nil {
		t.Error("a refused command is in force")
	}
	s := w.begin(meta(flow.Inbound), get("/only"))
	if s == nil {
		t.Fatal("the good ones are gone")
	}
	w.eventually("an event for each", func() bool { e, _ := w.plane.seen(); return len(e) == 3 })
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t, true)
	w.command(&api.Command{Tap: 1, MaxRps: 10, Match: &api.Match{}})
	followed := 0
	for range 50 {
		if w.begin(meta(flow.Inbound), get("/")) != nil {
			followed++
		}
	}
	if followed != 10 {
		t.Errorf("%d of 50 followed at once", followed)
	}
	w.eventually("the rest counted", func() bool { _, lost := w.plane.seen(); return lost == 40 })
	// Requests that do not match are not counted, and cost no share of the rate.
	w.advance(500 * time.Millisecond)
	for range 50 {
		if w.begin(meta(flow.Inbound), get("/")) != nil {
			followed++
		}
	}
	if followed != 15 {
		t.Errorf("%d followed after half a second, want 5 more", followed-10)
	}
}

// TestRateOfAll: a sidecar follows only so many requests, whatever a tap asks for.
func TestRateOfAll(t *testing.T) {
	w := newWorld(t, true)
	w.command(&api.Command{Tap: 1, MaxRps: 10_000, Match: &api.Match{}})
	followed := 0
	for range 4000 {
		if w.begin(meta(flow.Inbound), get("/")) != nil {
			followed++
		}
	}
	if followed != 2500 {
		t.Errorf("%d of 4000 followed at once", followed)
	}
	w.eventually("the rest counted", func() bool { e, lost := w.plane.seen(); return len(e)+int(lost) == 4000 })
}

// TestLossesAddUp: a tap of which nearly all requests are beyond its rate does not
// send a message for each.
func TestLossesAddUp(t *testing.T) {
	w := newWorld(t, true)
	w.command(&api.Command{Tap: 1, MaxRps: 1, Match: &api.Match{}})
	w.begin(meta(flow.Inbound), get("/"))
	began := time.Now()
	const n = 300
	for range n {
		if w.begin(meta(flow.Inbound), get("/")) != nil {
			t.Fatal("followed beyond the rate")
		}
		time.Sleep(time.Millisecond)
	}
	w.eventually("all losses told", func() bool { _, lost := w.plane.seen(); return lost == n })
	w.plane.mu.Lock()
	defer w.plane.mu.Unlock()
	if most := int(time.Since(began)/(250*time.Millisecond)) + 1; w.plane.told > most {
		t.Errorf("told %d times of losses in %v", w.plane.told, time.Since(began))
	}
}

// A control plane that does not read: events are dropped and counted, and no
// request waits.
func TestSlowWatcher(t *testing.T) {
	w := newWorld(t, false)
	w.command(&api.Command{Tap: 1, MaxRps: 1_000_000, Headers: true, Match: &api.Match{}})
	head := get("/")
	head.Fields = append(head.Fields, message.Field{Name: "large", Value: string(make([]byte, 10_000))})
	const n = 2000
	began := time.Now()
	for range n {
		w.begin(meta(flow.Inbound), head)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("%d requests took %v", n, d)
	}
	w.plane.mu.Lock()
	got := len(w.plane.events)
	w.plane.mu.Unlock()
	if got != 0 {
		t.Fatal("the plane reads")
	}
	close(w.plane.read)
	w.eventually("events and losses add up", func() bool { e, lost := w.plane.seen(); return len(e)+int(lost) == n })
	if _, lost := w.plane.seen(); lost == 0 {
		t.Error("nothing was lost: the test shows nothing")
	}
	w.plane.read = make(chan struct{}) // for the cleanup
}

// A tap that is changed while it runs loses nothing of what is under way.
func TestReplace(t *testing.T) {
	w := newWorld(t, true)
	w.command(&api.Command{Tap: 1, MaxRps: 100, Match: &api.Match{}})
	s := w.begin(meta(flow.Inbound), get("/"))
	w.command(&api.Command{Tap: 1, MaxRps: 100, Match: &api.Match{Peers: []string{"10.1.0.1"}}})
	s.Response(&message.Head{Status: 200})
	s.End(tap.Result{GRPC: -1})
	w.eventually("all three", func() bool { e, _ := w.plane.seen(); return len(e) == 3 })
}

// The stream's end ends all taps: who watches asks anew.
func TestStreamEnds(t *testing.T) {
	w := newWorld(t, true)
	w.command(&api.Command{Tap: 1, MaxRps: 100, Match: &api.Match{}})
	w.plane.leave <- errors.New("enough")
	if err := <-w.ended; rpc.CodeOf(err) != rpc.Unknown {
		t.Errorf("Attach: %v", err)
	}
	if w.hub.Active() {
		t.Error("still watched by nobody")
	}
}

func TestNilSpan(t *testing.T) {
	var s *tap.Span
	s.Response(get("/"))
	s.End(tap.Result{})
}

func TestConfig(t *testing.T) {
	if _, err := tap.New(tap.Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
}

// TestNobodyWatchesCostsNothing: no memory and no event, before the first tap and
// after the last.
func TestNobodyWatchesCostsNothing(t *testing.T) {
	w := newWorld(t, true)
	head, m := get("/"), meta(flow.Inbound)
	free := func(when string) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, func() {
			if w.hub.Active() {
				t.Error("watched")
			}
			s := w.hub.Begin(m, head)
			s.Response(head)
			s.End(tap.Result{})
		}); n != 0 {
			t.Errorf("%s: %v allocations for a request", when, n)
		}
	}
	free("before")
	w.command(&api.Command{Tap: 1, MaxRps: 10, Match: &api.Match{}})
	w.command(&api.Command{Tap: 1})
	free("after")
	if e, lost := w.plane.seen(); len(e) != 0 || lost != 0 {
		t.Errorf("%d events and %d lost of requests that nobody watched", len(e), lost)
	}
}

func BenchmarkNobodyWatches(b *testing.B) {
	h, err := tap.New(tap.Config{Pod: "a/b", Logger: slog.Default()})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if h.Active() {
			b.Fatal("watched")
		}
	}
}

// TestQuestions: the sidecar's connections come in parts, under the question's number.
func TestQuestions(t *testing.T) {
	w := newWorld(t, true)
	w.plane.commands <- &api.Command{Ask: &api.Ask{Id: 7, Limit: 250}}
	var got []*api.Connections
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.plane.mu.Lock()
		got = append([]*api.Connections{}, w.plane.connections...)
		w.plane.mu.Unlock()
		if len(got) > 0 && !got[len(got)-1].GetMore() {
			break
		}
	}
	n := 0
	for i, c := range got {
		n += len(c.GetConnections())
		if c.GetId() != 7 || c.GetTotal() != 3000 || c.GetMore() != (i < len(got)-1) || len(c.GetConnections()) > 100 {
			t.Errorf("part %d: id %d, total %d, more %v, %d connections", i, c.GetId(), c.GetTotal(), c.GetMore(), len(c.GetConnections()))
		}
	}
	if n != 250 || got[0].GetConnections()[0].GetProtocol() != "http/2" {
		t.Errorf("%d connections in %d parts", n, len(got))
	}
}
