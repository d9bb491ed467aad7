package tunproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// world is a cluster in one process: pods with sidecars, hosts without, and a
// switch between their wires. Every stack is a real one; only the links are
// memory.
//
//	app ══ [ sidecar ] ── switch ── [ sidecar ] ══ app
//	                        └────── host
type world struct {
	t  *testing.T
	ca *mtlstest.CA

	mu      sync.Mutex
	ports   map[netip.Addr]*memlink.End // by address: the wire end to inject into
	cut     map[netip.Addr]bool         // addresses whose packets vanish
	wire    bytes.Buffer                // what crossed the switch, while record is set
	record  bool
	pods    map[netip.Addr]string
	targets map[netip.AddrPort]*discover.Target
	silent  map[netip.AddrPort]bool // the control plane says nothing about these

	watch func(src, dst netip.Addr, p []byte) // sees what crosses the switch
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		t: t, ca: mtlstest.NewCA(t),
		ports: map[netip.Addr]*memlink.End{}, cut: map[netip.Addr]bool{},
		pods:    map[netip.Addr]string{},
		targets: map[netip.AddrPort]*discover.Target{}, silent: map[netip.AddrPort]bool{},
	}
}

// attach makes an end of a wire, for a device, whose packets the switch moves.
func (w *world) attach(addrs ...netip.Addr) *memlink.End {
	w.t.Helper()
	end, far, err := memlink.Pair()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = far.Close() })
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range addrs {
		w.ports[a] = end
	}
	end.SetTap(w.move)
	return end
}

// move is the switch.
func (w *world) move(h tun.Header, p []byte) (memlink.Verdict, error) {
	var src, dst netip.Addr
	switch p[0] >> 4 {
	case 4:
		src, dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	case 6:
		src, dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	}
	w.mu.Lock()
	to := w.ports[dst]
	if w.cut[src] || w.cut[dst] {
		to = nil
	}
	if w.record {
		w.wire.Write(p)
	}
	watch := w.watch
	w.mu.Unlock()
	if watch != nil {
		watch(src, dst, p)
	}
	if to != nil {
		_ = to.Inject(h, p)
	}
	return memlink.Lose, nil
}

// sniff records what crosses the switch from now on; the function returned
// says whether it held a marker.
func (w *world) sniff() (saw func(marker string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record = true
	return func(marker string) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return bytes.Contains(w.wire.Bytes(), []byte(marker))
	}
}

func (w *world) sever(a netip.Addr, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[a] = yes
}

// id is the identity of a workload of that name.
func id(name string) spiffe.ID {
	return spiffe.ID{TrustDomain: "cluster.local", Namespace: "test", ServiceAccount: name}
}

// host is a kernel: it listens on ports and dials.
type host struct {
	w     *world
	addr  netip.Addr
	stack *netstack.Stack
	stop  func()

	mu    sync.Mutex
	ports map[uint16]*listener
	raw   map[uint16]func(aio.Conn) // on the host's loop
}

// newHost makes a kernel at addr on the end of a link.
func (w *world) newHost(addr netip.Addr, link netstack.Device) *host {
	w.t.Helper()
	h := &host{w: w, addr: addr, ports: map[uint16]*listener{}, raw: map[uint16]func(aio.Conn){}}
	none, far, err := memlink.Pair()
	if err != nil {
		w.t.Fatal(err)
	}
	h.stack, err = netstack.New(netstack.Config{
		App: []netstack.Device{none}, Wire: []netstack.Device{link}, Addrs: []netip.Addr{addr}, MTU: 1500, OnSYN: h.syn,
		MaxConns: 1 << 20, MaxHeld: 1 << 30, // a kernel's are not under test
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.stack.Run(ctx) }()
	h.stop = sync.OnceFunc(func() { cancel(); <-done; _ = far.Close() })
	w.t.Cleanup(h.stop)
	return h
}

func (h *host) syn(p *netstack.Pending) {
	h.mu.Lock()
	l, raw := h.ports[p.Dst.Port()], h.raw[p.Dst.Port()]
	h.mu.Unlock()
	if raw != nil {
		if c, err := p.Accept(); err == nil {
			raw(c)
		}
		return
	}
	if l == nil {
		p.Refuse()
		return
	}
	c, err := p.Accept()
	if err != nil {
		return
	}
	n := aio.NetConn(c)
	select {
	case l.conns <- n:
	default:
		_ = n.Close()
	}
}

// listener is a net.Listener on a host.
type listener struct {
	h      *host
	port   uint16
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (h *host) listen(port uint16) *listener {
	l := &listener{h: h, port: port, conns: make(chan net.Conn, 4096), closed: make(chan struct{})}
	h.mu.Lock()
	h.ports[port] = l
	h.mu.Unlock()
	h.w.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.h.mu.Lock()
		delete(l.h.ports, l.port)
		l.h.mu.Unlock()
		close(l.closed)
	})
	return nil
}

