package tunproxy_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// byteHop is a hop to a pod by somebody with a certificate who keeps no rule.
func (h *host) byteHop(t *testing.T, dst, to string) net.Conn {
	t.Helper()
	cert := h.w.ca.Issue(t, mtlstest.Leaf{URIs: []string{id("a").String()}})
	c := tls.Client(h.dial(dst), &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		ServerName: id(to).ServerName(), NextProtos: []string{hop.ALPNBytes},
		Certificates: []tls.Certificate{{Certificate: cert.Chain, PrivateKey: cert.Key}},
	})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// hopFrame appends a frame without bytes.
func hopFrame(b []byte, kind byte, n int, id uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, uint32(kind)<<24|uint32(n)), id)
}

// A client that floods a byte hop loses it; nobody else notices.
func TestFloodsOfAByteHop(t *testing.T) {
	const reset, credit, open = 2, 3, 4
	for _, c := range []struct {
		name, reason string
		next         func(b []byte, i uint32) []byte
	}{
		{"streams that are reset at once", "flood", func(b []byte, i uint32) []byte {
			return hopFrame(hopFrame(b, open, 0, i+1), reset, 0, i+1)
		}},
		{"credit in drops", "flood", func(b []byte, _ uint32) []byte { return hopFrame(b, credit, 1, 0) }},
		{"streams out of order", "protocol", func(b []byte, i uint32) []byte { return hopFrame(b, open, 0, 1000-i) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
			w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
			b.serve(9000, echo)
			talk(t, a, "10.96.0.1:9000", "\x00before")
			flood := w.hostOutside("10.0.0.7").byteHop(t, "10.0.0.2:9000", "b")
			defer flood.Close()
			go func() { // its answers are taken
				p := make([]byte, 64<<10)
				for {
					if _, err := flood.Read(p); err != nil {
						return
					}
				}
			}()
			for i := uint32(0); i < 1_000_000; {
				var p []byte
				for range 500 {
					p = c.next(p, i)
					i++
				}
				if _, err := flood.Write(p); err != nil {
					break
				}
			}
			eventually(t, "the hop is broken", func() bool { return b.metric("opaque_hops_broken_total", `reason="`+c.reason+`"`) == 1 })
			// The app's kernel has thousands of connections to make and to drop first; under
			// the race detector that can take longer than an app may to answer.
			eventually(t, "the app answers again", func() bool {
				c, err := a.dialTo("10.96.0.1:9000")
				if err == nil {
					_ = c.Close()
				}
				return err == nil
			})
			talk(t, a, "10.96.0.1:9000", "\x00after")
		})
	}
}

// A client of many streams leaves as many as it has to others; the apps of those it
// may not have are not asked.
func TestStreamsOfOneClientAreBounded(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	b := w.pod("b", "10.0.0.2", withTune(func(c *tunproxy.Config) { c.Limits.Connections = 40 }))
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	b.serve(9000, echo)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for len(conns) < 60 {
		c, err := a.dialTo("10.96.0.1:9000")
		if err != nil {
			if !errors.Is(err, aio.ErrRefused) {
				t.Fatalf("connection %d: %v, want refused", len(conns), err)
			}
			break
		}
		if _, err := c.Write([]byte("\x00")); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if n := len(conns); n < 10 || n > 40 {
		t.Errorf("a client has %d connections of 40", n)
	}
}
