package mtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Conn is a secured aio.Conn. Read and Write run crypto/tls on the loop.
//
// A half-close is close_notify and FIN; a FIN without close_notify is a reset.
// Stats are the transport's, so bytes include what TLS adds.
type Conn struct {
	store *Store
	raw   aio.Conn
	shim  *shim
	tls   *tls.Conn
	h     aio.Handler

	peer    spiffe.ID
	alpn    string
	role    role
	resumed bool
	made    *byte // the snapshot's mark; see Current

	batch  *batch // while Write gathers records
	into   []byte // while they are made in the transport's own buffer
	peeked []byte // decrypted for Peek, unread
	rerr   error  // what Read says after peeked
	werr   error

	dry      bool // the last Read found nothing and nothing came since
	heard    bool // something was decrypted
	wantsOut bool // a Write was short
	finOut   bool // CloseWrite was called
	finned   bool // the transport's CloseWrite was
	closed   bool // by this side
	released bool // raw is closed or reset
	broke    bool // raw said Closed
	told     bool // h was told so
	brokeErr error
	timer    aio.Timer
}

func newConn(s *Store, sh *shim, t *tls.Conn, peer spiffe.ID, alpn string, resumed bool, r role, made *byte) *Conn {
	c := &Conn{made: made, store: s, raw: sh.raw, shim: sh, tls: t, peer: peer, alpn: alpn, resumed: resumed, role: r}
	sh.conn = c
	s.takeBack(t)
	c.raw.SetHandler(c)
	return c
}

// Peer is who the other side proved to be.
func (c *Conn) Peer() spiffe.ID { return c.peer }

// ALPN is the token that both sides agreed on.
func (c *Conn) ALPN() string { return c.alpn }

// Resumed reports whether the handshake continued an earlier session.
func (c *Conn) Resumed() bool { return c.resumed }

// Current reports whether trust anchors and our certificate are still those
// that the handshake was made with.
func (c *Conn) Current() bool { return c.store.current.Load().mark == c.made }

// Loop implements aio.Conn.
func (c *Conn) Loop() aio.Loop { return c.shim.loop }

// Local implements aio.Conn.
func (c *Conn) Local() netip.AddrPort { return c.shim.local }

// Remote implements aio.Conn.
func (c *Conn) Remote() netip.AddrPort { return c.shim.remote }

// Stats implements aio.Conn.
func (c *Conn) Stats() aio.Stats { return c.raw.Stats() }

// SetHandler implements aio.Conn.
func (c *Conn) SetHandler(h aio.Handler) {
	c.h = h
	if h == nil || c.closed || (c.dry && c.rerr == nil && !c.broke && len(c.peeked) == 0) {
		return
	}
	c.shim.loop.Post(func() {
		if c.h != h || c.closed {
			return
		}
		h.Readable(c)
		c.tell()
	})
}

// Readable implements aio.Handler for the transport.
func (c *Conn) Readable(aio.Conn) {
	c.dry = false
	if c.h != nil {
		c.h.Readable(c)
	}
}

// Writable implements aio.Handler for the transport.
func (c *Conn) Writable(aio.Conn) {
	if c.released || !c.flush() {
		return
	}
	if c.closed {
		c.release()
		return
	}
	c.fin()
	if c.wantsOut {
		c.wantsOut = false
		if c.h != nil {
			c.h.Writable(c)
		}
	}
}

// Closed implements aio.Handler for the transport.
func (c *Conn) Closed(_ aio.Conn, err error) {
	c.dry = false
	c.broke = true
	if c.closed {
		c.end()
		return
	}
	if err == nil {
		// Both FINs came; whether the peer's was one of TLS as well, and not an
		// attacker's, only reading tells.
		var one [1]byte
		if n, perr := c.Peek(one[:]); n == 0 && !errors.Is(perr, io.EOF) && !errors.Is(perr, aio.ErrWouldBlock) {
			err = perr
		}
	}
	c.brokeErr = err
	c.tell()
}

// tell delivers the last event once; after an orderly end when all is read: the
// user may still have to make room for it.
func (c *Conn) tell() {
	if !c.broke || c.told || c.h == nil || c.closed {
		return
	}
	if c.brokeErr == nil && (c.rerr == nil || len(c.peeked) > 0) {
		return
	}
	c.told = true
	c.h.Closed(c, c.brokeErr)
}

var (
	_ aio.Conn    = (*Conn)(nil)
	_ aio.Handler = (*Conn)(nil)
)
