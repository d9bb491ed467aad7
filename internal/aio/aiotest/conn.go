package aiotest

import (
	"io"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// Conn is one end of an in-memory pipe; it implements aio.Conn. Tests drive an
// end either through those methods or as a whole with Take and Put.
type Conn struct {
	loop          *Loop
	local, remote netip.AddrPort
	peer          *Conn
	h             aio.Handler

	in       []byte // received, unread
	store    []byte // empty: the largest array that in ever had
	limit    int    // of in
	inEOF    bool
	wantsOut bool // a Write was short
	outEOF   bool
	err      error // reset by the peer
	closed   bool  // by this side
	told     bool  // Closed was delivered

	queued, readable, writable bool
	bytesIn, bytesOut          uint64

	// Net is what Stats says besides the bytes.
	Net aio.Stats
}

// Pipe makes two connected ends on l, each buffering at most limit received
// bytes (0 = 64 KiB).
func Pipe(l *Loop, limit int) (a, b *Conn) {
	return PipeAddr(l, limit, addr("10.0.0.1:40000"), addr("10.0.0.2:80"))
}

// PipeAddr is Pipe with the two ends' addresses.
func PipeAddr(l *Loop, limit int, aa, ba netip.AddrPort) (a, b *Conn) {
	if limit == 0 {
		limit = 64 << 10
	}
	a = &Conn{loop: l, local: aa, remote: ba, limit: limit}
	b = &Conn{loop: l, local: ba, remote: aa, limit: limit}
	a.peer, b.peer = b, a
	return a, b
}

func (c *Conn) mark(readable, writable bool) {
	c.readable = c.readable || readable
	c.writable = c.writable || writable
	if !c.queued {
		c.queued = true
		c.loop.ready = append(c.loop.ready, c)
	}
}

func (c *Conn) deliver() {
	c.queued = false
	if c.h == nil || c.closed {
		return
	}
	if c.readable && (len(c.in) > 0 || c.inEOF || c.err != nil) {
		c.readable = false
		c.h.Readable(c)
	}
	if c.writable && c.h != nil && !c.closed {
		c.writable = false
		c.h.Writable(c)
	}
	if c.h != nil && !c.closed && !c.told && (c.err != nil || c.inEOF && len(c.in) == 0 && c.outEOF) {
		c.told = true
		c.h.Closed(c, c.err)
	}
}

// Loop implements aio.Conn.
func (c *Conn) Loop() aio.Loop { return c.loop }

// Local implements aio.Conn.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Remote implements aio.Conn.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// Stats implements aio.Conn.
func (c *Conn) Stats() aio.Stats {
	s := c.Net
	s.BytesIn, s.BytesOut = c.bytesIn, c.bytesOut
	return s
}

// SetHandler implements aio.Conn.
func (c *Conn) SetHandler(h aio.Handler) {
	c.h = h
	if h != nil && (len(c.in) > 0 || c.inEOF || c.err != nil) {
		c.mark(true, false)
	}
}

// Peek implements aio.Conn.
func (c *Conn) Peek(p []byte) (int, error) {
	switch {
	case c.closed:
		return 0, aio.ErrClosed
	case c.err != nil:
		return 0, c.err
	case len(c.in) > 0:
		return copy(p, c.in), nil
	case c.inEOF:
		return 0, io.EOF
	}
	return 0, aio.ErrWouldBlock
}

// Read implements aio.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Peek(p)
	if n > 0 {
		full := len(c.in) >= c.limit
		if c.in = c.in[n:]; len(c.in) == 0 {
			c.in = c.store
		}
		if full && c.peer.wantsOut {
			c.peer.wantsOut = false
			c.peer.mark(false, true)
		}
		if len(c.in) == 0 && c.inEOF && c.outEOF {
			c.mark(true, false)
		}
	}
	return n, err
}

// Write implements aio.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	switch {
	case c.closed || c.outEOF:
		return 0, aio.ErrClosed
	case c.err != nil:
		return 0, c.err
	}
	n := min(len(p), c.peer.limit-len(c.peer.in))
	if n > 0 {
		c.peer.in = append(c.peer.in, p[:n]...)
		if cap(c.peer.in) > cap(c.peer.store) {
			c.peer.store = c.peer.in[:0]
		}
		c.peer.bytesIn += uint64(n)
		c.bytesOut += uint64(n)
		c.peer.mark(true, false)
	}
	if n < len(p) {
		c.wantsOut = true
		return max(n, 0), aio.ErrWouldBlock
	}
	return n, nil
}

// CloseWrite implements aio.Conn.
func (c *Conn) CloseWrite() error {
	if c.closed || c.err != nil {
		return aio.ErrClosed
	}
	if !c.outEOF {
		c.outEOF = true
		c.peer.inEOF = true
		c.peer.mark(true, false)
		if c.inEOF && len(c.in) == 0 {
			c.mark(true, false)
		}
	}
	return nil
}

// Close implements aio.Conn.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	if len(c.in) > 0 && c.err == nil {
		c.Reset()
		return
	}
	_ = c.CloseWrite()
	c.closed = true
}

// Reset implements aio.Conn.
func (c *Conn) Reset() {
	if c.closed {
		return
	}
	c.closed = true
	if c.peer.err == nil && !c.peer.closed {
		c.peer.err = aio.ErrReset
		c.peer.in = nil
		c.peer.mark(true, false)
	}
}

// Take removes and returns everything received so far.
func (c *Conn) Take() []byte {
	b := make([]byte, len(c.in))
	n, _ := c.Read(b)
	return b[:n]
}

// Put writes b whole; it panics when it does not fit: choose a larger limit.
func (c *Conn) Put(b []byte) {
	if n, err := c.Write(b); err != nil {
		panic("aiotest: Put of " + string(b[n:]) + ": " + err.Error())
	}
}

// State of an end, for assertions.
func (c *Conn) EOF() bool      { return c.inEOF && len(c.in) == 0 }
func (c *Conn) WasReset() bool { return c.err != nil }
func (c *Conn) IsClosed() bool { return c.closed }

var _ aio.Conn = (*Conn)(nil)

// Peeked is what was received and not read yet; it is not to be changed.
func (c *Conn) Peeked() []byte { return c.in }

// Shrink lets go of the received bytes' buffer when it is empty, so that a test
// of memory sees its subject's alone.
func (c *Conn) Shrink() {
	if len(c.in) == 0 {
		c.in, c.store = nil, nil
	}
}
