package tunproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// most counts what is open at a time.
type most struct{ now, most atomic.Int64 }

func (m *most) add() {
	n := m.now.Add(1)
	for old := m.most.Load(); n > old && !m.most.CompareAndSwap(old, n); old = m.most.Load() {
	}
}

// TestConnectionsLeaveWithTheirClients: a server with a thread for each connection has
// no more of them than without sidecars, whoever comes for one request at a time,
// and says that he would stay.
func TestConnectionsLeaveWithTheirClients(t *testing.T) {
	const requests, slack = 200, 20 // what is under way when the next one comes
	for _, from := range []string{"the network", "the app"} {
		t.Run(from, func(t *testing.T) {
			w := newWorld(t)
			var open most
			serve := func(h *host) {
				h.serve(80, func(c net.Conn) {
					open.add()
					defer open.now.Add(-1)
					for r := bufio.NewReader(c); ; {
						_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
						req, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						_, _ = io.Copy(io.Discard, req.Body)
						if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
							return
						}
					}
				})
			}
			var client *host
			if from == "the network" {
				b := w.pod("b", "10.0.0.2")
				serve(b.host)
				client = w.hostOutside("10.0.0.9")
			} else {
				client = w.pod("a", "10.0.0.1").host
				serve(w.hostOutside("10.0.0.2"))
			}
			ask := func(c net.Conn) {
				t.Helper()
				if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
					t.Fatalf("%q, %v", body, err)
				}
			}
			stays := client.dial("10.0.0.2:80")
			ask(stays)
			for range requests {
				c := client.dial("10.0.0.2:80")
				ask(c)
				_ = c.Close()
			}
			if n := open.most.Load(); n > slack {
				t.Errorf("the server had %d connections at a time, for two clients", n)
			}
			eventually(t, "nobody's connections end", func() bool { return open.now.Load() <= 1 })
			ask(stays)
			t.Logf("at most %d at a time", open.most.Load())
		})
	}
}
