package netstack

import (
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

const (
	// reservedPlaces bounds the connections to Config.Reserved: those that begin,
	// and those that there are.
	reservedPlaces = 128
	// answerTime is what a client has for the ACK of its handshake when others wait
	// for its place; the SYN-ACK was sent three times by then.
	answerTime = 3 * time.Second
	// roomEvery is how far apart handshakes are ended for others at least: a flood
	// is not to turn over all the places that it has, at the price of each.
	roomEvery = 5 * time.Millisecond
)

// door is where clients come in whose connections are counted together: the app,
// the network, and who comes from there to the reserved port.
type door struct {
	opening places // from a SYN until it is refused or its handshake is over
	places  places // from a SYN until the last FIN
	// The accepted connections whose handshake is not over, in the order of their
	// SYNs.
	first, last *conn
	room        time.Duration // when one of them may be ended for another
}

// reserved is the index of the third door; the others are the sides.
const reserved = 2

func (l *loop) doorOf(side aio.Side, local netip.AddrPort) *door {
	if side == aio.Wire && l.s.cfg.Reserved != 0 && local.Port() == l.s.cfg.Reserved {
		return &l.doors[reserved]
	}
	return &l.doors[side]
}

func (d *door) add(c *conn) {
	c.before = d.last
	if d.last == nil {
		d.first = c
	} else {
		d.last.after = c
	}
	d.last = c
}

func (d *door) remove(c *conn) {
	if c.before == nil {
		d.first = c.after
	} else {
		c.before.after = c.after
	}
	if c.after == nil {
		d.last = c.before
	} else {
		c.after.before = c.before
	}
	c.before, c.after = nil, nil
}

// makeRoom ends the handshake that has lasted longest, if its client had time to
// answer, and reports whether it did: the network may forge any number of SYNs, and
// without that they would keep everybody out for two minutes.
func (l *loop) makeRoom(d *door) bool {
	c := d.first
	if c == nil || l.clock.now-c.began < answerTime || l.clock.now < d.room {
		return false
	}
	d.room = l.clock.now + roomEvery
	l.counters[c.side].expired.Add(1)
	c.abort()
	c.deliver()
	return true
}
