package netstack_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

// Packets whose memory is handed on and small ones that are copied arrive in
// order, through a hop that is often out of room, and nothing is held at the end.
func TestLargeAndSmallInTurn(t *testing.T) {
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
	}))
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

// A connection that moved much gets large buffers; one that did not, whose far
// end reads nothing, holds what it always did.
func TestBuffersOfBulkAreLarge(t *testing.T) {
	heldAfter := func(moved int) int64 {
		var mu sync.Mutex
		var stop aio.Conn
		w := newWorld(t, through, func(p *netstack.Pending) {
			c, err := p.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			c.SetHandler(&taker{left: moved, full: func() {
				mu.Lock()
				defer mu.Unlock()
				stop = c
			}})
		})
		c := w.dial(at(server4, 80))
		if _, err := c.Write(make([]byte, moved)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return stop != nil
		})
		go func() { _, _ = c.Write(make([]byte, 32<<20)) }() // ends with the connection
		last := int64(-1)
		waitFor(t, func() bool { // nothing moves any more
			h := w.hop.Counters().Held
			same := h == last && h > 0
			last = h
			time.Sleep(100 * time.Millisecond)
			return same
		})
		_ = c.Close()
		return last
	}
	few, many := heldAfter(1000), heldAfter(16<<20)
	if few > 2<<20 {
		t.Errorf("%d bytes are held of a connection that moved nothing", few)
	}
	if many < 2*few {
		t.Errorf("%d bytes are held of one that moved much, %d of one that did not", many, few)
	}
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
