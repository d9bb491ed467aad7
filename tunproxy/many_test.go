package tunproxy_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// Ten thousand connections that were used once and then say nothing: none is
// lost, new ones are served beside them, and all go when their clients do.
func TestTenThousandIdleConnections(t *testing.T) {
	n := 10_000
	if testing.Short() || raced {
		n = 1000
	}
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, whoami("b"))
	const request = "GET / HTTP/1.1\r\nHost: b\r\n\r\n"
	use := func(c net.Conn) error {
		if _, err := io.WriteString(c, request); err != nil {
			return err
		}
		buf := make([]byte, 512)
		for got := ""; !strings.Contains(got, "host b: "); {
			k, err := c.Read(buf)
			if err != nil {
				return err
			}
			got += string(buf[:k])
		}
		return nil
	}
	conns := make([]net.Conn, n)
	var wg sync.WaitGroup
	for worker := range 50 {
		wg.Go(func() {
			for i := worker; i < n; i += 50 {
				c, err := a.dialTo("10.96.0.1:80")
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(30 * time.Second))
					err = use(c)
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				_ = c.SetDeadline(time.Time{})
				conns[i] = c
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if open := a.metric("tcp_open_connections", `direction="outbound"`, `peer="src"`); int(open) != n {
		t.Errorf("%v connections open, want %d", open, n)
	}
	for _, i := range []int{0, n / 2, n - 1} { // an idle one still works
		if err := use(conns[i]); err != nil {
			t.Errorf("connection %d after its rest: %v", i, err)
		}
	}
	for _, c := range conns {
		_ = c.(aio.CloseWriter).CloseWrite()
		_ = c.Close()
	}
	eventually(t, "all connections are gone", func() bool {
		return a.metric("tcp_open_connections", `direction="outbound"`, `peer="src"`) == 0
	})
}
