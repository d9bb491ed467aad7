package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// due is when things must have happened, on the loop's clock; 0: no matter.
type due struct {
	ping     time.Duration // any byte after our PING
	settings time.Duration // the peer's SETTINGS and its acknowledgement of ours
	frame    time.Duration // the rest of a frame
	write    time.Duration // progress of the output
	linger   time.Duration // the end of a closed connection
	drain    time.Duration // the answer to Drain's PING
	pace     time.Duration // a look at streams whose peer may be too slow
}

// setDue sets a deadline d from now.
func (c *Conn) setDue(at *time.Duration, d time.Duration) {
	*at = c.loop.Now() + d
	c.arm()
}

// arm sets the timer for the earliest deadline. Deadlines that move away leave
// it alone: it fires once for nothing, which is cheaper.
func (c *Conn) arm() {
	var next time.Duration
	earliest := func(at time.Duration) {
		if at > 0 && (next == 0 || at < next) {
			next = at
		}
	}
	d := &c.due
	switch {
	case c.state == closed:
		return
	case c.state == lingering:
		earliest(d.linger)
	default:
		earliest(d.ping)
		earliest(d.settings)
		earliest(d.frame)
		earliest(d.write)
		earliest(d.drain)
		earliest(d.pace)
		if c.cfg.Keepalive.Interval > 0 && d.ping == 0 {
			earliest(c.lastRead + c.cfg.Keepalive.Interval)
		}
	}
	if next == 0 || c.timer != nil && c.timerAt <= next {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timerAt = next
	c.timer = c.loop.AfterFunc(next-c.loop.Now(), c.onTimer)
}

// expire acts on deadlines that have passed.
func (c *Conn) expire() {
	c.timer = nil
	now := c.loop.Now()
	passed := func(at time.Duration) bool { return at > 0 && at <= now }
	if c.state == lingering && passed(c.due.linger) {
		c.terminate()
	}
	if c.state == open && passed(c.due.ping) {
		c.read() // this process may be the slow one: what is there counts
	}
	if c.state == open {
		d := &c.due
		switch {
		case passed(d.ping):
			c.count.DeadPeers.Add(1)
			c.shut(ErrDeadPeer, message.NoError, "no answer to PING")
		case passed(d.settings):
			c.count.SlowFrames.Add(1)
			c.shut(ErrSlowPeer, message.SettingsTimeout, "no SETTINGS in time")
		case passed(d.frame):
			c.count.SlowFrames.Add(1)
			c.shut(ErrSlowPeer, message.EnhanceYourCalm, "a frame takes too long")
		case passed(d.write):
			c.count.WriteStalls.Add(1)
			c.shut(ErrWriteStall, message.EnhanceYourCalm, "nothing is read")
		case passed(d.drain):
			c.drainFinal()
			c.wake()
		}
		if c.state == open && passed(d.pace) {
			c.paces()
		}
		if k := c.cfg.Keepalive; c.state == open && k.Interval > 0 && d.ping == 0 && passed(c.lastRead+k.Interval) {
			c.appended(frame.AppendPing(c.frames(), false, keepalivePing))
			d.ping = now + k.Timeout
		}
	}
	c.arm()
}
