package tunproxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestHeadsAsLargeAsAllowed: what the app's connection has room for, the hop has
// room for too, with what it adds.
func TestHeadsAsLargeAsAllowed(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	fill := func(h http.Header) {
		for i := range 120 {
			h.Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 510))
		}
	}
	b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		fill(rw.Header())
		fmt.Fprint(rw, len(r.Header.Get("X-119")))
	})
	req, _ := http.NewRequest("GET", "http://10.96.0.1/", nil)
	fill(req.Header)
	resp, err := a.client(false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || len(resp.Header.Get("X-119")) != 510 {
		t.Errorf("status %s, %s", resp.Status, resp.Header.Get("X-Tunmesh-Proxy-Error"))
	}
}
