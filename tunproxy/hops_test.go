package tunproxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// talk sends and receives over a connection of its own that it ends in order.
func talk(t *testing.T, from *pod, dst, say string) {
	t.Helper()
	c, err := from.dialTo(dst)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatalf("write: %v", err)
	}
	_ = c.(aio.CloseWriter).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != say {
		t.Fatalf("got %q, %v", got, err)
	}
}

// hops is how many streams began on a connection of their own, and how many on
// one that was there.
func (p *pod) hops() (made, reused float64) {
	return p.metric("opaque_hops_total", `reused="false"`), p.metric("opaque_hops_total", `reused="true"`)
}

func (p *pod) wantHops(made, reused float64) {
	p.w.t.Helper()
	if m, r := p.hops(); m != made || r != reused {
		p.w.t.Errorf("%v hops were made and %v used again, want %v and %v", m, r, made, reused)
	}
}

// settled waits until the pod's byte connections are over, and their hops idle.
func (p *pod) settled() {
	p.w.t.Helper()
	eventually(p.w.t, "all connections are over", func() bool { return p.metric("tcp_open_connections", `direction="outbound"`) == 0 })
}

func TestByteHopsAreUsedAgain(t *testing.T) {
	for name, hint := range map[string]flow.Protocol{"known to be opaque": flow.Opaque, "detected": flow.Detect} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
			w.target("10.96.0.1:9000", &discover.Snapshot{Kind: discover.Service, Protocol: hint, Endpoints: []discover.Endpoint{w.endpoint("10.0.0.2:9000=b")}})
			var mu sync.Mutex
			ports := map[string]bool{}
			b.serve(9000, func(c net.Conn) {
				mu.Lock()
				ports[c.RemoteAddr().String()] = true
				mu.Unlock()
				echo(c)
			})
			saw := w.sniff()
			const n = 10
			for range n {
				talk(t, a, "10.96.0.1:9000", "\x00marker")
				a.settled()
			}
			a.wantHops(1, n-1)
			if saw("marker") {
				t.Error("the marker crossed the wire in plain text")
			}
			mu.Lock()
			defer mu.Unlock()
			if len(ports) != n {
				t.Errorf("the app saw %d connections, want %d", len(ports), n)
			}
			eventually(t, "metrics of both ends", func() bool {
				return a.metric("tcp_open_total", `peer="dst"`, `tls="true"`) == n && b.metric("tcp_open_total", `peer="src"`, `tls="true"`) == n &&
					b.metric("tcp_close_total", `peer="src"`, `errno=""`) == n
			})
		})
	}
}

// Connections at once share hops, which are there for the next ones.
func TestByteHopsAreShared(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	b.serve(9000, echo)
	const n = 40
	for range 2 {
		var conns []net.Conn
		for i := range n {
			c := a.dial("10.96.0.1:9000")
			defer c.Close()
			say := []byte{0, byte(i)}
			if _, err := c.Write(say); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 2)
			if _, err := io.ReadFull(c, got); err != nil || got[1] != byte(i) {
				t.Fatalf("connection %d got %v, %v", i, got, err)
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			_ = c.Close()
		}
		a.settled()
	}
	if made, reused := a.hops(); made > 8 || made+reused != 2*n {
		t.Errorf("%v hops were made for %v streams", made, made+reused)
	}
	eventually(t, "metrics of both ends", func() bool {
		return a.metric("tcp_open_total", `peer="dst"`, `tls="true"`) == 2*n && b.metric("tcp_open_total", `peer="src"`, `tls="true"`) == 2*n
	})
	eventually(t, "nothing is promised to nobody", func() bool {
		return a.metric("held_bytes", `layer="streams"`) == 0 && b.metric("held_bytes", `layer="streams"`) == 0
	})
}

// One connection's reader rests: the others, on the same hop, do not notice.
func TestASlowReaderStopsNobodyElse(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	b.serve(9000, func(c net.Conn) {
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err == nil && first[0] == 's' {
			<-release
			return
		}
		_, _ = c.Write(first)
		echo(c)
	})
	talk(t, a, "10.96.0.1:9000", "\x00")
	slow := a.dial("10.96.0.1:9000")
	defer slow.Close()
	_, _ = slow.Write([]byte("s"))
	_ = slow.SetWriteDeadline(time.Now().Add(time.Second))
	if n, err := slow.Write(make([]byte, 64<<20)); err == nil {
		t.Fatalf("%d bytes went to somebody who does not read", n)
	}
	for range 10 {
		talk(t, a, "10.96.0.1:9000", "\x00past it")
	}
	a.wantHops(1, 11)
}

