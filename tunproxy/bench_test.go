package tunproxy

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// pair is two sidecars and the two ends of a call on one loop in memory. What a
// request costs here is what the sidecars' own code and TLS cost, without TCP
// and the kernel.
//
//	caller ══ [ outbound of a ] ══ mTLS ══ [ inbound of b ] ══ server
type pair struct {
	tb   testing.TB
	loop *aiotest.Loop
	a, b *worker
	// target is what is behind service.
	target *discover.Target
	port   uint16 // the last ephemeral one
	// app takes a connection to the server behind b.
	app func(aio.Conn)
}

var (
	service = netip.MustParseAddrPort("10.96.0.1:80")
	behind  = netip.MustParseAddrPort("10.0.0.2:80")
	podA    = netip.MustParseAddr("10.0.0.1")
)

func workloadOf(name string) discover.Workload {
	return discover.WorkloadOf("", mtlstest.ID(name), discover.Labels{})
}

func newPair(tb testing.TB, app func(aio.Conn)) *pair {
	tb.Helper()
	p := &pair{tb: tb, loop: aiotest.NewLoop(), port: 40_000, app: app}
	p.loop.OnDial = p.dialed
	ca := mtlstest.NewCA(tb)
	p.target = discover.NewTarget(service, &discover.Snapshot{
		Kind: discover.Service, Authority: "web.test:80", Labels: map[string]string{"service": "web"},
		Endpoints: []discover.Endpoint{{Addr: behind, Weight: 1, Workload: workloadOf("b"), Own: discover.LabelsOf(map[string]string{"pod": "b-1"})}},
	})
	client := netip.AddrPortFrom(podA, behind.Port())
	caller := discover.NewTarget(client, &discover.Snapshot{Kind: discover.Pod, Endpoints: []discover.Endpoint{{Addr: client, Workload: workloadOf("a")}}})
	p.a = newWorker(p.sidecar(ca, mtlstest.ID("a"), podA, p.target), p.loop)
	p.b = newWorker(p.sidecar(ca, mtlstest.ID("b"), behind.Addr(), caller), p.loop)
	return p
}

// ask lets the Service's owner ask for something.
func (p *pair) ask(traffic *resilience.Policy) {
	s := *p.target.Load()
	s.Traffic = traffic
	p.target.Publish(&s)
}

