package netstack_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

// Packets whose memory is handed on and small ones that are copied arrive in
// order, through a hop that is often out of room, and nothing is held at the end.
func TestLargeAndSmallInTurn(t *testing.T) { largeAndSmall(t) }

// The same holds where gVisor's buffers are not as we know them, and all is copied.
func TestLargeAndSmallInTurnCopied(t *testing.T) { largeAndSmall(t, copies) }

func largeAndSmall(t *testing.T, o ...option) {
	const turns = 300
	sizes := []int{1, 200_000, 700, 16 << 10, 16<<10 + 1, 90_001, 5}
	next := func(i int) []byte {
		b := make([]byte, sizes[i%len(sizes)])
		fill(b, i)
		return b
	}
	w := newWorld(t, through, serve(func(c net.Conn) {
		for i := range turns {
			if _, err := c.Write(next(i)); err != nil {
				t.Error(err)
				return
			}
		}
		_ = c.(aio.CloseWriter).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}), o...)
	c := w.dial(at(server4, 80))
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	for i := range turns {
		want := next(i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("turn %d, %d bytes: %v, or changed", i, len(want), err)
		}
		if i%100 == 50 {
			time.Sleep(50 * time.Millisecond) // every buffer fills
		}
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %d, %v", n, err)
	}
	_ = c.Close()
	waitFor(t, func() bool { return w.hop.Counters().Held == 0 })
}

// A connection that moved much gets large buffers: more is held for a far end that
// then stops reading than fits into those that connections begin with.
func TestBuffersOfBulkAreLarge(t *testing.T) {
	const moved, start = 16 << 20, 2 * (256 << 10)
	stopped := make(chan struct{})
	w := newWorld(t, through, func(p *netstack.Pending) {
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		c.SetHandler(&taker{left: moved, full: func() { close(stopped) }})
	})
	c := w.dial(at(server4, 80))
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	go func() { _, _ = c.Write(make([]byte, moved+32<<20)) }() // ends with the connection
	<-stopped
	waitFor(t, func() bool { return w.hop.Counters().Held > 6*start })
	_ = c.Close()
}

// taker reads so many bytes and then no more.
type taker struct {
	left int
	full func()
}

func (r *taker) Readable(c aio.Conn) {
	b := make([]byte, 64<<10)
	for r.left > 0 {
		n, err := c.Read(b[:min(len(b), r.left)])
		if r.left -= n; err != nil {
			return
		}
	}
	if r.full != nil {
		r.full()
		r.full = nil
	}
}
func (*taker) Writable(aio.Conn)      {}
func (*taker) Closed(aio.Conn, error) {}
