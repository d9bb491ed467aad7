package discover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/internal/version"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

var (
	// errRenewed: a connection lives no longer than the certificate it was made with.
	errRenewed = errors.New("reconnecting with the new certificate")
)

// Run keeps the client connected until ctx ends. It never gives up.
func (c *Client) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.janitor(ctx) })
	defer c.stop()
	fails := 0
	for {
		err := c.session(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errRenewed) {
			fails = 0
			continue
		}
		if c.wasFruitful() {
			fails = 0
		}
		wait := pause(fails)
		fails++
		c.cfg.Logger.Warn("control plane not reached, going on with what is known", "err", err, "again_in", wait)
		if !sleep(ctx, wait) {
			return context.Cause(ctx)
		}
	}
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// janitor drops targets that nobody uses.
func (c *Client) janitor(ctx context.Context) {
	t := time.NewTicker(max(c.cfg.IdleTarget/4, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.sweep()
		case <-ctx.Done():
			return
		}
	}
}

// stop ends all watches.
func (c *Client) stop() {
	c.mu.Lock()
	all := []*watch{c.trustWatch, c.policyWatch}
	for _, t := range c.targets {
		all = append(all, t.watch)
	}
	c.mu.Unlock()
	for _, w := range all {
		w.stop()
	}
}

func (c *Client) wasFruitful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.fruitful
	c.fruitful = false
	return was
}

// session is one connection, with a certificate made first where needed.
func (c *Client) session(ctx context.Context) error {
	if err := c.ensureCertificate(ctx); err != nil {
		return err
	}
	nc, err := c.connect(ctx, true)
	if err != nil {
		c.noteRefusal(err)
		return err
	}
	conn := rpc.New(nc, c.rpcConfig())
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	c.begin(conn)
	wg.Go(func() { c.starter(ctx, conn) })
	wg.Go(func() { c.renewer(ctx, conn, cancel) })
	for _, f := range c.cfg.Attach {
		wg.Go(func() { c.attach(ctx, conn, f) })
	}
	err = conn.Run(ctx)
	cancel(err)
	c.finish()
	wg.Wait()
	c.noteRefusal(err)
	return err
}

func (c *Client) rpcConfig() rpc.Config {
	return rpc.Config{
		Authority: c.cfg.ControlID.ServerName(), UserAgent: "mesh-proxy/" + version.String(),
		MaxStreams: c.cfg.MaxTargets + 64, Quiet: c.cfg.Quiet,
	}
}

// connect dials and secures a connection.
func (c *Client) connect(ctx context.Context, withCertificate bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	cfg, err := c.cfg.Store.ClientTLS([]spiffe.ID{c.cfg.ControlID}, "h2", withCertificate)
	if err != nil {
		return nil, fmt.Errorf("connect to the control plane: %w", err)
	}
	nc, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the control plane: %w", err)
	}
	t := tls.Client(nc, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("connect to the control plane at %s as %s: %w", nc.RemoteAddr(), c.cfg.ControlID, err)
	}
	return t, nil
}

// begin puts all watches on a new connection.
func (c *Client) begin(conn *rpc.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	c.queue = append(c.queue[:0], c.trustWatch, c.policyWatch)
	for _, t := range c.targets {
		c.queue = append(c.queue, t.watch)
	}
	for _, w := range c.queue {
		w.reset()
	}
	c.signal()
	if m := c.cfg.Metrics; m != nil {
		m.Control.Connected(true)
	}
}

func (c *Client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	if m := c.cfg.Metrics; m != nil {
		m.Control.Connected(false)
	}
}

// signal wakes the starter.
func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// enqueue asks for a watch to be started. Without a connection nothing is to
// be done: the next one starts all.
func (c *Client) enqueue(w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.queue = append(c.queue, w)
		c.signal()
	}
}

// starter opens streams, one after the other, so that callers on a loop need
// not wait for room on the connection.
func (c *Client) starter(ctx context.Context, conn *rpc.Conn) {
	for {
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		c.mu.Unlock()
		for _, w := range queue {
			w.start(ctx, conn)
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
	}
}

// attach runs one more user of the connection, again and again.
func (c *Client) attach(ctx context.Context, conn *rpc.Conn, f func(context.Context, *rpc.Conn) error) {
	for fails := 0; ; fails++ {
		began := c.cfg.Now()
		err := f(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		if c.cfg.Now().Sub(began) > lastPause {
			fails = 0
		}
		c.cfg.Logger.Log(ctx, level(err), "control plane's stream ended", "err", err)
		if !sleep(ctx, pause(fails)) {
			return
		}
	}
}

// streamEnded looks for the control plane's word that our certificate is not
// good enough for it.
func (c *Client) streamEnded(err error) {
	if rpc.CodeOf(err) != rpc.Unauthenticated {
		return
	}
	c.mu.Lock()
	c.recertify = true
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// noteRefusal does the same for a TLS alert.
func (c *Client) noteRefusal(err error) {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.recertify = true
	}
}

// count counts a call to the control plane; its result counts the end.
func (c *Client) count(method string) (ended func(err error)) {
	if c.cfg.Metrics == nil {
		return func(error) {}
	}
	h := c.cfg.Metrics.Control.Call(c.cfg.ControlAddr, c.cfg.ControlID.ServerName(), method)
	h.Request()
	began := c.cfg.Now()
	return func(err error) {
		h.Response(telemetry.Response{GRPC: int(rpc.CodeOf(err)), Latency: c.cfg.Now().Sub(began)})
		h.Release()
	}
}
