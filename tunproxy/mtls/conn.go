package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

const (
	// batchSize is how much plaintext one write to the transport carries at
	// most, in bytes: four records that fill one packet of segmentation offload,
	// with what TLS adds. Each packet costs the same whatever its size: with half
	// of this bulk takes a third more CPU. Also the bound of what a connection
	// holds encrypted when its transport has no room.
	batchSize = 65_250
	// joinSize is up to where WriteParts copies its pieces into one record.
	joinSize = 4 << 10
	// recordSize is TLS's largest plaintext per record, in bytes.
	recordSize = 16 << 10
	// linger bounds how long bytes written before Close may take to leave.
	linger = 10 * time.Second
)

// errTruncated: an attacker can make a FIN, but not a close_notify.
var errTruncated = fmt.Errorf("%w: the peer's FIN came without close_notify", aio.ErrReset)

// batch is a pooled buffer of records on their way out.
type batch struct {
	b [batchSize + 5*recordOverhead]byte
	n int
}

// recordOverhead is what TLS 1.3 adds to a record at most, in bytes: header,
// inner content type, tag (RFC 8446, section 5.2).
const recordOverhead = 5 + 1 + 16

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

// Write implements aio.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	switch {
	case c.closed || c.finOut:
		return 0, aio.ErrClosed
	case c.werr != nil:
		return 0, c.werr
	}
	n := 0
	for n < len(p) {
		if len(c.shim.out) > 0 {
			c.wantsOut = true
			return n, aio.ErrWouldBlock
		}
		k := min(len(p)-n, batchSize)
		if err := c.encrypt(p[n : n+k]); err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// WriteParts writes head and body as if they were one, without a copy of a long
// body: all of both, at most batchSize bytes, or nothing with ErrWouldBlock.
func (c *Conn) WriteParts(head, body []byte) error {
	switch {
	case c.closed || c.finOut:
		return aio.ErrClosed
	case c.werr != nil:
		return c.werr
	case len(c.shim.out) > 0:
		c.wantsOut = true
		return aio.ErrWouldBlock
	}
	if len(head)+len(body) <= joinSize {
		b := c.store.batch()
		err := c.encrypt(append(append(b.b[:0], head...), body...))
		c.store.batches.Put(b)
		return err
	}
	if ok, err := c.compose(head, body); ok {
		return err
	}
	b := c.store.batch()
	c.batch = b
	_, err := c.tls.Write(head)
	if err == nil {
		_, err = c.tls.Write(body)
	}
	return c.sent(b, err)
}

// composer is a transport that lets bytes be made in its own buffer; netstack's
// connection is. See there.
type composer interface {
	Compose(n int, f func(b []byte) error) (ok bool, err error)
}

// errRecords: crypto/tls made other records than it always does.
var errRecords = errors.New("records of an unexpected length")

// compose encrypts head and body straight into the transport; not ok means that
// it could not and nothing happened.
func (c *Conn) compose(head, body []byte) (ok bool, err error) {
	t, can := c.raw.(composer)
	if !can {
		return false, nil
	}
	n := recordsLen(len(head)) + recordsLen(len(body))
	ok, err = t.Compose(n, func(b []byte) error {
		c.into = b[:0]
		_, err := c.tls.Write(head)
		if err == nil {
			_, err = c.tls.Write(body)
		}
		if err == nil && len(c.into) != n {
			err = errRecords
		}
		c.into = nil
		if err != nil {
			_ = c.wrote(err) // which is the end: records are lost
		}
		return err
	})
	switch {
	case !ok:
	case errors.Is(err, aio.ErrWouldBlock):
		c.wantsOut = true
	case err != nil && c.werr == nil:
		c.werr = err
	}
	return ok, err
}

// recordsLen is how long the records of n bytes of plaintext are.
func recordsLen(n int) int { return n + (n+recordSize-1)/recordSize*recordOverhead }

// encrypt writes p, at most batchSize, as records in one write to the transport.
func (c *Conn) encrypt(p []byte) error {
	if len(p) <= recordSize { // the only record goes straight out
		_, err := c.tls.Write(p)
		return c.wrote(err)
	}
	if ok, err := c.compose(nil, p); ok {
		return err
	}
	b := c.store.batch()
	c.batch = b
	_, err := c.tls.Write(p)
	return c.sent(b, err)
}

// sent passes on what was gathered in b.
func (c *Conn) sent(b *batch, err error) error {
	c.batch = nil
	c.send(b.b[:b.n])
	b.n = 0
	c.store.batches.Put(b)
	return c.wrote(err)
}

// wrote keeps the error of a write, if it is one.
func (c *Conn) wrote(err error) error {
	if err != nil && c.werr == nil {
		c.werr = fmt.Errorf("tls with %s as %s: %w", c.shim.remote, c.peer, err)
	}
	return c.werr
}

func (s *Store) batch() *batch {
	if b, ok := s.batches.Get().(*batch); ok {
		return b
	}
	return new(batch)
}

// record takes a record from crypto/tls.
func (c *Conn) record(r []byte) {
	if c.into != nil {
		c.into = append(c.into, r...) // beyond its room, into nowhere: see compose
		return
	}
	if b := c.batch; b != nil && b.n+len(r) <= len(b.b) {
		b.n += copy(b.b[b.n:], r)
		return
	} else if b != nil {
		c.send(b.b[:b.n])
		b.n = 0
	}
	c.send(r)
}

// send writes records to the transport, or holds them.
func (c *Conn) send(r []byte) {
	if c.released || c.werr != nil {
		return
	}
	if len(c.shim.out) > 0 {
		c.shim.out = append(c.shim.out, r...)
		return
	}
	n, err := c.raw.Write(r)
	if n < len(r) {
		if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
			c.werr = err
			return
		}
		c.shim.out = append(c.shim.out, r[n:]...)
	}
}

// flush writes what is held; it reports whether nothing is left.
func (c *Conn) flush() bool {
	if len(c.shim.out) > 0 && c.werr == nil {
		n, err := c.raw.Write(c.shim.out)
		c.shim.out = c.shim.out[n:]
		if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
			c.werr = err
			c.shim.out = nil
		}
	}
	if len(c.shim.out) > 0 {
		return false
	}
	c.shim.out = nil // an idle connection holds no buffer
	return true
}

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
