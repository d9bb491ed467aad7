package tunproxy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// visited is an HTTP server that knows who is connected, and closes them.
type visited struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (v *visited) serve(c net.Conn) {
	v.mu.Lock()
	v.conns = append(v.conns, c)
	v.mu.Unlock()
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

func (v *visited) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.conns)
}

func (v *visited) closeAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.conns {
		_ = c.Close()
	}
}

// TestASilentClientOutlivesServers: a client of a Service that speaks HTTP keeps
// its connection while it says nothing, whatever becomes of the server that was
// waiting to hear it: it is no more tied to that one than with requests.
func TestASilentClientOutlivesServers(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	v := &visited{}
	l := b.serve(80, v.serve)
	ask := func(c net.Conn) (int, error) {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	if status, err := ask(a.dial("10.96.0.1:80")); status != 200 {
		t.Fatal(status, err)
	}
	t.Run("the server closes", func(t *testing.T) {
		for range 2 { // nothing was said: the Service still speaks HTTP afterwards
			was := v.count()
			c := a.dial("10.96.0.1:80")
			eventually(t, "the silent client was led to the server", func() bool { return v.count() > was })
			v.closeAll()
			time.Sleep(100 * time.Millisecond) // the end arrives
			if status, err := ask(c); status != 200 {
				t.Errorf("status %d, %v", status, err)
			}
		}
	})
	t.Run("the server is just being started again", func(t *testing.T) {
		refused := b.metric("inbound_tcp_errors_total")
		_ = l.Close()
		c := a.dial("10.96.0.1:80")
		eventually(t, "the silent client was led there", func() bool { return b.metric("inbound_tcp_errors_total") > refused })
		time.Sleep(100 * time.Millisecond)
		b.serve(80, v.serve)
		if status, err := ask(c); status != 200 {
			t.Errorf("status %d, %v", status, err)
		}
	})
}