func TestRefusedIsRefusedOnAHopThatIsThere(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	l := b.serve(9000, echo)
	talk(t, a, "10.96.0.1:9000", "\x00")
	a.settled()
	_ = l.Close()
	for range 2 {
		if _, err := a.dialTo("10.96.0.1:9000"); !errors.Is(err, aio.ErrRefused) {
			t.Fatalf("the app is gone: %v, want refused", err)
		}
	}
	b.serve(9000, echo)
	talk(t, a, "10.96.0.1:9000", "\x00")
	a.wantHops(1, 1)
}

func TestAResetIsOneConnections(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	var mu sync.Mutex
	n := 0
	b.serveRaw(9000, func(c aio.Conn) {
		mu.Lock()
		defer mu.Unlock()
		if n++; n > 1 {
			c.SetHandler(resetter{})
			return
		}
		c.SetHandler(leaver{})
	})
	stays := a.dial("10.96.0.1:9000")
	defer stays.Close()
	if _, err := stays.Write([]byte("\x00")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first connection", func() bool { mu.Lock(); defer mu.Unlock(); return n == 1 })
	for range 3 {
		c := a.dial("10.96.0.1:9000")
		if _, err := c.Write([]byte("\x00unread")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); !errors.Is(err, aio.ErrReset) {
			t.Fatalf("read: %v, want a reset", err)
		}
	}
	_ = stays.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := stays.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the other connection: %v", err)
	}
	// The streams that were reset shared hops with the one that stays, or with each
	// other: a second hop is for what is still on its way out.
	if made, reused := a.hops(); made > 2 || made+reused != 4 {
		t.Errorf("%v hops were made and %v used again", made, reused)
	}
}

// leaver forgets what it reads, and goes when its client does.
type leaver struct{}

func (leaver) Readable(c aio.Conn) {
	for {
		if _, err := c.Read(make([]byte, 64)); err != nil {
			if !errors.Is(err, aio.ErrWouldBlock) {
				c.Close()
			}
			return
		}
	}
}
func (leaver) Writable(aio.Conn)      {}
func (leaver) Closed(aio.Conn, error) {}

// Whoever is let in is asked for anew by every stream.
func TestPolicyJudgesEveryStream(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	b.serve(9000, echo)
	talk(t, a, "10.96.0.1:9000", "\x00")
	a.settled()
	b.control.set(&authz.Config{Default: authz.Deny})
	if _, err := a.dialTo("10.96.0.1:9000"); !errors.Is(err, aio.ErrRefused) {
		t.Fatalf("denied: %v", err)
	}
	b.control.set(&authz.Config{Default: authz.AllAuthenticated})
	talk(t, a, "10.96.0.1:9000", "\x00")
	if n := b.metric("inbound_tcp_authz_allow_total"); n != 2 {
		t.Errorf("%v streams were judged and allowed, want 2", n)
	}
}

// A hop that was made with other certificates carries no new stream, whichever
// side they are of.
func TestRotationEndsIdleHops(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
			w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
			b.serve(9000, echo)
			talk(t, a, "10.96.0.1:9000", "\x00")
			a.settled()
			p := a
			if side == "server" {
				p = b
			}
			if err := p.store.Update(nil, w.ca.Issue(t, mtlstest.Leaf{URIs: []string{id(p.name).String()}})); err != nil {
				t.Fatal(err)
			}
			talk(t, a, "10.96.0.1:9000", "\x00")
			a.settled()
			a.wantHops(2, 0)
			talk(t, a, "10.96.0.1:9000", "\x00")
			a.wantHops(2, 1)
		})
	}
}

// The far sidecar was started again and nobody heard of the end of the old one:
// the idle hop is found dead, and the connection is made anew.
func TestAHopThatDiedUnheardIsMadeAgain(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	b.serve(9000, echo)
	talk(t, a, "10.96.0.1:9000", "\x00")
	a.settled()
	w.sever(b.addr, true)
	b.kill()
	w.sever(b.addr, false)
	b = w.pod("b", "10.0.0.2")
	b.serve(9000, echo)
	talk(t, a, "10.96.0.1:9000", "\x00again")
	a.wantHops(2, 0)
}
