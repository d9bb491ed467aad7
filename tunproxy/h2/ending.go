package h2

import (
	"errors"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// shut ends an open connection: GOAWAY, then no more. err is for OnClosed and
// for the streams that are still open.
func (c *Conn) shut(err error, code message.Code, debug string) {
	if c.state != open {
		return
	}
	if !c.final || code != message.NoError {
		last := c.lastPeer
		if c.final {
			last = c.lastKept
		}
		c.appended(frame.AppendGoAway(c.frames(), last, code, debug))
	}
	c.state = lingering
	c.setDue(&c.due.linger, c.cfg.Timeouts.Linger)
	c.over(err)
}

// fail ends the connection for a breach of the protocol by the peer.
func (c *Conn) fail(err error) {
	var e *frame.Error
	if !errors.As(err, &e) {
		e = frame.Errorf(message.InternalError, "%v", err)
	}
	if c.state == open {
		c.count.ProtocolErrors.Add(1)
	}
	c.shut(err, e.Code, e.Reason)
}

// broken ends the connection because the transport is gone; nil: the peer
// closed it.
func (c *Conn) broken(err error) {
	if c.state == closed {
		return
	}
	if err == nil && c.streams.n+len(c.unborn) > 0 {
		err = ErrBroken
	}
	was := c.state
	c.state = closed
	c.conn.Close()
	if was == open {
		c.over(err)
	} else {
		c.release()
	}
}

// over orphans all streams. What the transport has not taken yet may no longer
// be sent after they heard that they were not delivered.
func (c *Conn) over(err error) {
	if c.goAway != nil && (err == nil || errors.Is(err, ErrBroken)) && (c.goAway.Code != message.NoError || c.streams.n > 0) {
		err = c.goAway
	}
	c.err = err
	reason := err
	if reason == nil {
		reason = ErrClosed
	}
	orphan := func(s *stream) {
		if s != nil {
			c.discard = true
			c.doomed = append(c.doomed, doom{s, s.r, message.Cancel, reason})
		}
	}
	for _, s := range c.streams.slots {
		orphan(s)
	}
	for _, s := range c.unborn {
		orphan(s)
	}
	for _, d := range c.doomed {
		if d.s.r = nil; !d.s.closed {
			c.take(d.s)
		}
	}
	c.tellClosed = true
	c.wake()
}

// passEnd writes the output and delivers what could not be told in the middle
// of other calls.
func (c *Conn) passEnd() {
	for {
		c.flush()
		switch c.state {
		case lingering:
			c.finish()
		case closed:
			c.release()
		}
		c.shed()
		c.tell()
		if c.state == open && c.draining && c.streams.n == 0 && len(c.unborn) == 0 && (c.final || !c.server) {
			c.shut(nil, message.NoError, "")
		}
		if !c.pending() {
			break
		}
	}
	c.awake = false
	for _, s := range c.graves {
		c.mem.freeStream(s)
	}
	clear(c.graves)
	c.graves = c.graves[:0]
}

// pending reports whether receivers left something to do meanwhile.
func (c *Conn) pending() bool {
	if len(c.doomed) > 0 || c.tellDrain || c.tellClosed || c.tellCapacity && c.state == open {
		return true
	}
	return c.state != closed && !c.out.blocked && (c.out.unsent() > 0 || c.ready.head != nil)
}

// finish half-closes a lingering connection once everything is written.
func (c *Conn) finish() {
	switch {
	case c.out.unsent() == 0 && !c.finished:
		c.finished = true
		if c.conn.CloseWrite() != nil {
			c.terminate()
		}
	case c.out.unsent() == 0:
	case c.discard:
		c.terminate()
	}
}

// terminate gives the transport up.
func (c *Conn) terminate() {
	c.state = closed
	if c.out.unsent() > 0 || errors.Is(c.err, ErrDeadPeer) {
		c.conn.Reset()
	} else {
		c.conn.Close()
	}
	c.release()
}

// release gives back what a closed connection held.
func (c *Conn) release() {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.out.buf, c.out.off = nil, 0
	c.holds(-c.heldOut)
	c.heldOut = 0
	c.in.drop(c.mem)
}

// tell delivers events, each once.
func (c *Conn) tell() {
	for len(c.doomed) > 0 {
		d := c.doomed[0]
		if c.doomed = c.doomed[1:]; d.r != nil && !d.s.released {
			d.r.Aborted(d.s, d.code, d.err)
		}
	}
	c.doomed = nil
	if c.tellDrain {
		c.tellDrain = false
		call(c.cfg.OnDrain)
	}
	if c.tellCapacity && c.state == open {
		c.tellCapacity = false
		call(c.cfg.OnCapacity)
	}
	if c.tellClosed {
		c.tellClosed = false
		if c.cfg.OnClosed != nil {
			c.cfg.OnClosed(c.err)
		}
	}
}

func call(f func()) {
	if f != nil {
		f()
	}
}