// sidecar is what New makes, without a stack.
func (p *pair) sidecar(ca *mtlstest.CA, id spiffe.ID, addr netip.Addr, target *discover.Target) *Proxy {
	p.tb.Helper()
	policy, err := authz.New(authz.Config{Default: authz.AllAuthenticated, Probes: []authz.Probe{{Port: 80, Method: "GET", Path: "/ready"}}})
	if err != nil {
		p.tb.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	hub, err := tap.New(tap.Config{Pod: "test/" + id.ServiceAccount, Logger: logger})
	if err != nil {
		p.tb.Fatal(err)
	}
	s := &Proxy{cfg: Config{
		Addrs: []netip.Addr{addr}, Control: benchControl{target, discover.NewPolicy(policy, nil)},
		Identity: ca.Store(p.tb, id, mtls.Config{}), Metrics: telemetry.New(telemetry.Config{}, "bench"), Logger: logger, Tap: hub,
	}}
	s.observers = s.watchers()
	return s
}

// benchControl knows one target.
type benchControl struct {
	target *discover.Target
	policy *discover.Policy
}

func (c benchControl) Lookup(_ aio.Loop, _ netip.AddrPort, done func(*discover.Target, error)) func() {
	done(c.target, nil)
	return func() {}
}
func (c benchControl) Policy() *discover.Policy     { return c.policy }
func (benchControl) PolicyChanged() <-chan struct{} { return nil }
func (benchControl) Ready() error                   { return nil }

// offer is a SYN on an in-memory pipe.
type offer struct{ c *aiotest.Conn }

func (o offer) Client() netip.AddrPort    { return o.c.Remote() }
func (o offer) OrigDst() netip.AddrPort   { return o.c.Local() }
func (o offer) Accept() (aio.Conn, error) { return o.c, nil }
func (o offer) Refuse()                   { o.c.Reset() }

func (p *pair) pipe(src netip.Addr, dst netip.AddrPort) (near, far *aiotest.Conn) {
	p.port++
	return aiotest.PipeAddr(p.loop, 1<<20, netip.AddrPortFrom(src, p.port), dst)
}

// dialed is a connection that one of the sidecars makes.
func (p *pair) dialed(r aio.DialRequest) (aio.Conn, error) {
	near, far := p.pipe(r.Src.Addr(), r.Dst)
	if r.Side == aio.Wire {
		p.b.inbound(offer{far})
	} else {
		p.app(far)
	}
	return near, nil
}

// dial is a connection of the app behind a.
func (p *pair) dial() aio.Conn {
	near, far := p.pipe(podA, service)
	p.a.outbound(offer{far})
	return near
}

// until runs the loop, and the handshakes beside it.
func (p *pair) until(cond func() bool) {
	p.tb.Helper()
	p.loop.RunUntil(p.tb, 10*time.Second, cond)
}

// load is what makes calls, on any number of connections.
type load interface {
	// start makes n calls, so many of them at once.
	start(n, atOnce int)
	done() int
}

// caller makes calls over HTTP/2.
type caller struct {
	clients []*h2.Client
	head    *message.Head
	body    []byte
	left    int
	ok      int
	next    int
}

func (c *caller) start(n, atOnce int) {
	c.left, c.ok = n, 0
	for range min(n, atOnce) {
		c.next++
		c.call(c.clients[c.next%len(c.clients)])
	}
}

func (c *caller) done() int { return c.ok }

func (c *caller) call(on *h2.Client) {
	c.left--
	s, err := on.OpenStream()
	if err != nil {
		panic(err)
	}
	s.SetReceiver(c)
	s.SendHead(c.head, len(c.body) == 0)
	if len(c.body) > 0 {
		s.SendData(c.body, true)
	}
}

func (c *caller) ended(s message.Stream) {
	s.(message.Releaser).Release()
	c.ok++
	if c.left > 0 {
		c.next++
		c.call(c.clients[c.next%len(c.clients)])
	}
}

func (c *caller) Head(s message.Stream, h *message.Head, end bool) {
	if h.Status != 200 {
		panic(h.Status)
	}
	if end {
		c.ended(s)
	}
}

func (c *caller) Data(s message.Stream, p []byte, end bool) {
	s.Consumed(len(p))
	if end {
		c.ended(s)
	}
}
func (c *caller) Trailers(s message.Stream, _ []message.Field)        { c.ended(s) }
func (c *caller) Drained(message.Stream, int)                         {}
func (c *caller) Aborted(_ message.Stream, _ message.Code, err error) { panic(err) }

// responder answers calls over HTTP/2.
type responder struct {
	head     *message.Head
	body     []byte
	trailers []message.Field
	cfg      h2.Config
}

func (r *responder) take(c aio.Conn) {
	h2.NewServer(c, r.cfg, func(s message.Stream) { s.SetReceiver(r) })
}

func (r *responder) Head(s message.Stream, _ *message.Head, end bool) {
	if end {
		r.answer(s)
	}
}

func (r *responder) Data(s message.Stream, p []byte, end bool) {
	s.Consumed(len(p))
	if end {
		r.answer(s)
	}
}
func (r *responder) Trailers(s message.Stream, _ []message.Field) { r.answer(s) }
func (r *responder) Drained(message.Stream, int)                  {}
func (r *responder) Aborted(message.Stream, message.Code, error)  {}

func (r *responder) answer(s message.Stream) {
	s.SendHead(r.head, false)
	s.SendData(r.body, r.trailers == nil)
	if r.trailers != nil {
		s.SendTrailers(r.trailers)
	}
	s.(message.Releaser).Release()
}

// overHTTP2 is a load over so many connections, through a new pair.
func overHTTP2(tb testing.TB, conns int, c *caller, r *responder) (*pair, load) {
	r.cfg = h2.Config{Memory: h2.NewMemory(), Keepalive: h2.Keepalive{Interval: -1}}
	p := newPair(tb, r.take)
	for range conns {
		c.clients = append(c.clients, h2.NewClient(p.dial(), r.cfg))
	}
	return p, c
}

// grpcLoad is unary gRPC calls of 105 bytes.
func grpcLoad(tb testing.TB, conns int) (*pair, load) {
	return overHTTP2(tb, conns, &caller{
		head: &message.Head{
			Method: "POST", Scheme: "http", Authority: "voting.test:80", Path: "/voting.Vote/Cast", Version: message.HTTP2, ContentLength: -1,
			Fields: []message.Field{
				{Name: "content-type", Value: "application/grpc"},
				{Name: "user-agent", Value: "grpc-go/1.85.0"},
				{Name: "te", Value: "trailers"},
				{Name: "grpc-timeout", Value: "999m"},
			},
		},
		body: make([]byte, 105),
	}, &responder{
		head:     &message.Head{Status: 200, ContentLength: -1, Fields: []message.Field{{Name: "content-type", Value: "application/grpc"}}},
		body:     make([]byte, 105),
		trailers: []message.Field{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}},
	})
}

