package h2

import (
	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Client is the opening end of a connection.
type Client struct{ Conn }

// NewClient speaks HTTP/2 as client on conn, whose handler it becomes. Streams
// may be opened at once: until the peer's SETTINGS arrive, 100 of them.
func NewClient(conn aio.Conn, cfg Config) *Client {
	c := new(Client)
	c.start(conn, cfg, false)
	return c
}

// OpenStream makes a stream for one request. It reaches the peer with SendHead.
// The error is ErrSaturated, ErrDraining or ErrClosed.
func (c *Client) OpenStream() (message.Stream, error) {
	switch {
	case c.state != open:
		return nil, ErrClosed
	case c.draining:
		return nil, ErrDraining
	case c.Capacity() == 0:
		c.saturated = true
		return nil, ErrSaturated
	}
	s := c.newStream()
	c.unborn = append(c.unborn, s)
	if c.idsLeft() == 0 { // these were the last
		c.draining = true
		c.tellDrain = true
		c.wake()
	}
	return s, nil
}

// Capacity is how many more streams OpenStream would make now.
func (c *Client) Capacity() int {
	if c.state != open || c.draining {
		return 0
	}
	return max(0, min(c.peer.maxStreams-c.streams.n-len(c.unborn), c.idsLeft()))
}

// idsLeft is how many more streams have an identifier.
func (c *Conn) idsLeft() int {
	return (frame.MaxStreamID-int(c.nextID))/2 + 1 - len(c.unborn)
}

// giveID opens s, if the peer's limit allows it now; it may have become lower
// since OpenStream. HEADERS must follow at once: identifiers go up on the wire.
func (c *Conn) giveID(s *stream) bool {
	if c.streams.n >= c.peer.maxStreams || s.extended && !c.in.settings {
		return false
	}
	s.id = c.nextID
	c.nextID += 2
	s.sendWindow = c.peer.initialWindow
	c.dropUnborn(s)
	c.streams.add(s)
	return true
}

func (c *Conn) dropUnborn(s *stream) {
	for i := len(c.unborn) - 1; i >= 0; i-- {
		if c.unborn[i] == s {
			c.unborn = append(c.unborn[:i], c.unborn[i+1:]...)
			return
		}
	}
}

// refuseExtended turns down what waited to hear that the peer takes :protocol.
func (c *Conn) refuseExtended() {
	for i := len(c.unborn) - 1; i >= 0; i-- {
		if s := c.unborn[i]; s.extended {
			c.resetLater(s, message.HTTP11Required, ErrNoExtendedConnect)
		}
	}
}

// roomForStreams lets streams go that waited for the peer's limit, and says so
// when OpenStream would succeed again.
func (c *Conn) roomForStreams() {
	if c.state != open {
		return
	}
	free := c.peer.maxStreams - c.streams.n
	for _, s := range c.unborn {
		if free <= 0 {
			break
		}
		if s.heads.len() > 0 {
			c.makeReady(s)
			free--
		}
	}
	if c.saturated && !c.draining && c.peer.maxStreams > c.streams.n+len(c.unborn) {
		c.saturated = false
		c.tellCapacity = true
		c.wake()
	}
}
