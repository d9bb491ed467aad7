package discover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// Config is a Client's. The first group is required.
type Config struct {
	// Pod is our namespace/name.
	Pod string
	// TokenPath is the projected token's file; it is read anew at each use.
	TokenPath string
	// ControlID is the only identity accepted from the control plane. Our own
	// is of the same trust domain.
	ControlID spiffe.ID
	// ControlAddr is where Dial leads, for metrics.
	ControlAddr string
	// Dial connects to the control plane, from the wire side. It may be called
	// again at any time; its connection is the client's.
	Dial func(ctx context.Context) (net.Conn, error)
	// Store holds the first trust anchors; the client keeps it up to date.
	Store  *mtls.Store
	Logger *slog.Logger

	// Metrics counts; nil: nobody does.
	Metrics *telemetry.Metrics
	// Attach are more users of the authenticated connection, such as tap: each
	// runs on every connection until ctx ends, and again after a pause if it
	// returns sooner.
	Attach []func(ctx context.Context, c *rpc.Conn) error

	// MaxTargets bounds the targets watched at once. 0: 1024.
	MaxTargets int
	// IdleTarget is how long a target that nobody uses is kept. 0: 60 s.
	IdleTarget time.Duration
	// LookupTimeout bounds the wait for a target's first answer. 0: 5 s.
	LookupTimeout time.Duration
	// DialTimeout bounds dialling and the TLS handshake. 0: 10 s.
	DialTimeout time.Duration
	// CallTimeout bounds a call for a certificate. 0: 10 s.
	CallTimeout time.Duration
	// RenewJitter bounds the random wait before a renewal that the control
	// plane asked for. 0: 5 s.
	RenewJitter time.Duration
	// Quiet is after how long of silence the control plane is asked whether it
	// is there (and again how long its answer may take). 0: 10 s.
	Quiet time.Duration
	// Now is the wall clock. nil: time.Now.
	Now func() time.Time
}

func (c *Config) validate() error {
	switch {
	case c.Pod == "":
		return errors.New("no pod name")
	case c.TokenPath == "":
		return errors.New("no token path")
	case c.ControlID.IsZero():
		return errors.New("no identity of the control plane")
	case c.Dial == nil || c.Store == nil || c.Logger == nil:
		return errors.New("dial, store and logger are needed")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.IdleTarget, time.Minute},
		{&c.LookupTimeout, 5 * time.Second},
		{&c.DialTimeout, 10 * time.Second},
		{&c.CallTimeout, 10 * time.Second},
		{&c.RenewJitter, 5 * time.Second},
		{&c.Quiet, 10 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if c.MaxTargets <= 0 {
		c.MaxTargets = 1024
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// A Client is the sidecar's end of the control plane's API. Its methods are
// safe from any goroutine, and none blocks but Run.
type Client struct {
	cfg    Config
	policy atomic.Pointer[Policy]

	trustWatch, policyWatch *watch

	// mu comes before a watch's and a target's lock.
	mu            sync.Mutex
	targets       map[netip.AddrPort]*Target
	conn          *rpc.Conn // nil while there is none
	queue         []*watch  // to be started
	policyChanged chan struct{}
	recertify     bool // the control plane does not take our certificate
	fruitful      bool // this connection brought something good
	issued        time.Time

	wake       chan struct{} // 1 slot: the queue is not empty
	renewNow   chan struct{} // 1 slot: a new generation
	generation atomic.Uint64 // of the certificate
	wanted     atomic.Uint64 // of the bundle that came last
}

// New makes a Client; Run makes it work. Lookup may be called before.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	c := &Client{
		cfg: cfg, targets: map[netip.AddrPort]*Target{}, policyChanged: make(chan struct{}),
		wake: make(chan struct{}, 1), renewNow: make(chan struct{}, 1),
	}
	c.trustWatch = &watch{client: c, name: "trust", method: wire.MethodWatchTrust, take: c.takeTrust}
	c.policyWatch = &watch{
		client: c, name: "policy", method: wire.MethodWatchPolicy, take: c.takePolicy,
		request: (&wire.WatchPolicy{Pod: cfg.Pod}).Append(nil),
	}
	return c, nil
}

// Lookup asks what is behind dst. It is called on loop, and calls done there
// once: from inside when the answer is cached, else later, at the latest after
// LookupTimeout with an error. cancel gives up without calling done.
//
// A Target that is kept must be subscribed to, or looked up again, lest it be
// dropped.
func (c *Client) Lookup(loop aio.Loop, dst netip.AddrPort, done func(*Target, error)) (cancel func()) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	t, w := c.find(loop, dst, done)
	switch {
	case w != nil:
		return func() { t.forget(w); w.cancel() }
	case t == nil:
		done(nil, fmt.Errorf("look up %s: %w", dst, ErrTooMany))
	default:
		done(t, nil)
	}
	return nothing
}