// http2Load is GETs over HTTP/2.
func http2Load(tb testing.TB, conns int) (*pair, load) {
	return overHTTP2(tb, conns, &caller{head: &message.Head{
		Method: "GET", Scheme: "http", Authority: "web.test", Path: "/api/list", Version: message.HTTP2, ContentLength: -1,
		Fields: []message.Field{{Name: "user-agent", Value: "h2load"}, {Name: "accept", Value: "*/*"}},
	}}, &responder{
		head: &message.Head{Status: 200, ContentLength: 128, Fields: []message.Field{
			{Name: "content-type", Value: "text/plain"}, {Name: "content-length", Value: "128"}, {Name: "date", Value: "Thu, 01 Jan 1970 00:00:00 GMT"},
		}},
		body: make([]byte, 128),
	})
}

const (
	http1Request  = "GET /api/list HTTP/1.1\r\nHost: web.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nX-Request-Id: 7f9a2c\r\n\r\n"
	http1Response = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello, world"
)

// browsers are connections of HTTP/1 that repeat one request.
type browsers struct {
	request []byte
	conns   []*browser
	size    int // of a response, as it arrives
	left    int
	ok      int
}

type browser struct {
	all     *browsers
	c       aio.Conn
	got     int
	scratch [4096]byte
}

func (b *browsers) start(n, atOnce int) {
	b.left, b.ok = n, 0
	for i := range min(n, atOnce) {
		b.conns[i].ask()
	}
}

func (b *browsers) done() int { return b.ok }

func (k *browser) ask() {
	k.all.left--
	write(k.c, k.all.request)
}

func write(c aio.Conn, p []byte) {
	if n, err := c.Write(p); n < len(p) {
		panic(err)
	}
}

func (k *browser) Readable(c aio.Conn) {
	n, err := c.Read(k.scratch[:])
	if n == 0 {
		panic(err)
	}
	if k.all.size == 0 { // the first response came whole
		if !bytes.HasSuffix(k.scratch[:n], []byte("\r\n\r\nhello, world")) || !bytes.HasPrefix(k.scratch[:n], []byte("HTTP/1.1 200 OK\r\n")) {
			panic(string(k.scratch[:n]))
		}
		k.all.size = n
	}
	for k.got += n; k.got >= k.all.size; k.got -= k.all.size {
		k.all.ok++
		if k.all.left > 0 {
			k.ask()
		}
	}
}
func (k *browser) Writable(aio.Conn)            {}
func (k *browser) Closed(_ aio.Conn, err error) { panic(err) }

// site answers them.
type site struct {
	response []byte
	scratch  [4096]byte
}

func (s *site) Readable(c aio.Conn) {
	n, _ := c.Read(s.scratch[:])
	for range bytes.Count(s.scratch[:n], []byte("\r\n\r\n")) {
		write(c, s.response)
	}
}
func (*site) Writable(aio.Conn)      {}
func (*site) Closed(aio.Conn, error) {}

// http1Load is GETs over HTTP/1 on so many connections.
func http1Load(tb testing.TB, conns int) (*pair, load) {
	p := newPair(tb, func(c aio.Conn) { c.SetHandler(&site{response: []byte(http1Response)}) })
	b := &browsers{request: []byte(http1Request)}
	for range conns {
		k := &browser{all: b, c: p.dial()}
		k.c.SetHandler(k)
		b.conns = append(b.conns, k)
	}
	b.start(1, 1)
	p.until(func() bool { return b.ok == 1 })
	return p, b
}

