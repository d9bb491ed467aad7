package aio

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// netConnBuffer bounds what a NetConn holds in each direction, in bytes: a
	// TLS record and its successor's head, so that crypto/tls rarely waits twice.
	netConnBuffer = 32 << 10
	// netConnLinger bounds how long bytes written before Close may take to leave.
	netConnLinger = 10 * time.Second
)

// CloseWriter is a net.Conn that can half-close.
type CloseWriter interface {
	net.Conn
	CloseWrite() error
}

// NetConn adapts c for goroutines: what it returns blocks, has deadlines and
// may be used by any goroutine but the loop's. It takes c, whose handler it
// becomes, and must itself be called on c's loop (a DialRequest's Done is).
//
// At most 32 KiB are held in each direction; a Write returns when its last
// bytes are held. Close delivers what was written, for at most 10 s.
func NetConn(c Conn) CloseWriter {
	n := &netConn{c: c, loop: c.Loop(), local: c.Local(), remote: c.Remote()}
	n.changed.L = &n.mu
	c.SetHandler(n)
	return n
}

type netConn struct {
	// Of the loop.
	c      Conn
	loop   Loop
	finned bool
	gone   bool // c was closed or reset, or broke
	linger Timer

	local, remote netip.AddrPort

	mu      sync.Mutex
	changed sync.Cond
	in, out []byte
	posted  bool // a turn on the loop is under way
	finOut  bool // CloseWrite was called
	closed  bool // Close was called
	rerr    error
	werr    error
	rd, wd  deadline
}

// deadline is one direction's; guarded by mu.
type deadline struct {
	timer  *time.Timer
	passed bool
}

// Read implements net.Conn.
func (n *netConn) Read(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		switch {
		case n.closed:
			return 0, n.opError("read", net.ErrClosed)
		case n.rd.passed:
			return 0, n.opError("read", os.ErrDeadlineExceeded)
		case len(n.in) > 0:
			k := copy(p, n.in)
			n.in = n.in[k:]
			if len(n.in) == 0 {
				n.in = nil // an idle connection holds no buffer
				n.turn()
			}
			return k, nil
		case errors.Is(n.rerr, io.EOF):
			return 0, io.EOF
		case n.rerr != nil:
			return 0, n.opError("read", n.rerr)
		case len(p) == 0:
			return 0, nil
		}
		n.changed.Wait()
	}
}

// Write implements net.Conn.
func (n *netConn) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	done := 0
	for {
		switch {
		case n.closed || n.finOut:
			return done, n.opError("write", net.ErrClosed)
		case n.werr != nil:
			return done, n.opError("write", n.werr)
		case n.wd.passed:
			return done, n.opError("write", os.ErrDeadlineExceeded)
		}
		k := min(len(p)-done, netConnBuffer-len(n.out))
		if k > 0 {
			n.out = append(n.out, p[done:done+k]...)
			done += k
			n.turn()
		}
		if done == len(p) {
			return done, nil
		}
		n.changed.Wait()
	}
}

// CloseWrite half-closes after everything written so far.
func (n *netConn) CloseWrite() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return n.opError("close write", net.ErrClosed)
	case n.werr != nil:
		return n.opError("close write", n.werr)
	}
	n.finOut = true
	n.turn()
	return nil
}

// Close implements net.Conn. It is idempotent.
func (n *netConn) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	n.rd.stop()
	n.wd.stop()
	n.turn()
	n.changed.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (n *netConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(n.local) }

// RemoteAddr implements net.Conn.
func (n *netConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(n.remote) }

// SetDeadline implements net.Conn.
func (n *netConn) SetDeadline(t time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set(&n.rd, t)
	n.set(&n.wd, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (n *netConn) SetReadDeadline(t time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set(&n.rd, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (n *netConn) SetWriteDeadline(t time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set(&n.wd, t)
	return nil
}

func (n *netConn) set(d *deadline, t time.Time) {
	d.stop()
	d.passed = false
	if t.IsZero() || n.closed {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		n.changed.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if d.timer == timer { // not replaced meanwhile
			d.passed = true
			n.changed.Broadcast()
		}
	})
	d.timer = timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// turn asks for a pass of pump on the loop. n.mu is held.
func (n *netConn) turn() {
	if n.posted {
		return
	}
	n.posted = true
	if !n.loop.Post(n.onLoop) {
		n.rerr, n.werr = ErrClosed, ErrClosed
		n.changed.Broadcast()
	}
}

func (n *netConn) onLoop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.posted = false
	n.pump()
}

// Readable implements Handler.
func (n *netConn) Readable(Conn) { n.event() }

// Writable implements Handler.
func (n *netConn) Writable(Conn) { n.event() }

func (n *netConn) event() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pump()
}

// Closed implements Handler.
func (n *netConn) Closed(_ Conn, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		n.pump()
		err = io.EOF
	}
	if n.rerr == nil {
		n.rerr = err
	}
	if n.werr == nil {
		n.werr = ErrClosed
		if !errors.Is(err, io.EOF) {
			n.werr = err
		}
	}
	n.end()
	n.changed.Broadcast()
}

// pump moves what can be moved, on the loop, with n.mu held.
func (n *netConn) pump() {
	if n.gone {
		return
	}
	n.flush()
	if n.closed {
		n.finish()
		return
	}
	n.fill()
}

func (n *netConn) flush() {
	if len(n.out) > 0 && n.werr == nil {
		k, err := n.c.Write(n.out)
		n.out = n.out[k:]
		if len(n.out) == 0 {
			n.out = nil
		}
		if err != nil && !errors.Is(err, ErrWouldBlock) {
			n.werr = err
			n.out = nil
		}
		n.changed.Broadcast()
	}
	if n.finOut && !n.finned && len(n.out) == 0 && n.werr == nil {
		n.finned = true
		n.werr = n.c.CloseWrite()
	}
}

// finish closes c once everything has left.
func (n *netConn) finish() {
	n.in = nil
	if len(n.out) > 0 && n.werr == nil {
		if n.linger == nil {
			n.linger = n.loop.AfterFunc(netConnLinger, n.giveUp)
		}
		return
	}
	n.c.Close()
	n.end()
}

// giveUp is the linger's end: the peer does not read.
func (n *netConn) giveUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.gone {
		n.c.Reset()
		n.end()
	}
}

func (n *netConn) end() {
	n.gone = true
	n.out = nil
	if n.linger != nil {
		n.linger.Stop()
	}
}

func (n *netConn) fill() {
	for n.rerr == nil && len(n.in) < netConnBuffer {
		if cap(n.in)-len(n.in) < min(2<<10, netConnBuffer-len(n.in)) {
			n.in = append(make([]byte, 0, min(netConnBuffer, max(4<<10, 2*len(n.in)))), n.in...)
		}
		k, err := n.c.Read(n.in[len(n.in):min(cap(n.in), netConnBuffer)])
		n.in = n.in[:len(n.in)+k]
		if k > 0 {
			n.changed.Broadcast()
		}
		switch {
		case errors.Is(err, ErrWouldBlock), err == nil && k == 0:
			if len(n.in) == 0 {
				n.in = nil
			}
			return
		case err != nil:
			n.rerr = err
			n.changed.Broadcast()
		}
	}
}

func (n *netConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: n.LocalAddr(), Addr: n.RemoteAddr(), Err: err}
}

var (
	_ CloseWriter = (*netConn)(nil)
	_ Handler     = (*netConn)(nil)
)
