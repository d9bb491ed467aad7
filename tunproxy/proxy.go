package tunproxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
	"github.com/tunmesh/tunmesh/tunproxy/datagram"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// Control is what the control plane says (discover.Client).
type Control interface {
	// Lookup calls done on the loop: from inside when the answer is known, else
	// after a bounded wait. An error means that nobody knows.
	Lookup(loop aio.Loop, dst netip.AddrPort, done func(*discover.Target, error)) (cancel func())
	// Policy is what the pod accepts now; nil while unknown. PolicyChanged is
	// closed at its next change.
	Policy() *discover.Policy
	PolicyChanged() <-chan struct{}
	// Ready says why the sidecar can't serve yet.
	Ready() error
}

// Config of a sidecar. Fields without a default are required.
type Config struct {
	// App and Wire are the queues of the pod's two TUNs, one pair for each loop.
	// The proxy owns them from New on.
	App, Wire []netstack.Device
	// Addrs are the pod's addresses, MTU that of the TUNs.
	Addrs []netip.Addr
	MTU   int
	// AllowProtocols are IP protocols forwarded besides TCP, UDP and ICMP.
	AllowProtocols []uint8

	Control  Control
	Identity *mtls.Store
	Metrics  *telemetry.Metrics
	Logger   *slog.Logger
	// Level is what /log-level reads and writes; nil: a level that moves nothing.
	Level *slog.LevelVar

	// Unseen is how long loops may sleep without the scheduler's knowledge, as
	// netstack has it; 0: its default.
	Unseen time.Duration

	// Admin are listeners of the pod's loopback interface for port 4191; none:
	// the admin interface is on the wire only. The proxy owns them from New on.
	Admin []net.Listener
	// Describe is printed by /config.
	Describe any
	// Limits bound what clients may cost.
	Limits Limits
	// Grace bounds draining; 0: two minutes.
	Grace time.Duration
	// Tap shows requests to whoever watches; nil: to nobody.
	Tap *tap.Hub
	// AccessLog has a line for each request to the pod; nil: there is none. Whoever
	// made it runs it.
	AccessLog *accesslog.Log
	// Tracer makes spans of requests; nil: nobody does. Whoever made it runs it.
	Tracer *tracing.Tracer
}

const defaultGrace = 2 * time.Minute

// Proxy is a sidecar.
type Proxy struct {
	cfg     Config
	stack   *netstack.Stack
	workers []*worker
	byLoop  map[aio.Loop]*worker
	admin   *admin

	h1 h1.Counters
	h2 h2.Counters

	observers []exchange.Observer
	udp       *datagram.Table

	handshakes, denials sometimes // of the log

	draining atomic.Bool
	// Streams of byte hops to other sidecars: the first of a connection, and
	// those that found one.
	hopsMade, hopsReused atomic.Uint64

	active   atomic.Int64 // exchanges and byte connections under way
	serving  atomic.Int64 // HTTP clients' connections
	stop     chan struct{}
	stopOnce sync.Once
}

// New makes a sidecar; nothing runs before Run.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg, udp: datagram.New(cfg.Metrics.Datagrams, nil), byLoop: make(map[aio.Loop]*worker), stop: make(chan struct{})}
	if p.cfg.Grace == 0 {
		p.cfg.Grace = defaultGrace
	}
	if p.cfg.Level == nil {
		p.cfg.Level = new(slog.LevelVar)
	}
	var err error
	p.stack, err = netstack.New(netstack.Config{
		App: cfg.App, Wire: cfg.Wire, Addrs: cfg.Addrs, MTU: cfg.MTU,
		AllowProtocols: cfg.AllowProtocols, OnSYN: p.syn, OnUDP: p.udp.Seen, Logger: cfg.Logger, Reserved: annotation.AdminPort,
		MaxConns: cfg.Limits.Connections, MaxHeld: cfg.Limits.TCPBytes, Unseen: cfg.Unseen,
	})
	if err != nil {
		return nil, fmt.Errorf("make a sidecar: %w", err)
	}
	p.observers = p.watchers()
	if cfg.Tap != nil {
		cfg.Tap.SetPackets(tap.Packets{Watch: p.watchPackets, Connections: func() int { return int(p.stack.Counters().TCP.Established) }})
	}
	cfg.Metrics.Registry.Collect(p.collect)
	for _, l := range p.stack.Loops() {
		w := newWorker(p, l)
		p.workers = append(p.workers, w)
		p.byLoop[l] = w
	}
	p.admin = &admin{
		ready:       cfg.Control.Ready,
		metrics:     cfg.Metrics.Registry.Page,
		certificate: cfg.Identity.CertificatePEM,
		anchors:     cfg.Identity.AnchorsPEM,
		connections: p.Connections,
		config:      cfg.Describe,
		level:       p.cfg.Level,
		shutdown:    p.Shutdown,
		draining:    &p.draining,
	}
	return p, nil
}

