package upstream

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

const (
	// WireTimeout bounds a TCP connect to another pod. It outlasts the restart of
	// a peer's sidecar, whose packets wait in its ring meanwhile; a pod that is
	// gone is known sooner, by the control plane.
	WireTimeout = 10 * time.Second
	// AppTimeout bounds a connect to the pod's own app, which is a kernel away:
	// it answers at once, or its accept queue is full and the kernel's first
	// retransmission comes after one second.
	AppTimeout = 3 * time.Second
)

// Endpoint is where a connection goes and how. It is comparable: the key of pools.
type Endpoint struct {
	Side aio.Side
	Addr netip.AddrPort
	// Src is the source address: the pod's own on the wire side, the true
	// client's on the app side.
	Src netip.Addr
	// ID is the only identity accepted; the zero ID is the explicit statement
	// that the endpoint speaks plain text.
	ID spiffe.ID
}

func (e Endpoint) String() string {
	if e.ID.IsZero() {
		return e.Addr.String()
	}
	return e.Addr.String() + " as " + e.ID.String()
}

// Secure runs mTLS as the client on a dialled connection and takes it. done is
// called once, on the loop; the connection it gets has no handler yet. The
// cancel function gives up: done is then called with an error, unless it was
// called already.
type Secure func(c aio.Conn, id spiffe.ID, alpn string, done func(aio.Conn, error)) (cancel func())

// A Dialer makes byte connections on one loop.
type Dialer struct {
	loop   aio.Loop
	secure Secure
}

// NewDialer makes a dialler. secure is never called for the zero identity.
func NewDialer(loop aio.Loop, secure Secure) *Dialer { return &Dialer{loop: loop, secure: secure} }

// TCP connects to e without speaking: the app or the far sidecar is there, or
// done gets an error that says why not. done is never called from inside.
func (d *Dialer) TCP(e Endpoint, done func(aio.Conn, error)) (cancel func()) {
	timeout := WireTimeout
	if e.Side == aio.App {
		timeout = AppTimeout
	}
	return d.loop.Dial(aio.DialRequest{
		Side:    e.Side,
		Src:     netip.AddrPortFrom(e.Src, 0),
		Dst:     e.Addr,
		Timeout: timeout,
		Done: func(c aio.Conn, err error) {
			if err != nil {
				err = &dialError{e, err}
			}
			done(c, err)
		},
	})
}

// dialError says where a dial went. It is put into words only for who reads them:
// clients can cause many.
type dialError struct {
	to  Endpoint
	err error
}

func (e *dialError) Error() string { return "dial " + e.to.String() + ": " + e.err.Error() }

// Unwrap is the reason.
func (e *dialError) Unwrap() error { return e.err }

// Hop secures a connection that TCP made to e, for the given kind of traffic.
// A plain endpoint's connection is ready as it is, and done called from inside.
func (d *Dialer) Hop(c aio.Conn, e Endpoint, alpn string, done func(aio.Conn, error)) (cancel func()) {
	if e.ID.IsZero() {
		done(c, nil)
		return func() {}
	}
	return d.secure(c, e.ID, alpn, func(c aio.Conn, err error) {
		if err != nil {
			err = fmt.Errorf("secure connection to %s: %w", e, err)
		}
		done(c, err)
	})
}

// Dial is TCP and then Hop.
func (d *Dialer) Dial(e Endpoint, alpn string, done func(aio.Conn, error)) (cancel func()) {
	s := &dial{d: d}
	s.cancel = d.TCP(e, func(c aio.Conn, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		if s.canceled {
			c.Reset()
			done(nil, aio.ErrClosed)
			return
		}
		s.cancel = d.Hop(c, e, alpn, done)
	})
	return s.stop
}

// dial is a Dial under way.
type dial struct {
	d        *Dialer
	cancel   func()
	canceled bool
}

func (s *dial) stop() {
	s.canceled = true
	if s.cancel != nil {
		s.cancel()
	}
}
