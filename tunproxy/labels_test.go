package tunproxy_test

import (
	"io"
	"testing"
)

// TestPooledConnectionsAreNamed: a connection that carries requests says in
// metrics whose it is, as one that carries bytes does.
func TestPooledConnectionsAreNamed(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, whoami("b"))
	b.serve(81, echo)
	w.service("10.96.0.1:81", "10.0.0.2:81=b")
	resp, err := a.client(true).Get("http://10.96.0.1/")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	c := a.dial("10.96.0.1:81")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"80", "81"} {
		if n := a.metric("tcp_open_connections", `peer="dst"`, `target_port="`+port+`"`, `dst_pod="b"`); n != 1 {
			t.Errorf("port %s: %v open connections to pod b, want 1\n%s", port, n, a.metrics.Registry.Text())
		}
	}
}

// TestMalformedRequestsAreCounted: what the sidecar refuses to understand is in
// its metrics, by reason.
func TestMalformedRequestsAreCounted(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	b.serveHTTP(80, whoami("b"))
	c := out.dial("10.0.0.2:80")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
	answer, _ := io.ReadAll(c)
	if n := b.metric("inbound_http_errors_total"); n != 1 {
		t.Errorf("%v errors counted for %q, want 1", n, answer)
	}
}