// find finds a target with an answer, or a waiter for one, or nothing when
// there is no room. A target that is waited for, or was just asked for, is not
// dropped: hence the one lock.
func (c *Client) find(loop aio.Loop, dst netip.AddrPort, done func(*Target, error)) (*Target, *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[dst]
	if t == nil {
		if t = c.add(dst); t == nil {
			return nil, nil
		}
	}
	t.touch()
	if t.snap.Load() != nil {
		return t, nil
	}
	w := t.wait(loop, c.cfg.LookupTimeout, done)
	if w == nil {
		return nil, nil
	}
	return t, w
}

func nothing() {}

// cancel ends a waiter without a word.
func (w *waiter) cancel() {
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// add begins to watch a target; c.mu is held. nil: no room.
func (c *Client) add(dst netip.AddrPort) *Target {
	if len(c.targets) >= c.cfg.MaxTargets && !c.evict() {
		return nil
	}
	t := &Target{addr: dst, client: c}
	t.watch = &watch{
		client: c, name: "target " + dst.String(), method: wire.MethodWatchTarget, take: t.take,
		request: (&wire.WatchTarget{Target: dst.String(), Pod: c.cfg.Pod}).Append(nil),
	}
	c.targets[dst] = t
	if c.conn != nil { // else the next connection starts all
		c.queue = append(c.queue, t.watch)
		c.signal()
	}
	return t
}

// evict makes room by dropping the target that was not used for longest; c.mu
// is held.
func (c *Client) evict() bool {
	var oldest *Target
	now := c.cfg.Now().UnixNano()
	for _, t := range c.targets {
		if t.idle(now) && (oldest == nil || t.used.Load() < oldest.used.Load()) {
			oldest = t
		}
	}
	if oldest == nil {
		return false
	}
	c.drop(oldest)
	return true
}

func (c *Client) drop(t *Target) {
	delete(c.targets, t.addr)
	t.dropped.Store(true)
	t.watch.stop()
}

// sweep drops targets that nobody uses.
func (c *Client) sweep() {
	before := c.cfg.Now().Add(-c.cfg.IdleTarget).UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.targets {
		if t.idle(before) {
			c.drop(t)
		}
	}
}

// Targets is the number of targets watched now.
func (c *Client) Targets() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.targets)
}

// Policy is the last good inbound policy; nil before the first, which denies.
func (c *Client) Policy() *Policy { return c.policy.Load() }

// PolicyChanged is closed at the next change of the policy; ask again after it.
func (c *Client) PolicyChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policyChanged
}

// Ready is nil when the sidecar can serve, with or without the control plane:
// it has a certificate that holds and has been told its policy. Otherwise it
// says what is missing.
func (c *Client) Ready() error {
	switch {
	case c.cfg.Store.NotAfter().IsZero():
		return errors.New("no certificate yet")
	case !c.cfg.Store.Valid():
		return errors.New("the certificate has expired")
	case c.policy.Load() == nil:
		return errors.New("no policy yet")
	}
	return nil
}

// Connected reports whether there is a connection to the control plane.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil
}

func (c *Client) takePolicy(p []byte, _ bool) error {
	var m wire.InboundPolicy
	if err := m.Decode(p); err != nil {
		return err
	}
	pol, err := policyOf(&m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy.Store(pol)
	close(c.policyChanged)
	c.policyChanged = make(chan struct{})
	return nil
}

// heard notes that the connection is worth something.
func (c *Client) heard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fruitful = true
}
