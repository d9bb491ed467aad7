package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Params describe one handshake.
type Params struct {
	Store *Store
	// ServerName is the SNI that a client sends; "": that of Accept[0].
	ServerName string
	// ALPN is the one token that a client offers. A server takes every token of
	// the mesh that this version knows.
	ALPN string
	// Accept lists the identities that may answer; a client needs at least one.
	// A server accepts whoever the trust anchors vouch for: what a client may do
	// is policy's.
	Accept []spiffe.ID
}

type role uint8

const (
	clientRole role = iota
	serverRole
)

// Client secures raw as the side that dialled. It takes raw; done is called
// once, on raw's loop and never from inside, with a connection that has no
// handler yet, or with an error after which raw is closed. cancel gives up:
// done is then called with aio.ErrClosed unless it was called already.
//
// The server has not verified our certificate when done is called: if it
// refuses, the first Read reports ErrRefusedByPeer.
func Client(raw aio.Conn, p Params, done func(*Conn, error)) (cancel func()) {
	return begin(raw, p, clientRole, done)
}

// Server is Client for the side that was dialled. The peer has proved who it
// is when done is called.
func Server(raw aio.Conn, p Params, done func(*Conn, error)) (cancel func()) {
	return begin(raw, p, serverRole, done)
}

// A handshake is one on its way. Its fields are the loop's but for tls, which
// is the goroutine's until it posts finish.
type handshake struct {
	store *Store
	role  role
	raw   aio.Conn
	peer  netip.Addr
	loop  aio.Loop
	shim  *shim
	cfg   *tls.Config
	made  *byte     // the mark of the snapshot that cfg is of
	tls   *tls.Conn // once its turn has come
	want  []spiffe.ID
	timer aio.Timer
	done  func(*Conn, error)
	over  bool
}

func begin(raw aio.Conn, p Params, r role, done func(*Conn, error)) (cancel func()) {
	h := &handshake{store: p.Store, role: r, raw: raw, peer: raw.Remote().Addr(), loop: raw.Loop(), want: p.Accept, done: done}
	n := p.Store.current.Load()
	cfg, err := p.config(n, r, raw)
	if err != nil {
		h.loop.Post(func() { h.finish(err) })
		return func() { h.cancel() }
	}
	h.cfg, h.made = cfg, n.mark
	h.shim = newShim(raw, p.Store.cpu)
	raw.SetHandler(h.shim)
	h.timer = h.loop.AfterFunc(h.store.cfg.Timeout, h.expire)
	run, waits := h.store.gates[r].enter(h)
	switch {
	case run:
		go h.run()
	case !waits:
		h.loop.Post(func() { h.finish(ErrBusy) })
	}
	return func() { h.cancel() }
}

func (p *Params) config(n *snapshot, r role, raw aio.Conn) (*tls.Config, error) {
	if n.cert == nil {
		return nil, errNoOwnCertificate
	}
	if r == serverRole {
		return n.server, nil
	}
	if !hop.IsKnown(p.ALPN) {
		return nil, fmt.Errorf("%w: %q is not a token that can be offered", ErrProtocol, p.ALPN)
	}
	return p.Store.client(n, p.Accept, p.ServerName, p.ALPN, raw.Remote().String())
}

// run is the goroutine: handshakes, one after the other, while some wait.
func (h *handshake) run() {
	gate := &h.store.gates[h.role]
	for one := h; one != nil; one = gate.next(one) {
		if more := gate.another(); more != nil {
			go more.run()
		}
		err := one.shake()
		one.loop.Post(func() { one.finish(err) })
	}
}

// shake computes, on one of few places for that: a burst of handshakes must
// not keep the loops from running. The shim leaves the place while it waits.
func (h *handshake) shake() error {
	h.store.cpu <- struct{}{}
	defer func() { <-h.store.cpu }()
	if h.role == clientRole {
		h.tls = tls.Client(h.shim, h.cfg)
	} else {
		h.tls = tls.Server(h.shim, h.cfg)
	}
	return h.tls.Handshake()
}