// warm makes connections, fills tables and pools.
func warm(p *pair, l load, atOnce int) {
	p.tb.Helper()
	for range 20 {
		l.start(10*atOnce, atOnce)
		p.until(func() bool { return l.done() == 10*atOnce })
	}
}

// BenchmarkExchange is a request through two sidecars.
func BenchmarkExchange(b *testing.B) {
	for _, k := range []struct {
		name   string
		load   func(testing.TB, int) (*pair, load)
		conns  int
		atOnce int
	}{
		{"grpc/1x1", grpcLoad, 1, 1},
		{"grpc/8x16", grpcLoad, 8, 128},
		{"http2/1x1", http2Load, 1, 1},
		{"http2/8x16", http2Load, 8, 128},
		{"http1/1", http1Load, 1, 1},
		{"http1/16", http1Load, 16, 16},
	} {
		b.Run(k.name, func(b *testing.B) {
			p, l := k.load(b, k.conns)
			warm(p, l, k.atOnce)
			b.ReportAllocs()
			b.ResetTimer()
			l.start(b.N, k.atOnce)
			for p.loop.Pass() {
			}
			if l.done() != b.N {
				b.Fatalf("%d calls of %d", l.done(), b.N)
			}
		})
	}
}

// BenchmarkObservers is what watching requests costs, through two sidecars: what
// can not be switched off in a sidecar is left out here.
func BenchmarkObservers(b *testing.B) {
	for _, k := range []struct {
		name   string
		load   func(testing.TB, int) (*pair, load)
		conns  int
		atOnce int
	}{{"grpc", grpcLoad, 8, 128}, {"http1", http1Load, 16, 16}} {
		for _, watch := range []struct {
			name string
			// change what p.observers has; connections that are open share it.
			change func(*Proxy)
		}{
			{"as-shipped", func(*Proxy) {}},
			{"without-metrics", func(p *Proxy) { p.observers[0] = unwatched{} }},
			{"without-tap", func(p *Proxy) { p.observers[1] = unwatched{} }},
			{"access-log", func(p *Proxy) {
				l := accesslog.New(accesslog.JSON, io.Discard)
				go l.Run(b.Context())
				p.observers[1] = both{p.observers[1], logged{l}}
			}},
			{"traced-1%", trace(0.01)},
			{"traced-100%", trace(1)},
		} {
			b.Run(k.name+"/"+watch.name, func(b *testing.B) {
				p, l := k.load(b, k.conns)
				for _, s := range []*Proxy{p.a.p, p.b.p} {
					if len(s.observers) != 2 {
						b.Fatalf("%d observers", len(s.observers))
					}
					watch.change(s)
				}
				warm(p, l, k.atOnce)
				b.ReportAllocs()
				b.ResetTimer()
				l.start(b.N, k.atOnce)
				for p.loop.Pass() {
				}
			})
		}
	}
}

// trace adds a tracer whose collector is away: spans are made and encoded, and not
// sent.
func trace(ratio float64) func(*Proxy) {
	return func(p *Proxy) {
		p.observers[1] = both{p.observers[1], traced{tracing.New(tracing.Config{Ratio: ratio})}}
	}
}

// unwatched hears nothing.
type unwatched struct{}

func (unwatched) Request(*exchange.Exchange)                 {}
func (unwatched) Response(*exchange.Exchange, *message.Head) {}
func (unwatched) End(*exchange.Exchange, *exchange.Result)   {}

// both is two observers.
type both [2]exchange.Observer

func (o both) Request(x *exchange.Exchange) { o[0].Request(x); o[1].Request(x) }
func (o both) Response(x *exchange.Exchange, h *message.Head) {
	o[0].Response(x, h)
	o[1].Response(x, h)
}
func (o both) End(x *exchange.Exchange, r *exchange.Result) { o[0].End(x, r); o[1].End(x, r) }

var (
	_ load = (*caller)(nil)
	_ load = (*browsers)(nil)
)
