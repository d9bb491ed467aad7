package netstack

import (
	"io"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/chunk"
)

const (
	// moderateEvery is how many bytes are read between looks at whether the
	// receive buffer should grow.
	moderateEvery = 64 << 10
	// bulky is how many bytes in a direction make a connection one that moves
	// bulk: its buffer in that direction becomes as large as buffers get. gVisor
	// grows them by what came within the shortest round trip ever, which here is
	// one or two packets of 64 KB: each end then sleeps after every packet.
	bulky = 1 << 20
)

// sink takes what an endpoint reads out. gVisor insists on ErrShortWrite when
// it takes less than it is offered.
type sink struct{ p []byte }

func (s *sink) Write(b []byte) (int, error) {
	n := copy(s.p, b)
	s.p = s.p[n:]
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// source offers a slice to an endpoint's Write.
type source struct{ p []byte }

// Len implements tcpip.Payloader.
func (s *source) Len() int { return len(s.p) }

// Read implements tcpip.Payloader. gVisor's first read is of an empty slice.
func (s *source) Read(b []byte) (int, error) {
	if len(s.p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.p)
	s.p = s.p[n:]
	return n, nil
}

// Read implements aio.Conn.
func (c *conn) Read(p []byte) (int, error) { return c.read(p, false) }

// Peek implements aio.Conn.
func (c *conn) Peek(p []byte) (int, error) { return c.read(p, true) }

func (c *conn) read(p []byte, peek bool) (int, error) {
	switch {
	case c.closed:
		return 0, aio.ErrClosed
	case c.shaking, c.dry:
		return 0, aio.ErrWouldBlock
	}
	w := &c.l.sink
	w.p = p
	res, err := c.ep.Read(w, tcpip.ReadOptions{Peek: peek})
	w.p = nil
	if err != nil {
		if _, ok := err.(*tcpip.ErrBadBuffer); ok {
			return 0, nil // p is empty and there are bytes
		}
		return 0, c.readError(err)
	}
	if !peek {
		if res.Count < len(p) {
			c.crowd = 0
			c.dry = c.hears()
		}
		c.consumed(res.Count)
	}
	return res.Count, nil
}

// consumed accounts n bytes that left the receive buffer.
func (c *conn) consumed(n int) {
	c.in += uint64(n)
	c.account()
	if c.in >= bulky {
		c.growIn()
	} else if c.copied += n; c.copied >= moderateEvery {
		c.ep.ModerateRecvBuf(c.copied)
		c.copied = 0
	}
	if c.gone || c.finned {
		c.enqueue() // perhaps that was the last of it
	}
}

// growIn and growOut make the buffer of a connection that moves bulk large, once.
func (c *conn) growIn() {
	if !c.bulkIn {
		c.bulkIn = true
		if o := c.ep.SocketOptions(); o.GetReceiveBufferSize() < bufferMax {
			o.SetReceiveBufferSize(bufferMax, true) // the peer hears of the new window
		}
	}
}

func (c *conn) growOut() {
	if !c.bulkOut && c.out >= bulky {
		c.bulkOut = true
		if o := c.ep.SocketOptions(); o.GetSendBufferSize() < bufferMax {
			o.SetSendBufferSize(bufferMax, false) // what it grows to by itself at most
		}
	}
}

// readError maps the end of reading.
func (c *conn) readError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrWouldBlock:
		return aio.ErrWouldBlock
	case *tcpip.ErrClosedForReceive:
		if c.over() {
			c.settle()
		}
		if c.err != nil {
			return c.err
		}
		if c.finned {
			c.enqueue()
		}
		return io.EOF
	}
	return c.broken(err)
}

// Write implements aio.Conn.
func (c *conn) Write(p []byte) (int, error) {
	switch {
	case c.closed:
		return 0, aio.ErrClosed
	case c.err != nil:
		return 0, c.err
	case c.finned:
		return 0, aio.ErrClosed
	case c.shaking:
		c.wants = true
		return 0, aio.ErrWouldBlock
	}
	done, all := 0, len(p)
	p = p[:c.writes(all)]
	defer c.account()
	for done < len(p) {
		n, err := c.put(p[done:])
		done += n
		if err != nil {
			if _, ok := err.(*tcpip.ErrWouldBlock); ok {
				c.wants = true
				return done, aio.ErrWouldBlock
			}
			return done, c.broken(err)
		}
	}
	if done < all {
		c.wants = true
		return done, aio.ErrWouldBlock
	}
	return done, nil
}

// put copies as much of p into the send buffer as fits into one segment.
func (c *conn) put(p []byte) (int, tcpip.Error) {
	if len(p) >= giveLeast && !c.l.copies && !c.full() {
		v := c.l.chunks.New()
		n := copy(v.AsSlice(), p)
		v.CapLength(n)
		if err := c.give(buffer.MakeWithView(v)); err != nil {
			return 0, err
		}
		c.account()
		return n, nil
	}
	s := &c.l.source
	s.p = p
	n, err := c.ep.Write(s, tcpip.WriteOptions{Atomic: true})
	s.p = nil
	c.out += uint64(n)
	c.growOut()
	return int(n), err
}

