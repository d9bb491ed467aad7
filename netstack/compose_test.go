package netstack_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

// composing answers a connection with pieces that are made in the send buffer.
type composing struct {
	t       *testing.T
	c       aio.Conn
	pieces  int
	sent    int
	blocked int
}

// piece is the length of piece i: small, odd and as large as they come.
func piece(i int) int { return []int{1, 60_001, 64 << 10, 777}[i%4] }

var errMade = errors.New("made up")

func (p *composing) Readable(aio.Conn) { p.pump() }
func (p *composing) Writable(aio.Conn) { p.pump() }
func (p *composing) Closed(aio.Conn, error) {
}

func (p *composing) pump() {
	w := p.c.(interface {
		Compose(n int, f func(b []byte) error) (bool, error)
	})
	for ; p.sent < p.pieces; p.sent++ {
		n := piece(p.sent)
		if ok, err := w.Compose(n, func([]byte) error { return errMade }); ok && !errors.Is(err, errMade) && !errors.Is(err, aio.ErrWouldBlock) {
			p.t.Errorf("the error of the maker: %v", err)
		}
		ok, err := w.Compose(n, func(b []byte) error {
			if len(b) != n {
				p.t.Errorf("room for %d, want %d", len(b), n)
			}
			fill(b, p.sent)
			return nil
		})
		switch {
		case errors.Is(err, aio.ErrWouldBlock):
			p.blocked++
			return
		case err != nil:
			p.t.Error(err)
			return
		case !ok: // less room than n, and more than nothing: only Write can
			b := make([]byte, n)
			fill(b, p.sent)
			if k, err := p.c.Write(b); k < n {
				p.t.Errorf("wrote %d of %d: %v", k, n, err) // the next Writable would have to go on
				return
			}
		}
	}
	_ = p.c.CloseWrite()
}

func fill(b []byte, seed int) {
	for i := range b {
		b[i] = byte(i*7 + seed)
	}
}

func TestCompose(t *testing.T) {
	const pieces = 200
	var server *composing
	w := newWorld(t, func(p *netstack.Pending) {
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		if ok, err := c.(interface {
			Compose(n int, f func(b []byte) error) (bool, error)
		}).Compose(1, nil); ok || err != nil {
			t.Errorf("during the handshake: %v, %v", ok, err)
		}
		server = &composing{t: t, c: c, pieces: pieces}
		c.SetHandler(server)
	}, serve(echo))
	c := w.dial(at(server4, 80))
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // let the buffers fill
	for i := range pieces {
		want := make([]byte, piece(i))
		fill(want, i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("piece %d: %v, or changed", i, err)
		}
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the last piece: %d, %v", n, err)
	}
	if server.blocked == 0 {
		t.Error("the buffer was never full")
	}
}
