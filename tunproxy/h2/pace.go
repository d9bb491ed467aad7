package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// A pace is a deadline that bytes move on: each is worth 1/MinRate of a second,
// and what is saved up is at most the time that the bound allows. So a peer that
// rests for less than that is as good as any, and one that sends a byte now and
// then to keep a deadline away is found in the same time as one that sends none.

// earn moves a deadline on for n bytes.
func (c *Conn) earn(by *time.Duration, n int, grace time.Duration) {
	*by = min(*by+time.Duration(n)*time.Second/time.Duration(c.cfg.Limits.MinRate), c.loop.Now()+grace)
}

// paceInput watches the body of a request that said how long it is.
func (c *Conn) paceInput(s *stream) {
	if s.expect > 0 && !s.recvEnd {
		s.recvBy = c.loop.Now() + c.cfg.Timeouts.Body
		c.look(s.recvBy)
	}
}

// paceOutput watches a response that begins to wait for its client.
func (c *Conn) paceOutput(s *stream) {
	if c.server && !s.grpc {
		s.sendBy = c.loop.Now() + c.cfg.Timeouts.Unread
		c.look(s.sendBy)
	}
}

// paced notes that n bytes of what waited have left.
func (c *Conn) paced(s *stream, n int) {
	switch {
	case s.sendBy == 0:
	case s.queue.size == 0:
		s.sendBy = 0
	default:
		c.earn(&s.sendBy, n, c.cfg.Timeouts.Unread)
	}
}

// paceFrame watches a DATA frame that is not whole.
func (c *Conn) paceFrame() {
	in := &c.in
	if in.by == 0 {
		in.by = c.loop.Now() + c.cfg.Timeouts.Body
	} else {
		c.earn(&in.by, in.took, c.cfg.Timeouts.Body)
	}
	in.took = 0
	c.due.frame = in.by
	c.arm()
}

// look makes sure of a look at paces no later than that.
func (c *Conn) look(at time.Duration) {
	if c.due.pace == 0 || at < c.due.pace {
		c.due.pace = at
		c.arm()
	}
}

// paces resets the streams whose peer is too slow.
func (c *Conn) paces() {
	now := c.loop.Now()
	c.due.pace = 0
	var bodies, readers, curtailed []*stream
	for _, s := range c.streams.slots {
		if s == nil {
			continue
		}
		if s.curtailed {
			if s.recvBy <= now {
				curtailed = append(curtailed, s)
				continue
			}
			c.look(s.recvBy)
		}
		if s.recvBy > 0 && !s.recvEnd {
			if s.unread > 0 { // it is the server that is slow
				s.recvBy = now + c.cfg.Timeouts.Body
			}
			if s.recvBy <= now {
				bodies = append(bodies, s)
				continue
			}
			c.look(s.recvBy)
		}
		if s.sendBy > 0 {
			if s.sendBy <= now {
				readers = append(readers, s)
				continue
			}
			c.look(s.sendBy)
		}
	}
	for _, s := range bodies {
		c.count.SlowBodies.Add(1)
		c.resetLater(s, message.EnhanceYourCalm, ErrSlowPeer)
	}
	for _, s := range curtailed {
		c.count.Breaches.Add(1)
		c.resetLater(s, message.ProtocolError, frame.Errorf(message.ProtocolError, wrongLength))
	}
	for _, s := range readers {
		c.count.SlowReaders.Add(1)
		c.resetLater(s, message.EnhanceYourCalm, ErrSlowPeer)
	}
}