// composed is the largest piece that Compose takes: a chunk of the send buffer.
const composed = chunk.Size

// Compose writes n bytes, at most 64 KB, that f makes in the send buffer itself:
// a copy fewer than Write. All of them are taken, or none: with ErrWouldBlock,
// after which Writable is owed, or with ok false, when only Write can tell how
// much there is room for. An error of f is returned, and nothing was written.
func (c *conn) Compose(n int, f func(b []byte) error) (ok bool, err error) {
	switch {
	case c.closed, c.finned:
		return true, aio.ErrClosed
	case c.err != nil:
		return true, c.err
	case c.shaking || n > composed || c.l.copies:
		return false, nil
	}
	if size := int(c.ep.SocketOptions().GetSendBufferSize()); size-c.sent < n {
		if c.sent < size/2 {
			return false, nil // gVisor would not tell of room
		}
		c.wants = true
		return true, aio.ErrWouldBlock
	}
	if c.writes(n) < n {
		return false, nil
	}
	b, err := c.l.made(n, f)
	if err != nil {
		return true, err
	}
	defer c.account()
	if err := c.give(b); err != nil {
		return true, c.broken(err)
	}
	return true, nil
}

// CopyTo implements aio.Copier: one copy, from c's received segments straight
// into the chunk that dst sends.
func (c *conn) CopyTo(dst aio.Conn) (total int64, err error, ok bool) { //nolint:revive // the interface's order
	d, ok := dst.(*conn)
	if !ok || d.l != c.l || d == c {
		return 0, nil, false // nested endpoint locks are safe within one loop only
	}
	switch {
	case c.closed, d.closed:
		return 0, aio.ErrClosed, true
	case d.err != nil:
		return 0, d.err, true
	case d.finned:
		return 0, aio.ErrClosed, true
	case c.shaking:
		return 0, aio.ErrWouldBlock, true
	case d.shaking:
		d.wants = true
		return 0, aio.ErrWouldBlock, true
	}
	m := &c.l.mover
	for {
		n := c.unread()
		if n == 0 {
			c.crowd = 0
			return total, c.drained(), true
		}
		k := d.writes(n)
		if k == 0 {
			d.wants = true
			return total, aio.ErrWouldBlock, true
		}
		var w int64
		var werr tcpip.Error
		m.err = nil
		if passed, err, ok := c.pass(d); ok {
			w, werr = int64(passed), err
		} else {
			m.from, m.left = c, k
			w, werr = d.ep.Write(m, tcpip.WriteOptions{Atomic: true})
			d.out += uint64(w)
			d.growOut()
		}
		total += w
		d.account()
		c.consumed(int(w))
		switch werr.(type) {
		case nil:
			if int(w) == n {
				// Nothing came meanwhile: this goroutine is the only one.
				c.crowd = 0
				return total, c.drained(), true
			}
		case *tcpip.ErrWouldBlock:
			d.wants = true
			return total, aio.ErrWouldBlock, true
		default:
			if m.err != nil {
				return total, c.readError(m.err), true
			}
			return total, d.broken(werr), true
		}
	}
}

// drained says why there is nothing left to read: more may come, or not.
func (c *conn) drained() error {
	if c.hears() {
		return aio.ErrWouldBlock
	}
	_, err := c.ep.Read(&sink{}, tcpip.ReadOptions{Peek: true})
	if err == nil {
		return aio.ErrWouldBlock
	}
	return c.readError(err)
}

// hears reports whether the peer may say more. It will be told: every segment
// and every end is.
func (c *conn) hears() bool {
	switch c.ep.EndpointState() {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2:
		return true
	}
	return false
}

// mover is the payloader of CopyTo: it reads from one endpoint into the slice
// that the other offers. An early EOF would make gVisor try for ever with its
// lock held, so what goes wrong is a real error.
type mover struct {
	from *conn
	left int
	err  tcpip.Error
	out  sink
}

// Len implements tcpip.Payloader.
func (m *mover) Len() int { return m.left }

// Read implements tcpip.Payloader.
func (m *mover) Read(b []byte) (int, error) {
	switch {
	case m.left == 0:
		return 0, io.EOF
	case len(b) == 0:
		return 0, nil // gVisor asks whether this is the end
	}
	m.out.p = b[:min(len(b), m.left)]
	res, err := m.from.ep.Read(&m.out, tcpip.ReadOptions{})
	m.out.p = nil
	if err != nil {
		m.err = err
		return 0, io.ErrUnexpectedEOF
	}
	m.left -= res.Count
	return res.Count, nil
}
