package mtls

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

const (
	// maxEarly bounds, in bytes, what is read from the transport during a
	// handshake: a large certificate chain, or the first data of a hasty client.
	maxEarly = 64 << 10
	// maxFlight bounds what a handshake may have to say, in bytes.
	maxFlight = 256 << 10
)

// errAgain is "nothing there yet" as crypto/tls understands it: an error that
// is both a timeout and temporary is the only kind that it does not keep.
var errAgain net.Error = againError{}

type againError struct{}

func (againError) Error() string   { return aio.ErrWouldBlock.Error() }
func (againError) Timeout() bool   { return true }
func (againError) Temporary() bool { return true }
func (againError) Unwrap() error   { return aio.ErrWouldBlock }

// shim is the net.Conn below crypto/tls. During the handshake its user is a
// goroutine, which blocks, and the loop moves the bytes; after attach its user
// is the loop itself.
type shim struct {
	raw  aio.Conn
	loop aio.Loop
	cpu  chan struct{} // a handshake's place to compute; see handshake.shake

	local, remote netip.AddrPort

	mu     sync.Mutex // during the handshake
	wake   sync.Cond
	posted bool // a turn on the loop is under way

	in     []byte // received during the handshake, unread
	out    []byte // records that the transport had no room for
	err    error  // of the transport, after what is in `in`
	sawEOF bool   // crypto/tls was told of the transport's FIN

	conn *Conn // after attach
}

func newShim(raw aio.Conn, cpu chan struct{}) *shim {
	s := &shim{raw: raw, loop: raw.Loop(), cpu: cpu, local: raw.Local(), remote: raw.Remote()}
	s.wake.L = &s.mu
	return s
}

// Read implements net.Conn.
func (s *shim) Read(p []byte) (int, error) {
	if s.conn != nil {
		return s.readLoop(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wait()
	if len(s.in) == 0 {
		s.sawEOF = s.sawEOF || errors.Is(s.err, io.EOF)
		return 0, s.err
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	if len(s.in) == 0 {
		s.in = nil
		s.turn()
	}
	return n, nil
}

// wait waits for bytes or an error, with s.mu held, away from the place to
// compute.
func (s *shim) wait() {
	if len(s.in) > 0 || s.err != nil {
		return
	}
	<-s.cpu
	for len(s.in) == 0 && s.err == nil {
		s.wake.Wait()
	}
	s.mu.Unlock() // who has the place may need the lock to leave it
	s.cpu <- struct{}{}
	s.mu.Lock()
}

func (s *shim) readLoop(p []byte) (int, error) {
	if len(s.in) > 0 {
		n := copy(p, s.in)
		s.in = s.in[n:]
		if len(s.in) == 0 {
			s.in = nil
		}
		return n, nil
	}
	if s.err == nil {
		n, err := s.raw.Read(p)
		switch {
		case n > 0:
			return n, nil
		case err == nil, errors.Is(err, aio.ErrWouldBlock):
			return 0, errAgain
		}
		s.err = err
	}
	s.sawEOF = s.sawEOF || errors.Is(s.err, io.EOF)
	return 0, s.err
}

// Write implements net.Conn. It always takes p whole: an error would stick.
func (s *shim) Write(p []byte) (int, error) {
	if s.conn != nil {
		s.conn.record(p)
		return len(p), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && !errors.Is(s.err, io.EOF) {
		return 0, s.err
	}
	if len(s.out)+len(p) > maxFlight {
		return 0, errors.New("the handshake has too much to say to a peer that does not read")
	}
	s.out = append(s.out, p...)
	s.turn()
	return len(p), nil
}

// turn asks for a pass of pump; s.mu is held.
func (s *shim) turn() {
	if s.posted || s.conn != nil {
		return
	}
	s.posted = true
	if !s.loop.Post(s.onLoop) {
		s.fail(aio.ErrClosed)
	}
}

// fail ends the handshake's waiting; s.mu is held.
func (s *shim) fail(err error) {
	if s.err == nil || errors.Is(s.err, io.EOF) {
		s.err = err
	}
	s.wake.Broadcast()
}

func (s *shim) onLoop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posted = false
	s.pump()
}

// pump moves bytes between transport and buffers, on the loop, with s.mu held.
func (s *shim) pump() {
	if s.conn != nil {
		return
	}
	if len(s.out) > 0 {
		n, err := s.raw.Write(s.out)
		s.out = s.out[n:]
		if len(s.out) == 0 {
			s.out = nil
		}
		if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
			s.fail(err)
			return
		}
	}
	for s.err == nil && len(s.in) < maxEarly {
		if cap(s.in)-len(s.in) < 1<<10 {
			s.in = append(make([]byte, 0, max(4<<10, 2*len(s.in))), s.in...)
		}
		n, err := s.raw.Read(s.in[len(s.in):cap(s.in)])
		s.in = s.in[:len(s.in)+n]
		if n > 0 {
			s.wake.Broadcast()
		}
		if errors.Is(err, aio.ErrWouldBlock) || err == nil && n == 0 {
			break
		}
		if err != nil {
			s.fail(err)
		}
	}
	if len(s.in) == 0 {
		s.in = nil
	}
}

// Readable implements aio.Handler during the handshake.
func (s *shim) Readable(aio.Conn) { s.event() }

// Writable implements aio.Handler during the handshake.
func (s *shim) Writable(aio.Conn) { s.event() }

func (s *shim) event() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pump()
}

// Closed implements aio.Handler during the handshake.
func (s *shim) Closed(_ aio.Conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pump()
	if err == nil {
		err = io.EOF
	}
	s.fail(err)
}

// Close implements net.Conn; crypto/tls is never asked to close.
func (s *shim) Close() error { return nil }

// LocalAddr implements net.Conn.
func (s *shim) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.local) }

// RemoteAddr implements net.Conn.
func (s *shim) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

// SetDeadline implements net.Conn. The handshake's deadline is a timer of the
// loop; afterwards nothing blocks.
func (s *shim) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (s *shim) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn; crypto/tls calls it around close_notify.
func (s *shim) SetWriteDeadline(time.Time) error { return nil }

var (
	_ net.Conn    = (*shim)(nil)
	_ aio.Handler = (*shim)(nil)
)
