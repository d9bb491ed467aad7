package h2

import "github.com/tunmesh/tunmesh/tunproxy/message"

// holds notes n more bytes, or fewer, that this connection holds for others.
func (c *Conn) holds(n int) {
	if n != 0 {
		c.held += n
		c.mem.Bound.Hold(n)
	}
}

func (c *Conn) shedHit() {
	c.mem.Bound.Hit()
	c.count.Shed.Add(1)
}

// shed resets the streams that hold most until the connection holds no more
// than is free. What arrived meanwhile is in the transport's buffer at most.
func (c *Conn) shed() {
	for c.state == open && c.mem.Bound.Over(c.held) {
		var most *stream
		for _, s := range c.streams.slots {
			if s != nil && (most == nil || s.unread+s.cost > most.unread+most.cost) {
				most = s
			}
		}
		if most == nil || most.unread+most.cost == 0 {
			return
		}
		c.shedHit()
		c.resetLater(most, message.EnhanceYourCalm, ErrMemory)
	}
}
