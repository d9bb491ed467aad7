package netstack_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// A side has so many places; whoever comes then is refused, and a connection
// that ends leaves its place to another.
func TestConnectionsAreBounded(t *testing.T) {
	const most = 20
	w := newWorld(t, through, serve(echo), tune(func(c *netstack.Config) { c.MaxConns = most }))
	var conns []net.Conn
	for range most {
		conns = append(conns, w.dial(at(server4, 80)))
	}
	for range 3 {
		if c, err := w.tryDial(at(server4, 80)); !errors.Is(err, aio.ErrRefused) {
			t.Fatalf("connection %d: %v, %v; want refused", most+1, c, err)
		}
	}
	if n := w.hop.Counters().App.Drops[packet.ConnLimit]; n != 3 {
		t.Errorf("%d counted, want 3", n)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	for range most { // each as soon as the last FIN of one before is over
		waitFor(t, func() bool {
			c, err := w.tryDial(at(server4, 80))
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
			return err == nil
		})
	}
}

// stalled are connections whose far end neither reads nor writes.
type stalled struct {
	mu    sync.Mutex
	conns []aio.Conn
}

func (s *stalled) syn(p *netstack.Pending) {
	if p.Dst.Port() == 80 {
		serve(echo)(p)
		return
	}
	if c, err := p.Accept(); err == nil {
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
	}
}

// Connections whose far ends read nothing hold what the bound says, all
// together, while one that moves goes on; when the far ends read, all arrives.
func TestHeldBytesAreBounded(t *testing.T) {
	const held, conns, each = 4 << 20, 60, 1 << 20
	var far stalled
	w := newWorld(t, through, far.syn, tune(func(c *netstack.Config) { c.MaxHeld = held }))
	var wg sync.WaitGroup
	for range conns {
		c := w.dial(at(server4, 81))
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		wg.Go(func() {
			if _, err := c.Write(make([]byte, each)); err != nil {
				t.Error(err)
			}
			_ = c.(aio.CloseWriter).CloseWrite()
		})
	}
	waitFor(t, func() bool {
		c := w.hop.Counters()
		return c.Held > held/2 && (c.Stopped > 0 || c.App.Drops[packet.MemoryLimit] > 0)
	})
	peak := int64(0)
	moving := w.dial(at(server4, 80))
	_ = moving.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 1000)
	for range 300 {
		if _, err := moving.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(moving, buf); err != nil {
			t.Fatal(err)
		}
		peak = max(peak, w.hop.Counters().Held)
	}
	// Beyond the bound are only the segments that each may hold in any case.
	if peak > held+conns*32<<10 {
		t.Errorf("%d bytes were held, the bound is %d", peak, held)
	}
	c := w.hop.Counters()
	t.Logf("at most %d bytes held, %d writes stopped, %d segments dropped", peak, c.Stopped, c.App.Drops[packet.MemoryLimit])
	var got sync.WaitGroup
	far.mu.Lock()
	for _, c := range far.conns {
		got.Add(1)
		c.Loop().Post(func() {
			n := aio.NetConn(c)
			go func() {
				defer got.Done()
				defer n.Close()
				if k, err := io.Copy(io.Discard, n); k != each || err != nil {
					t.Errorf("%d of %d bytes arrived: %v", k, each, err)
				}
			}()
		})
	}
	far.mu.Unlock()
	wg.Wait()
	got.Wait()
	_ = moving.Close()
	waitForLong(t, 20*time.Second, func() bool { c := w.hop.Counters(); return c.TCP.Established == 0 && c.Held == 0 })
}
