package netstack_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

func TestEcho(t *testing.T) {
	for _, tc := range []struct {
		name string
		dst  netip.Addr
		mtu  int
	}{{"v4", server4, 1500}, {"v6", server6, 1500}, {"v4 mtu 1280", server4, 1280}, {"v6 mtu 1280", server6, 1280}, {"v4 mtu 9000", server4, 9000}, {"v6 mtu 9000", server6, 9000}, {"v4 mtu 65535", server4, 65535}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, through, serve(echo), mtu(tc.mtu))
			c := w.dial(at(tc.dst, 80))
			for _, n := range []int{1, 128, 1460, 5000, 70_000, 300_000} {
				ping(t, c, n)
			}
		})
	}
}

// ping sends n bytes and wants them back.
func ping(t *testing.T, c net.Conn, n int) {
	t.Helper()
	msg := make([]byte, n)
	for i := range msg {
		msg[i] = byte(i * 7)
	}
	go func() { _, _ = c.Write(msg) }()
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("reading %d bytes: %v", n, err)
	}
	if !bytes.Equal(got, msg) {
		t.Fatalf("%d bytes came back changed", n)
	}
}

func TestInboundKeepsTheClientsAddress(t *testing.T) {
	seen := make(chan netip.AddrPort, 1)
	w := newWorld(t, func(p *netstack.Pending) {
		// The client's own port, too: the app sees the very same peer.
		p.Loop().Dial(aio.DialRequest{Side: aio.App, Src: p.Src, Dst: p.Dst, Timeout: time.Second, Done: func(up aio.Conn, err error) {
			if err != nil {
				t.Error(err)
				p.Refuse()
				return
			}
			down, err := p.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			j := &joint{a: down, b: up}
			down.SetHandler(j)
			up.SetHandler(j)
		}})
	}, serve(func(c net.Conn) {
		seen <- netip.MustParseAddrPort(c.RemoteAddr().String())
		echo(c)
	}))
	c, err := w.server.DialContext(t.Context(), aio.Wire, at(server4, 4321), at(pod4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	ping(t, c, 1000)
	if got := <-seen; got != at(server4, 4321) {
		t.Errorf("the app saw %v", got)
	}
}

func TestHalfClose(t *testing.T) {
	done := make(chan error, 2)
	// The server reads all, then answers with the sum; so both directions close
	// one after the other.
	w := newWorld(t, through, serve(func(c net.Conn) {
		h := sha256.New()
		_, err := io.Copy(h, c)
		if err == nil {
			_, err = c.Write(h.Sum(nil))
		}
		done <- err
	}))
	c := w.dial(at(server4, 80))
	body := bytes.Repeat([]byte("half"), 50_000)
	if _, err := c.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := c.(aio.CloseWriter).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(body); !bytes.Equal(got, want[:]) {
		t.Errorf("answer of %d bytes after the half-close is not the body's sum", len(got))
	}
	if err := <-done; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestHalfCloseByTheServer(t *testing.T) {
	got := make(chan []byte, 1)
	w := newWorld(t, through, serve(func(c net.Conn) {
		_, _ = c.Write([]byte("bye"))
		_ = c.(aio.CloseWriter).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- b
	}))
	c := w.dial(at(server4, 80))
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Fatalf("read %q, %v", b, err)
	}
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if err := c.(aio.CloseWriter).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-got:
		if string(b) != "still here" {
			t.Errorf("the server got %q", b)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server never saw the end")
	}
}

func TestRefusedIsFast(t *testing.T) {
	w := newWorld(t, through, (*netstack.Pending).Refuse)
	for _, dst := range []netip.Addr{server4, server6} {
		quickest(t, 10*time.Millisecond, func() {
			if _, err := w.tryDial(at(dst, 81)); !errors.Is(err, aio.ErrRefused) {
				t.Errorf("dial: %v", err)
			}
		})
	}
}

// quickest runs f a few times and wants one of them to be within limit: the
// machine may be busy with other things, but not always.
func quickest(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	best := time.Hour
	for range 5 {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	if best > limit {
		t.Errorf("took %v at best, want at most %v", best, limit)
	}
}

func TestResetReachesTheOtherSide(t *testing.T) {
	w := newWorld(t, through, func(p *netstack.Pending) {
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		c.SetHandler(resetter{})
	})
	c := w.dial(at(server4, 80))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, aio.ErrReset) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}

// resetter resets the connection at its first byte.
type resetter struct{}

func (resetter) Readable(c aio.Conn)    { c.Reset() }
func (resetter) Writable(aio.Conn)      {}
func (resetter) Closed(aio.Conn, error) {}

func TestTransfer(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	for _, tc := range []struct {
		name string
		dst  netip.Addr
	}{{"v4", server4}, {"v6", server6}} {
		t.Run(tc.name, func(t *testing.T) {
			type result struct {
				sum [32]byte
				n   int64
			}
			got := make(chan result, 1)
			w := newWorld(t, through, serve(func(c net.Conn) {
				// Both directions at once.
				sent := make(chan struct{})
				go func() {
					_, _ = io.Copy(c, io.LimitReader(rand.NewChaCha8([32]byte{2}), size))
					_ = c.(aio.CloseWriter).CloseWrite()
					close(sent)
				}()
				h := sha256.New()
				n, _ := io.Copy(h, c)
				<-sent
				got <- result{[32]byte(h.Sum(nil)), n}
			}))
			c := w.dial(at(tc.dst, 80))
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			start := time.Now()
			go func() {
				_, _ = io.Copy(c, io.LimitReader(rand.NewChaCha8([32]byte{1}), size))
				_ = c.(aio.CloseWriter).CloseWrite()
			}()
			h := sha256.New()
			n, err := io.Copy(h, c)
			if err != nil || n != size || [32]byte(h.Sum(nil)) != sum(2, size) {
				t.Errorf("down: %d bytes, %v, or the sum is wrong", n, err)
			}
			if r := <-got; r.n != size || r.sum != sum(1, size) {
				t.Errorf("up: %d bytes, or the sum is wrong", r.n)
			}
			t.Logf("2 × %d MiB in %v", size>>20, time.Since(start))
		})
	}
}

func sum(seed byte, n int64) [32]byte {
	h := sha256.New()
	_, _ = io.Copy(h, io.LimitReader(rand.NewChaCha8([32]byte{seed}), n))
	return [32]byte(h.Sum(nil))
}
