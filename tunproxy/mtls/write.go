package mtls

import (
	"errors"
	"fmt"

	"github.com/tunmesh/tunmesh/internal/aio"
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
)

// recordOverhead is what TLS 1.3 adds to a record at most, in bytes: header,
// inner content type, tag (RFC 8446, section 5.2).
const recordOverhead = 5 + 1 + 16

// batch is a pooled buffer of records on their way out.
type batch struct {
	b [batchSize + 5*recordOverhead]byte
	n int
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
