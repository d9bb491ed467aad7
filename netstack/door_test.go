package netstack

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// fromWire is the SYN of a client of the network, each at an address of its own.
func fromWire(client int, port uint16) []byte {
	b := fuzzTCP(4, 40001, 1000, 0, 2, nil)
	copy(b[12:], []byte{198, 51, byte(client >> 8), byte(client), 10, 1, 0, 5}) //nolint:gosec // the low bits
	fixChecksum(b)
	binary.BigEndian.PutUint16(b[22:], port)
	return b
}

// crowd is a stack that accepts everybody, with clients who begin and say no more.
type crowd struct {
	*still
	all []*ends
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{}
	c.still = newStill(t, func(p *Pending) {
		e := &ends{}
		conn, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		e.conn = conn
		conn.SetHandler(e)
		c.all = append(c.all, e)
	})
	c.l.s.cfg.Reserved = 99
	for i := range c.l.s.cfg.MaxPending {
		c.send(t, aio.Wire, fromWire(i, 80))
	}
	if len(c.all) != c.l.s.cfg.MaxPending {
		t.Fatalf("%d were accepted", len(c.all))
	}
	return c
}

// TestHandshakesMakeRoom: who does not end its handshake loses its place to somebody
// else, after a while, and slowly: the oldest first.
func TestHandshakesMakeRoom(t *testing.T) {
	c := newCrowd(t)
	full := len(c.all)
	c.send(t, aio.Wire, fromWire(1000, 80))
	if n := c.l.s.Counters().Wire.Drops[packet.PendingLimit]; n != 1 || len(c.all) != full {
		t.Fatalf("%d dropped, %d accepted beyond the bound", n, len(c.all)-full)
	}
	c.sleep(t, answerTime+100*time.Millisecond, nil)
	for i := range 10 {
		c.l.clock.base = c.l.clock.base.Add(-roomEvery)
		c.send(t, aio.Wire, fromWire(1001+i, 80))
	}
	if n := len(c.all) - full; n != 10 {
		t.Fatalf("%d of 10 found room", n)
	}
	for i, e := range c.all {
		if old := i < 10; e.closed != old || old && !errors.Is(e.err, aio.ErrReset) {
			t.Errorf("connection %d: closed %v, %v", i, e.closed, e.err)
		}
	}
	if d := &c.l.doors[aio.Wire]; d.opening.used != full || d.places.used != full || len(c.l.flows[aio.Wire]) != full {
		t.Errorf("%d handshakes, %d places, %d connections", d.opening.used, d.places.used, len(c.l.flows[aio.Wire]))
	}
	// Who answers leaves the list wherever he stands in it.
	d := &c.l.doors[aio.Wire]
	for _, i := range []int{20, 10, full + 9} {
		k := c.all[i].conn.(*conn)
		ack := fromWire(0, 80)
		copy(ack[12:16], k.remote.Addr().AsSlice())
		fixChecksum(ack)
		binary.BigEndian.PutUint32(ack[24:], 1001)
		binary.BigEndian.PutUint32(ack[28:], k.flow.ISS+1)
		ack[33] = 16
		c.send(t, aio.Wire, ack)
		if k.shaking {
			t.Fatalf("handshake %d is not over", i)
		}
	}
	n := 0
	for k := d.first; k != nil; k = k.after {
		if n++; !k.shaking || k.after == nil && k != d.last || k.after != nil && k.after.before != k {
			t.Fatalf("the list of handshakes is broken at %d", n)
		}
	}
	if n != full-3 || d.opening.used != n {
		t.Errorf("%d handshakes are listed, %d counted, want %d", n, d.opening.used, full-3)
	}
}

// TestTheReservedPort: neither those who crowd the pod's other ports nor a loop that
// is behind keep its clients out; and they have a bound of their own.
func TestTheReservedPort(t *testing.T) {
	c := newCrowd(t)
	c.l.doors[aio.Wire].places.max = c.l.doors[aio.Wire].places.used
	c.l.surges[aio.Wire] = surge{end: 1 << 62, most: 1, began: 1}
	full := len(c.all)
	for i := range reservedPlaces + 10 {
		c.send(t, aio.Wire, fromWire(2000+i, 99))
	}
	if n := len(c.all) - full; n != reservedPlaces {
		t.Errorf("%d were accepted, want %d", n, reservedPlaces)
	}
	c.send(t, aio.Wire, fromWire(3000, 80))
	drops := c.l.s.Counters().Wire.Drops
	if drops[packet.PendingLimit] != 10 || drops[packet.SYNLimit] != 1 {
		t.Errorf("dropped %v", drops)
	}
}
