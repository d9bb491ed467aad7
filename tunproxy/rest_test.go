package tunproxy_test

import (
	"bufio"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// TestASlowClientWhileEndpointsRest: a client that connects while circuit breakers
// keep requests away, and takes its time, is not taken for one that waits for
// the server to speak, and refused: it gets the answer that others get.
func TestASlowClientWhileEndpointsRest(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	b.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	w.careful("10.96.0.1:80", resilience.Policy{Accrual: breaking(1, time.Hour)}, "10.0.0.2:80=b")
	c := a.client(false)
	eventually(t, "the breaker trips", func() bool { return get(t, c, "http://10.96.0.1/") == "504 failfast" })
	noise := a.dial("10.96.0.1:80")
	fmt.Fprint(noise, "\x00\x01 not HTTP\r\n")
	_, _ = noise.Read(make([]byte, 1)) // reset: there is nobody for bytes
	for range 3 {
		conn := a.dial("10.96.0.1:80")     // accepted, for noise does not change what the Service speaks
		time.Sleep(100 * time.Millisecond) // much more than a silence
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}
