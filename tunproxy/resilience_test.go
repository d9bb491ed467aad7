package tunproxy_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// careful tells all sidecars of a Service whose owner asks for a policy.
func (w *world) careful(vip string, p resilience.Policy, endpoints ...string) *discover.Target {
	s := &discover.Snapshot{
		Kind: discover.Service, Authority: vip, Labels: map[string]string{"service": "svc"}, Traffic: &p,
		Ref: discover.Ref{Kind: "Service", Namespace: "test", Name: "svc", Port: 80},
	}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, w.endpoint(e))
	}
	return w.target(vip, s)
}

// A server that never answers costs its clients as long as the Service's owner
// says, over mTLS and without.
func TestRequestTimeoutOfAService(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	hang := make(chan struct{})
	defer close(hang)
	handler := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(rw, "ok")
	}
	b.serveHTTP(80, handler)
	out.serveHTTP(80, handler)
	policy := resilience.Policy{Timeouts: resilience.Timeouts{Request: 150 * time.Millisecond}}
	w.careful("10.96.0.1:80", policy, "10.0.0.2:80=b")
	w.careful("10.96.0.2:80", policy, "10.0.0.9:80")
	c := a.client(true)
	for _, vip := range []string{"10.96.0.1", "10.96.0.2"} {
		began := time.Now()
		resp, err := c.Get("http://" + vip + "/hang")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 504 || resp.Header.Get(hop.FieldProxyError) != "request timeout" {
			t.Errorf("%s: %s %q", vip, resp.Status, resp.Header)
		}
		if d := time.Since(began); d < 150*time.Millisecond {
			t.Errorf("%s: answered after %v", vip, d)
		}
		if resp, err = c.Get("http://" + vip + "/"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: then %s", vip, resp.Status)
		}
	}
	if n := a.metric("outbound_http_errors_total", `error="request timeout"`); n != 2 {
		t.Errorf("%v timeouts counted, want 2", n)
	}
}
