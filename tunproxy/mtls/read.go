package mtls

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// errTruncated: an attacker can make a FIN, but not a close_notify.
var errTruncated = fmt.Errorf("%w: the peer's FIN came without close_notify", aio.ErrReset)

// Read implements aio.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.closed {
		return 0, aio.ErrClosed
	}
	n := 0
	if len(c.peeked) > 0 {
		n = copy(p, c.peeked)
		c.peeked = c.peeked[n:]
		if len(c.peeked) == 0 {
			c.peeked = nil
		}
	}
	if n < len(p) {
		k, err := c.decrypt(p[n:])
		n += k
		if n == 0 {
			c.readUp()
			return 0, err
		}
	}
	return n, nil
}

// readUp: the last event may have waited for the user to read the end.
func (c *Conn) readUp() {
	if c.broke && !c.told && c.rerr != nil {
		c.shim.loop.Post(c.tell)
	}
}

// Peek implements aio.Conn.
func (c *Conn) Peek(p []byte) (int, error) {
	if c.closed {
		return 0, aio.ErrClosed
	}
	var err error
	if more := len(p) - len(c.peeked); more > 0 && (c.dry || c.rerr != nil) {
		_, err = c.decrypt(nil)
	} else if more > 0 {
		b := make([]byte, more)
		var n int
		n, err = c.decrypt(b)
		c.peeked = append(c.peeked, b[:n]...)
	}
	if len(c.peeked) > 0 {
		return copy(p, c.peeked), nil
	}
	return 0, err
}

// decrypt fills p from as many records as are there. The error is for n == 0.
func (c *Conn) decrypt(p []byte) (int, error) {
	if c.rerr != nil {
		return 0, c.rerr
	}
	if c.dry {
		return 0, aio.ErrWouldBlock
	}
	c.store.lend(c.tls)
	n := 0
	for n < len(p) {
		if !c.fetch() {
			c.dry = true
			break
		}
		k, err := c.tls.Read(p[n:])
		n += k
		if k > 0 {
			c.heard = true
		}
		if err == nil {
			continue
		}
		if errors.Is(err, aio.ErrWouldBlock) {
			c.dry = true
		} else {
			c.rerr = c.explain(err)
		}
		break
	}
	c.store.takeBack(c.tls)
	if c.rerr != nil && n == 0 {
		return 0, c.rerr
	}
	if n == 0 && len(p) > 0 {
		return 0, aio.ErrWouldBlock
	}
	return n, nil
}

// explain gives an error of crypto/tls its meaning for a stream.
func (c *Conn) explain(err error) error {
	var remote *net.OpError
	switch {
	case (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && c.shim.sawEOF:
		if !c.heard && c.role == clientRole {
			return fmt.Errorf("tls with %s as %s: %w before it said anything: %w", c.shim.remote, c.peer, ErrRefusedByPeer, errTruncated)
		}
		return fmt.Errorf("tls with %s as %s: %w", c.shim.remote, c.peer, errTruncated)
	case errors.Is(err, io.EOF):
		return io.EOF
	case !c.heard && errors.As(err, &remote) && remote.Op == "remote error":
		return fmt.Errorf("tls with %s as %s: %w: %w", c.shim.remote, c.peer, ErrRefusedByPeer, remote.Err)
	}
	return fmt.Errorf("tls with %s as %s: %w", c.shim.remote, c.peer, err)
}
