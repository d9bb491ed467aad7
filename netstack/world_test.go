package netstack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/memlink"
)

var (
	pod4    = netip.MustParseAddr("10.1.0.5")
	server4 = netip.MustParseAddr("10.2.0.9")
	pod6    = netip.MustParseAddr("fd00:1::5")
	server6 = netip.MustParseAddr("fd00:2::9")
)

// world is a pod's stack between two hosts in memory: an app with the pod's
// addresses on its app side, and a server on its wire side.
//
//	app ──memory── App [ hop ] Wire ──memory── server
type world struct {
	t                *testing.T
	app, hop, server *netstack.Stack
	// appEnd and wireEnd are the hop's own devices.
	appEnd, wireEnd *memlink.End
	hostApp         *memlink.End // the app's end of its link
	hostServer      *memlink.End
	stop            context.CancelFunc
	ended           sync.WaitGroup
	errs            [3]error
}

type option func(*worldConfig)

type worldConfig struct {
	mtu           int
	hop, server   func(*netstack.Pending)
	tune          func(*netstack.Config)
	copies        bool
	expectedError bool
}

func newWorld(t *testing.T, hop, server func(*netstack.Pending), opts ...option) *world {
	t.Helper()
	wc := worldConfig{mtu: 1500, hop: hop, server: server}
	for _, o := range opts {
		o(&wc)
	}
	w := &world{t: t}
	var err error
	pair := func() (*memlink.End, *memlink.End) {
		a, b, err := memlink.Pair()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	none := func() netstack.Device { // nobody is on the far end
		a, b := pair()
		t.Cleanup(func() { _ = b.Close() })
		return a
	}
	w.hostApp, w.appEnd = pair()
	w.hostServer, w.wireEnd = pair()
	cfg := netstack.Config{App: []netstack.Device{w.appEnd}, Wire: []netstack.Device{w.wireEnd}, Addrs: []netip.Addr{pod4, pod6}, MTU: wc.mtu, OnSYN: wc.hop}
	if wc.tune != nil {
		wc.tune(&cfg)
	}
	if w.hop, err = netstack.New(cfg); err != nil {
		t.Fatal(err)
	}
	if wc.copies {
		w.hop.CopyBulk()
	}
	// A host is a stack whose wire side is its network card.
	if w.app, err = netstack.New(netstack.Config{App: []netstack.Device{none()}, Wire: []netstack.Device{w.hostApp}, Addrs: []netip.Addr{pod4, pod6}, MTU: wc.mtu, OnSYN: wc.server, MaxConns: 1 << 20, MaxHeld: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if w.server, err = netstack.New(netstack.Config{App: []netstack.Device{none()}, Wire: []netstack.Device{w.hostServer}, Addrs: []netip.Addr{server4, server6}, MTU: wc.mtu, OnSYN: wc.server, MaxConns: 1 << 20, MaxHeld: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	for i, s := range []*netstack.Stack{w.app, w.hop, w.server} {
		w.ended.Go(func() { w.errs[i] = s.Run(ctx) })
	}
	t.Cleanup(func() {
		w.stop()
		w.ended.Wait()
		if err := errors.Join(w.errs[:]...); err != nil && !wc.expectedError {
			t.Errorf("a stack ended with %v", err)
		}
	})
	return w
}

func mtu(n int) option { return func(c *worldConfig) { c.mtu = n } }

func tune(f func(*netstack.Config)) option { return func(c *worldConfig) { c.tune = f } }

// copies makes the hop one that found another gVisor than it knows.
func copies(c *worldConfig) { c.copies = true }

func expectError(c *worldConfig) { c.expectedError = true }

// dial connects from the app to dst, as the app's kernel would.
func (w *world) dial(dst netip.AddrPort) net.Conn {
	w.t.Helper()
	c, err := w.tryDial(dst)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func (w *world) tryDial(dst netip.AddrPort) (net.Conn, error) {
	src := pod4
	if dst.Addr().Is6() {
		src = pod6
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	return w.app.DialContext(ctx, aio.Wire, netip.AddrPortFrom(src, 0), dst)
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// through is the plainest proxy: dial the other side first, then accept, then
// move bytes both ways.
func through(p *netstack.Pending) {
	side, src := aio.Wire, netip.AddrPortFrom(p.Src.Addr(), 0)
	if p.Side == aio.Wire {
		side = aio.App
	}
	p.Loop().Dial(aio.DialRequest{Side: side, Src: src, Dst: p.Dst, Timeout: 5 * time.Second, Done: func(up aio.Conn, err error) {
		if err != nil {
			p.Refuse()
			return
		}
		down, err := p.Accept()
		if err != nil {
			up.Reset()
			return
		}
		j := &joint{a: down, b: up}
		down.SetHandler(j)
		up.SetHandler(j)
	}})
}

// joint joins two connections with CopyTo.
type joint struct {
	a, b       aio.Conn
	aEOF, bEOF bool
}

func (j *joint) peer(c aio.Conn) (aio.Conn, *bool) {
	if c == j.a {
		return j.b, &j.aEOF
	}
	return j.a, &j.bEOF
}

func (j *joint) Readable(c aio.Conn) {
	p, eof := j.peer(c)
	if *eof {
		return
	}
	_, err, ok := c.(aio.Copier).CopyTo(p)
	switch {
	case !ok:
		panic("CopyTo does not know its own kind")
	case errors.Is(err, io.EOF):
		*eof = true
		_ = p.CloseWrite()
	case err != nil && !errors.Is(err, aio.ErrWouldBlock):
		p.Reset()
		c.Reset()
	}
}

func (j *joint) Writable(c aio.Conn) {
	p, _ := j.peer(c)
	j.Readable(p)
}

func (j *joint) Closed(c aio.Conn, err error) {
	if err != nil {
		p, _ := j.peer(c)
		p.Reset()
	}
}

// serve accepts and gives the connection to f in a goroutine, blocking.
func serve(f func(net.Conn)) func(*netstack.Pending) {
	return func(p *netstack.Pending) {
		c, err := p.Accept()
		if err != nil {
			return
		}
		n := aio.NetConn(c)
		go func() {
			defer n.Close()
			f(n)
		}()
	}
}

func echo(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = c.(aio.CloseWriter).CloseWrite()
			}
			return
		}
	}
}
