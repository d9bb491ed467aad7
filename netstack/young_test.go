package netstack

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

func TestLine(t *testing.T) {
	var q line[int]
	in, out := 0, 0
	// It grows and shrinks, over and again, and keeps the order.
	for round := range 50 {
		for range round % 7 * 3 {
			q.push(in)
			in++
		}
		for range min(q.len(), round%5*4) {
			if v := q.pop(); v != out {
				t.Fatalf("got %d, want %d", v, out)
			}
			out++
		}
		if q.len() != in-out {
			t.Fatalf("%d wait, want %d", q.len(), in-out)
		}
	}
	for q.len() > 0 {
		q.pop()
	}
	for i, v := range q.list[:cap(q.list)] {
		if v != 0 {
			t.Fatalf("place %d still has %d", i, v)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		q.push(1)
		q.pop()
	}); n != 0 {
		t.Errorf("%v allocations for a turn", n)
	}
}

// costly is a handler that takes long.
type costly struct {
	heard *int
	cost  time.Duration
}

func (h costly) Readable(c aio.Conn) {
	*h.heard++
	for end := time.Now().Add(h.cost); time.Now().Before(end); { //nolint:revive // busy, as handlers are
	}
	var b [16]byte
	_, _ = c.Read(b[:])
}
func (costly) Writable(aio.Conn)      {}
func (costly) Closed(aio.Conn, error) {}

// TestNewConnectionsLeaveRoom: new connections with much to do take a part of a pass,
// in their order, and one that is there for longer has its turn in each.
func TestNewConnectionsLeaveRoom(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	var old, fresh int
	s.open(t, e, 40001)
	first := e.conn.(*conn)
	first.SetHandler(costly{heard: &old})
	s.sleep(t, 2*youth, nil)
	const n = 20
	var others []*conn
	for i := range uint16(n) {
		s.open(t, e, 41000+i)
		others = append(others, e.conn.(*conn))
		e.conn.SetHandler(costly{heard: &fresh, cost: youngTime})
	}
	s.pass(t)
	old, fresh = 0, 0
	for _, c := range others {
		c.readable = true
		c.enqueue()
	}
	for passes := 1; fresh < n; passes++ {
		first.readable = true
		first.enqueue()
		was := fresh
		s.pass(t)
		if old != passes {
			t.Fatalf("the old one had %d turns in %d passes", old, passes)
		}
		// One, but for a machine that had better to do before.
		if got := fresh - was; got == 0 || got > n/2 {
			t.Fatalf("%d new ones had a turn in one pass", got)
		}
	}
}