// watchers are the observers of all exchanges.
func (p *Proxy) watchers() []exchange.Observer {
	var all []exchange.Observer
	if !p.cfg.Metrics.Off() {
		all = append(all, requestMetrics{p.cfg.Metrics})
	}
	if p.cfg.Tap != nil {
		all = append(all, tapped{p, p.cfg.Tap})
	}
	if p.cfg.Tracer != nil { // after the tap, which shows requests as they came
		all = append(all, traced{p.cfg.Tracer})
	}
	if p.cfg.AccessLog != nil {
		all = append(all, logged{p.cfg.AccessLog})
	}
	return all
}

// attempts hears of each endpoint that a request goes to; nil: nothing is counted.
func (p *Proxy) attempts() exchange.Attempts {
	if p.cfg.Metrics.Off() {
		return nil
	}
	return attemptMetrics{}
}

// DialContext connects from the wire side, as the sidecar itself: such
// connections are never proxied again.
func (p *Proxy) DialContext(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return p.stack.DialContext(ctx, aio.Wire, netip.AddrPortFrom(p.source(dst.Addr()), 0), dst)
}

// source is the pod's address of the same family as dst.
func (p *Proxy) source(dst netip.Addr) netip.Addr {
	for _, a := range p.cfg.Addrs {
		if a.Is4() == dst.Unmap().Is4() {
			return a
		}
	}
	return p.cfg.Addrs[0]
}

// policy is the one in force; before the first, one that denies everything.
func (p *Proxy) policy() *discover.Policy { return p.cfg.Control.Policy() }

// followPolicy closes byte connections that a changed policy does not allow,
// until ctx ends.
func (p *Proxy) followPolicy(ctx context.Context) {
	for {
		changed := p.cfg.Control.PolicyChanged()
		for _, w := range p.workers {
			w.loop.Post(w.policyChanged)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Shutdown begins to drain, as the end of Run's ctx does. Idempotent.
func (p *Proxy) Shutdown() { p.stopOnce.Do(func() { close(p.stop) }) }

// Run serves until ctx ends, Shutdown is called or the stack breaks; it then
// drains: no new connections from the network, HTTP clients are asked to go
// elsewhere, and what is under way has Config.Grace to finish.
func (p *Proxy) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	broken := make(chan error, 1) // the stack's goroutine sends once
	wg.Go(func() { broken <- p.stack.Run(inner) })
	wg.Go(func() { p.admin.serveLocal(inner, p.cfg.Admin, p.cfg.Logger) })
	wg.Go(func() { p.followPolicy(inner) })
	for _, w := range p.workers {
		w.loop.Post(w.start)
	}
	var err error
	select {
	case err = <-broken:
	case <-ctx.Done():
		p.drain(inner)
	case <-p.stop:
		p.drain(inner)
	}
	cancel()
	wg.Wait()
	if err != nil {
		return fmt.Errorf("run the sidecar: %w", err)
	}
	return nil
}

// lastWords is how long the stack goes on when all have closed: an end that was
// sent may have to be sent again, and what comes in after it is no surprise.
const lastWords = 250 * time.Millisecond

// drain returns when every HTTP client has gone and nothing is under way any
// more, or grace is over. Clients are waited for when they are idle too: a
// request may be on its way, and only the GOAWAY that names the last one served
// tells the client that it may go elsewhere.
func (p *Proxy) drain(ctx context.Context) {
	p.draining.Store(true)
	p.cfg.Logger.Info("draining", "active", p.active.Load(), "grace", p.cfg.Grace)
	for _, w := range p.workers {
		w.loop.Post(w.drain)
	}
	if p.cfg.Tracer != nil {
		p.cfg.Tracer.Hurry()
	}
	limit := time.NewTimer(p.cfg.Grace)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.active.Load()+p.serving.Load() > 0 {
		select {
		case <-tick.C:
		case <-limit.C:
			p.cfg.Logger.Warn("grace period is over", "aborted", p.active.Load())
			return
		case <-ctx.Done():
			return
		}
	}
	limit.Reset(lastWords)
	select {
	case <-limit.C:
	case <-ctx.Done():
	}
}

// syn is the stack's question about a new connection, on its loop.
func (p *Proxy) syn(s *netstack.Pending) {
	p.byLoop[s.Loop()].syn(pendingConn{s}, s.Side)
}

// pending is a connection that nobody has answered; netstack.Pending.
type pending interface {
	Client() netip.AddrPort
	OrigDst() netip.AddrPort
	Accept() (aio.Conn, error)
	Refuse()
}

type pendingConn struct{ *netstack.Pending }

func (p pendingConn) Client() netip.AddrPort  { return p.Src }
func (p pendingConn) OrigDst() netip.AddrPort { return p.Dst }

func (p *Proxy) began() { p.active.Add(1) }
func (p *Proxy) ended() { p.active.Add(-1) }

// serveAdmin answers requests to the admin port that came over the wire. They
// are not the app's traffic and count as none.
func (w *worker) serveAdmin(c aio.Conn, f *flow.Secured) {
	w.serveHTTP(c, f.Protocol, f.Peer.Security == flow.Mutual, nil, w.p.admin.Serve, func() {})
}