// expire is the deadline's end.
func (h *handshake) expire() { h.stop(aio.ErrTimeout) }

func (h *handshake) cancel() { h.stop(aio.ErrClosed) }

// stop ends a handshake from the loop: at once while it waits for its turn,
// through the goroutine (which is waiting for bytes, or computing) otherwise.
func (h *handshake) stop(err error) {
	if h.over {
		return
	}
	if h.shim == nil || h.store.gates[h.role].leave(h) {
		h.loop.Post(func() { h.finish(err) })
		return
	}
	h.shim.mu.Lock()
	h.shim.fail(err)
	h.shim.mu.Unlock()
}

// finish runs on the loop.
func (h *handshake) finish(err error) {
	if h.over {
		return
	}
	h.over = true
	if h.timer != nil {
		h.timer.Stop()
	}
	if err == nil {
		var c *Conn
		if c, err = h.attach(); err == nil {
			h.done(c, nil)
			return
		}
	}
	h.discard()
	h.done(nil, h.explain(err))
}

// attach moves crypto/tls onto the loop.
func (h *handshake) attach() (*Conn, error) {
	cs := h.tls.ConnectionState()
	if len(cs.PeerCertificates) == 0 {
		return nil, ErrNoCertificate
	}
	id, err := identity(cs.PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	h.shim.mu.Lock()
	defer h.shim.mu.Unlock()
	if e := h.shim.err; e != nil && !errors.Is(e, io.EOF) {
		return nil, e // the deadline, cancel or a reset came first
	}
	return newConn(h.store, h.shim, h.tls, id, cs.NegotiatedProtocol, cs.DidResume, h.role, h.made), nil
}

// discard closes a connection whose handshake failed. Our alert is on its way
// out: received data that nobody will read must not turn the close into a
// reset, which could overtake the alert.
func (h *handshake) discard() {
	h.raw.SetHandler(nil)
	if h.shim != nil {
		h.shim.mu.Lock()
		defer h.shim.mu.Unlock()
		if len(h.shim.out) > 0 {
			_, _ = h.raw.Write(h.shim.out)
		}
		if len(h.shim.in) < maxEarly { // else the peer floods us
			var sink [4 << 10]byte
			for range maxEarly / len(sink) {
				if n, err := h.raw.Read(sink[:]); n == 0 || err != nil {
					break
				}
			}
		}
		h.shim.in, h.shim.out = nil, nil
	}
	h.raw.Close()
}

// explain says with whom and why, and finds the reason that callers count by.
func (h *handshake) explain(err error) error {
	var remote *net.OpError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: it closed the connection", ErrRefusedByPeer)
	case errors.As(err, &remote) && remote.Op == "remote error":
		err = fmt.Errorf("%w: %w", ErrRefusedByPeer, remote.Err)
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		err = ErrNoCertificate
	case strings.Contains(err.Error(), "unsupported application protocols"), strings.Contains(err.Error(), "unsupported versions"):
		err = fmt.Errorf("%w: %w", ErrProtocol, err)
	case strings.Contains(err.Error(), "no certificates configured"):
		err = fmt.Errorf("%w: asked for %q", ErrServerName, h.tls.ConnectionState().ServerName)
	}
	remoteAddr := h.raw.Remote()
	if h.role == serverRole {
		return fmt.Errorf("tls handshake with client %s: %w", remoteAddr, err)
	}
	return fmt.Errorf("tls handshake with %s as %s: %w", remoteAddr, names(h.want), err)
}

func names(ids []spiffe.ID) string {
	if len(ids) == 0 {
		return "nobody"
	}
	s := ids[0].String()
	if len(ids) > 1 {
		s += fmt.Sprintf(" or %d others", len(ids)-1)
	}
	return s
}
