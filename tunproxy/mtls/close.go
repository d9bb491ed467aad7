package mtls

import (
	"fmt"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// linger bounds how long bytes written before Close may take to leave.
const linger = 10 * time.Second

// CloseWrite implements aio.Conn: close_notify, then FIN.
func (c *Conn) CloseWrite() error {
	switch {
	case c.closed:
		return aio.ErrClosed
	case c.werr != nil:
		return c.werr
	}
	c.sendClose()
	c.fin()
	return c.werr
}

func (c *Conn) sendClose() {
	if !c.finOut {
		c.finOut = true
		if err := c.tls.CloseWrite(); err != nil && c.werr == nil {
			c.werr = fmt.Errorf("tls with %s as %s: %w", c.shim.remote, c.peer, err)
		}
	}
}

// fin passes the half-close on once everything before it has left.
func (c *Conn) fin() {
	if c.finOut && !c.finned && len(c.shim.out) == 0 && c.werr == nil {
		c.finned = true
		c.werr = c.raw.CloseWrite()
	}
}

// Close implements aio.Conn.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	if c.unread() {
		c.Reset()
		return
	}
	c.closed = true
	c.h = nil
	c.sendClose()
	if c.flush() || c.werr != nil {
		c.release()
		return
	}
	c.timer = c.shim.loop.AfterFunc(linger, c.giveUp)
}

// unread reports whether received data would be lost. It also empties the
// transport of what is TLS's own (session tickets), which the transport would
// take for unread data.
func (c *Conn) unread() bool {
	if len(c.peeked) > 0 {
		return true
	}
	if c.broke {
		return false
	}
	c.dry = false
	var one [1]byte
	n, _ := c.decrypt(one[:])
	return n > 0
}

func (c *Conn) giveUp() {
	if !c.released {
		c.raw.Reset()
		c.end()
	}
}

func (c *Conn) release() {
	if !c.released {
		c.raw.Close()
		c.end()
	}
}

// Reset implements aio.Conn.
func (c *Conn) Reset() {
	if c.released {
		return
	}
	c.closed = true
	c.h = nil
	c.raw.Reset()
	c.end()
}

// end lets go of everything but the addresses and the peer's name.
func (c *Conn) end() {
	c.released = true
	c.shim.out, c.shim.in, c.peeked = nil, nil, nil
	if c.timer != nil {
		c.timer.Stop()
	}
}
