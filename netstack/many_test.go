package netstack_test

import (
	"errors"
	"io"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

// TestBackpressure: a reader that stops stops the writer, with little held
// between; and all arrives once it reads on.
func TestBackpressure(t *testing.T) {
	conns := make(chan aio.Conn, 1)
	w := newWorld(t, through, func(p *netstack.Pending) {
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		conns <- c // nobody reads
	})
	c := w.dial(at(server4, 80))
	srv := <-conns
	var written atomic.Int64
	const total = 64 << 20
	go func() {
		buf := make([]byte, 64<<10)
		for written.Load() < total {
			n, err := c.Write(buf)
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	}()
	// The writer stands still when nothing moved for a while.
	for last := int64(-1); last != written.Load(); time.Sleep(150 * time.Millisecond) {
		last = written.Load()
	}
	// What may be on the way: three buffers as large as bulk makes them (the writer's,
	// and both of the connections that are joined), the reader's, which has not seen any
	// read, and a write.
	const most = 3*4<<20 + 256<<10 + 64<<10
	if n := written.Load(); n == 0 || n > most {
		t.Errorf("%d bytes were taken from a writer whose reader sleeps", n)
	}
	got := make(chan int64, 1)
	srv.Loop().Post(func() {
		n := aio.NetConn(srv)
		go func() {
			defer n.Close()
			m, _ := io.CopyN(io.Discard, n, total)
			got <- m
		}()
	})
	select {
	case n := <-got:
		if n != total {
			t.Errorf("%d of %d bytes arrived", n, total)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("stuck after %d bytes", written.Load())
	}
}

// one echoes on the loop, without a goroutine.
type one struct{ buf [512]byte }

func (o *one) Readable(c aio.Conn) {
	for {
		n, err := c.Read(o.buf[:])
		if n > 0 {
			_, _ = c.Write(o.buf[:n])
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				c.Close()
			}
			return
		}
	}
}
func (*one) Writable(aio.Conn)      {}
func (*one) Closed(aio.Conn, error) {}

// TestManyIdleConnections: they cost memory and nothing else, and all of it
// comes back.
func TestManyIdleConnections(t *testing.T) {
	count := 10_000
	switch {
	case testing.Short():
		count = 500
	case raceDetector:
		count = 2000
	}
	w := newWorld(t, through, func(p *netstack.Pending) {
		if c, err := p.Accept(); err == nil {
			c.SetHandler(&one{})
		}
	}, tune(func(c *netstack.Config) { c.MaxPending = 20_000 }))
	_ = w.dial(at(server4, 999)).Close() // everything has started
	waitFor(t, func() bool { return w.hop.Counters().TCP.Established == 0 })
	goroutines, before := runtime.NumGoroutine(), heap()

	start := time.Now()
	loop := w.app.Loops()[0]
	conns := make([]aio.Conn, 0, count)
	failed := make(chan error, 1)
	var dial func()
	dial = func() {
		dst := at(server4, uint16(1000+len(conns)%4)) // the pod's ports are 49,536 for each
		loop.Dial(aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(pod4, 0), Dst: dst, Timeout: 10 * time.Second, Done: func(c aio.Conn, err error) {
			if err == nil {
				conns = append(conns, c)
			}
			if err != nil || len(conns) == count {
				failed <- err
				return
			}
			dial()
		}})
	}
	loop.Post(dial)
	if err := <-failed; err != nil {
		t.Fatalf("after %d connections: %v", len(conns), err)
	}
	waitFor(t, func() bool { return w.hop.Counters().TCP.Established == uint64(2*count) })
	if n := runtime.NumGoroutine(); n > goroutines+5 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	each := (heap() - before) / int64(4*count) // endpoints: app, twice the hop, server
	t.Logf("%d bytes of heap for each idle endpoint", each)
	if each > 8<<10 && count > 2000 {
		t.Errorf("an idle endpoint holds %d bytes", each)
	}

	t.Logf("connected after %v", time.Since(start))
	// Every one still works, then ends.
	answered := make(chan int, 1)
	loop.Post(func() {
		left := &countdown{left: conns, n: count, done: answered}
		for range 32 { // at once; a ring does not hold all of them
			left.next()
		}
	})
	select {
	case <-answered:
	case <-time.After(time.Minute):
		t.Fatalf("some connections do not answer: hop %+v", w.hop.Counters())
	}
	t.Logf("answered after %v", time.Since(start))
	waitForLong(t, 20*time.Second, func() bool {
		return w.hop.Counters().TCP.Established == 0 && w.app.Counters().TCP.Established == 0 && w.server.Counters().TCP.Established == 0
	})
}

// countdown sends a byte on one connection after the other, and closes each
// when the byte comes back.
type countdown struct {
	left []aio.Conn
	n    int
	done chan<- int
}

func (c *countdown) next() {
	if len(c.left) > 0 {
		k := c.left[0]
		c.left = c.left[1:]
		k.SetHandler(c)
		_, _ = k.Write([]byte{1})
	}
}

func (c *countdown) Readable(k aio.Conn) {
	var b [8]byte
	if n, _ := k.Read(b[:]); n == 0 {
		return
	}
	k.Close()
	c.next()
	if c.n--; c.n == 0 {
		c.done <- 0
	}
}
func (*countdown) Writable(aio.Conn)      {}
func (*countdown) Closed(aio.Conn, error) {}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