func (l *listener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.h.addr, l.port))
}

// serveRaw gives the connections to a port to f, on the host's loop.
func (h *host) serveRaw(port uint16, f func(aio.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.raw[port] = f
}

// resetter resets a connection at its first byte.
type resetter struct{}

func (resetter) Readable(c aio.Conn)    { c.Reset() }
func (resetter) Writable(aio.Conn)      {}
func (resetter) Closed(aio.Conn, error) {}

// serve runs f for each connection to a port.
func (h *host) serve(port uint16, f func(net.Conn)) *listener {
	l := h.listen(port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l
}

// dialTo connects as a process on the host would.
func (h *host) dialTo(dst string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return h.stack.DialContext(ctx, aio.Wire, netip.AddrPortFrom(h.addr, 0), netip.MustParseAddrPort(dst))
}

func (h *host) dial(dst string) net.Conn {
	h.w.t.Helper()
	c, err := h.dialTo(dst)
	if err != nil {
		h.w.t.Fatalf("dial %s: %v", dst, err)
	}
	h.w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// pod is an app's kernel with a sidecar before it.
type pod struct {
	*host
	name    string
	proxy   *tunproxy.Proxy
	store   *mtls.Store
	control *control
	metrics *telemetry.Metrics
	kill    func() // stops the sidecar at once
	wireEnd *memlink.End
	appEnd  *memlink.End // the sidecar's end of the app's TUN
	hostEnd *memlink.End // and the app's kernel's
	done    chan error
	cancel  context.CancelFunc
}

// control is the control plane as one sidecar sees it.
type control struct {
	w       *world
	mu      sync.Mutex
	policy  *discover.Policy
	changed chan struct{}
}

func (c *control) Lookup(loop aio.Loop, dst netip.AddrPort, done func(*discover.Target, error)) func() {
	c.w.mu.Lock()
	t, silent := c.w.targets[dst], c.w.silent[dst]
	if name := c.w.pods[dst.Addr()]; t == nil && name != "" {
		// A pod of the mesh is known by its own address, on every port.
		t = discover.NewTarget(dst, &discover.Snapshot{Kind: discover.Pod, Endpoints: []discover.Endpoint{{Addr: dst, Weight: 10000, Workload: discover.WorkloadOf("", id(name), discover.Labels{})}}})
		c.w.targets[dst] = t
	}
	if t == nil && !silent {
		t = discover.NewTarget(dst, &discover.Snapshot{Kind: discover.External, Endpoints: []discover.Endpoint{{Addr: dst, Weight: 1}}})
		c.w.targets[dst] = t
	}
	c.w.mu.Unlock()
	if silent {
		timer := loop.AfterFunc(50*time.Millisecond, func() { done(nil, discover.ErrNoAnswer) })
		return func() { timer.Stop() }
	}
	loop.Post(func() { done(t, nil) })
	return func() {}
}

func (c *control) Policy() *discover.Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policy
}

func (c *control) PolicyChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *control) Ready() error {
	if c.Policy() == nil {
		return errors.New("no policy yet")
	}
	return nil
}

func (c *control) set(cfg *authz.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy = nil
	if cfg != nil {
		a, err := authz.New(*cfg)
		if err != nil {
			c.w.t.Fatal(err)
		}
		c.policy = discover.NewPolicy(a, nil)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// service tells all sidecars what is behind an address; endpoints that are
// pods have their identity.
func (w *world) service(vip string, endpoints ...string) *discover.Target {
	s := &discover.Snapshot{Kind: discover.Service, Authority: vip, Labels: map[string]string{"service": "svc"}}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, w.endpoint(e))
	}
	return w.target(vip, s)
}

func (w *world) target(addr string, s *discover.Snapshot) *discover.Target {
	dst := netip.MustParseAddrPort(addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.targets[dst]; t != nil {
		t.Publish(s)
		return t
	}
	t := discover.NewTarget(dst, s)
	w.targets[dst] = t
	return t
}

// endpoint reads "IP:port" (plain) or "IP:port=name" (a pod of that name).
func (w *world) endpoint(s string) discover.Endpoint {
	addr, name, meshed := cut(s)
	e := discover.Endpoint{Addr: netip.MustParseAddrPort(addr), Weight: 10000, Own: discover.LabelsOf(map[string]string{"pod": name})}
	if meshed {
		e.Workload = discover.WorkloadOf("", id(name), discover.Labels{})
	}
	return e
}

func cut(s string) (addr, name string, meshed bool) {
	for i := range len(s) {
		if s[i] == '=' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

type podOption func(*podConfig)

type podConfig struct {
	cert   *mtls.Certificate
	policy *authz.Config
	tune   func(*tunproxy.Config)
}

func withCert(c *mtls.Certificate) podOption { return func(p *podConfig) { p.cert = c } }
func withPolicy(a *authz.Config) podOption   { return func(p *podConfig) { p.policy = a } }
func withTune(f func(*tunproxy.Config)) podOption {
	return func(p *podConfig) { p.tune = f }
}

// pod starts an app's kernel and its sidecar.
func (w *world) pod(name, addr string, opts ...podOption) *pod {
	w.t.Helper()
	pc := podConfig{policy: &authz.Config{Default: authz.AllUnauthenticated}}
	for _, o := range opts {
		o(&pc)
	}
	a := netip.MustParseAddr(addr)
	appEnd, hostEnd, err := memlink.Pair()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &pod{name: name, store: mtls.NewStore(mtls.Config{}), done: make(chan error, 1)}
	p.metrics = telemetry.New(telemetry.Config{}, "test")
	p.control = &control{w: w, changed: make(chan struct{})}
	p.control.set(pc.policy)
	if pc.cert == nil {
		pc.cert = w.ca.Issue(w.t, mtlstest.Leaf{URIs: []string{id(name).String()}})
	}
	if err := p.store.Update(w.ca.Anchors(), pc.cert); err != nil {
		w.t.Fatal(err)
	}
	p.wireEnd, p.appEnd, p.hostEnd = w.attach(a), appEnd, hostEnd
	level := slog.LevelWarn
	if os.Getenv("TUNPROXY_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	cfg := tunproxy.Config{
		App: []netstack.Device{appEnd}, Wire: []netstack.Device{p.wireEnd},
		Addrs: []netip.Addr{a}, MTU: 1500,
		Control: p.control, Identity: p.store, Metrics: p.metrics,
		Logger: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: level})).With("pod", name),
	}
	if pc.tune != nil {
		pc.tune(&cfg)
	}
	if p.proxy, err = tunproxy.New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.done <- p.proxy.Run(ctx) }()
	p.host = w.newHost(a, hostEnd)
	// As a pod that is force-deleted: nothing says goodbye.
	p.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-p.done; err != nil {
			w.t.Errorf("sidecar of %s: %v", name, err)
		}
	})
	w.t.Cleanup(p.kill)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[a] = name
	return p
}

// hostOutside is a machine without a sidecar.
func (w *world) hostOutside(addr string) *host {
	a := netip.MustParseAddr(addr)
	return w.newHost(a, w.attach(a))
}

// metric sums the samples of a family whose line contains all of the parts.
func (p *pod) metric(name string, parts ...string) float64 {
	p.w.t.Helper()
	var b bytes.Buffer
	if _, err := p.metrics.Registry.WriteTo(&b); err != nil {
		p.w.t.Fatal(err)
	}
	total := 0.0
	for line := range bytes.Lines(b.Bytes()) {
		if !bytes.HasPrefix(line, []byte(name+"{")) && !bytes.HasPrefix(line, []byte(name+" ")) {
			continue
		}
		all := true
		for _, part := range parts {
			all = all && bytes.Contains(line, []byte(part))
		}
		if !all {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(string(line[bytes.LastIndexByte(line, ' ')+1:]), &v); err != nil {
			p.w.t.Fatal(err)
		}
		total += v
	}
	return total
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

func netipAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
