package tunproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/authz"
)

// ask sends a request that wants to become a tunnel and returns its status.
func askTunnel(t *testing.T, c net.Conn) (*bufio.Reader, int) {
	t.Helper()
	_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: b\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r, resp.StatusCode
}

// TestTunnelsAreJudgedAsBytes: a probe's path opens no tunnel into the app, and
// a tunnel ends when policy no longer allows it.
func TestTunnelsAreJudgedAsBytes(t *testing.T) {
	probes := []authz.Probe{{Port: 80, Method: "GET", Path: "/healthz"}}
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2", withPolicy(&authz.Config{Default: authz.Deny, Probes: probes}))
	out := w.hostOutside("10.0.0.9")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		c, buf, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, buf)
	})
	resp, err := out.client(false).Get("http://10.0.0.2/healthz")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("a probe: %v %v", resp, err)
	}
	resp.Body.Close()
	if _, status := askTunnel(t, out.dial("10.0.0.2:80")); status != 403 {
		t.Errorf("a tunnel on a probe's path under deny: %d, want 403", status)
	}
	b.control.set(&authz.Config{Default: authz.AllUnauthenticated, Probes: probes})
	for who, c := range map[string]net.Conn{"meshed": a.dial("10.96.0.1:80"), "outside": out.dial("10.0.0.2:80")} {
		b.control.set(&authz.Config{Default: authz.AllUnauthenticated, Probes: probes})
		r, status := askTunnel(t, c)
		if status != 101 {
			t.Fatalf("%s: %d, want a tunnel", who, status)
		}
		_, _ = io.WriteString(c, "abc")
		got := make([]byte, 3)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "abc" {
			t.Fatalf("%s: %q %v", who, got, err)
		}
		b.control.set(&authz.Config{Default: authz.Deny, Probes: probes})
		if n, err := r.Read(got); err == nil || err == io.EOF {
			t.Errorf("%s: after the policy was tightened: %d bytes, %v; want a reset", who, n, err)
		}
	}
	if n := b.metric("inbound_tcp_authz_terminate_total"); n != 2 {
		t.Errorf("%v connections closed by policy, want 2", n)
	}
}
