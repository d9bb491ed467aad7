package netstack_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

// looker is a handler that takes all there is, ends its own direction with the
// peer's, and gives the connection away when that is over.
type looker struct{ to aio.Handler }

func (l *looker) Readable(c aio.Conn) {
	var b [64]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			if errors.Is(err, io.EOF) {
				_ = c.CloseWrite()
			}
			return
		}
	}
}
func (*looker) Writable(aio.Conn)              {}
func (l *looker) Closed(c aio.Conn, err error) { c.SetHandler(l.to) }

// heir tells what its first Read finds.
type heir chan error

func (h heir) Readable(c aio.Conn) {
	var b [64]byte
	_, err := c.Read(b[:])
	h <- err
	c.Reset()
}
func (heir) Writable(aio.Conn)      {}
func (heir) Closed(aio.Conn, error) {}

// TestAnEndedConnectionIsHandedOver: a handler set after another had heard Closed is
// called, or it would wait for ever.
func TestAnEndedConnectionIsHandedOver(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(c aio.Conn)
		want error
	}{
		{"reset", aio.Conn.Reset, aio.ErrReset},
		{"closed in order", aio.Conn.Close, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := make(heir, 1)
			w := newWorld(t, func(p *netstack.Pending) {
				c, err := p.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				c.SetHandler(&looker{to})
			}, nil)
			l := w.app.Loops()[0]
			l.Post(func() {
				l.Dial(aio.DialRequest{Side: aio.Wire, Src: at(pod4, 0), Dst: at(server4, 80), Timeout: 10 * time.Second, Done: func(c aio.Conn, err error) {
					if err != nil {
						t.Error(err)
						return
					}
					tc.end(c)
				}})
			})
			select {
			case err := <-to:
				if !errors.Is(err, tc.want) {
					t.Errorf("%v, want %v", err, tc.want)
				}
			case <-time.After(20 * time.Second):
				t.Error("the new handler was not called")
			}
		})
	}
}
