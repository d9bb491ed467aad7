package tunproxy_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// TestAClientThatResetsBeforeItSpoke: as checks of load balancers do. The app hears of
// it, whoever waits to speak, and nothing is left.
func TestAClientThatResetsBeforeItSpoke(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	heard := make(chan error, 1)
	b.serve(80, func(c net.Conn) {
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err := c.Read(make([]byte, 1))
		heard <- err
	})
	out := w.hostOutside("10.0.0.9")
	loop := out.stack.Loops()[0]
	for range 5 {
		loop.Post(func() {
			loop.Dial(aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(out.addr, 0), Dst: netipAddrPort("10.0.0.2:80"), Timeout: 20 * time.Second, Done: func(c aio.Conn, err error) {
				if err != nil {
					heard <- err
					return
				}
				c.Reset()
			}})
		})
		var late net.Error
		if err := <-heard; err == nil || errors.As(err, &late) && late.Timeout() {
			t.Fatalf("the app heard %v", err)
		}
	}
	eventually(t, "nothing is left", func() bool { return b.metric("tcp_open_connections") == 0 })
}
