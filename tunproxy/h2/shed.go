package h2

import "github.com/tunmesh/tunmesh/tunproxy/message"

// What a connection holds is charged where it lies: bodies with the connection
// that waits to send them, so that it is the slow peer of either direction who
// has to answer for it.

// holds notes n more bytes, or fewer, that this connection holds.
func (c *Conn) holds(n int) {
	if n != 0 {
		c.held += n
		c.mem.Bound.Hold(n)
	}
}

// shed resets the streams that hold most until the connection holds no more
// than is free. It runs at the end of a pass.
func (c *Conn) shed() {
	if c.state == closed {
		return
	}
	unsent := c.out.unsent()
	c.holds(unsent - c.heldOut)
	c.heldOut = unsent
	for c.state == open && c.mem.Bound.Over(c.held) {
		var most *stream
		for _, s := range c.streams.slots {
			if s != nil && (most == nil || s.holds() > most.holds()) {
				most = s
			}
		}
		if most == nil || most.holds() == 0 {
			return
		}
		c.shedHit()
		c.resetLater(most, message.EnhanceYourCalm, ErrMemory)
	}
}

// streamCost is what an open stream takes in bytes besides its head and body,
// with the exchange and the stream that it leads to.
const streamCost = 3 << 10

func (s *stream) holds() int { return s.queue.size + s.cost }

func (c *Conn) shedHit() {
	c.mem.Bound.Hit()
	c.count.Shed.Add(1)
}
