package mtls

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// bufferSize is the capacity in bytes of a lent read buffer: crypto/tls moves
// the bytes inside a bytes.Buffer instead of making a new one as long as a
// record with its slack (16,640 + 5 + 512) fits into half of it; the rest lets
// one read fetch more than one record.
const bufferSize = 40 << 10

// layout is where crypto/tls keeps a connection's read buffers. A tls.Conn
// keeps the buffer of its largest record for life, up to 36 KB that an idle
// connection has no use for. So the buffer is lent for the time of a Read and
// taken back when nothing is left in it. The fields are not exported: if they
// are ever not found as expected, known is false, nothing is lent, and only
// the memory of idle connections is worse (a test then fails).
type layout struct {
	known                 bool
	rawInput, input, hand uintptr
}

func findLayout() layout {
	t := reflect.TypeFor[tls.Conn]()
	raw, ok1 := t.FieldByName("rawInput")
	in, ok2 := t.FieldByName("input")
	hand, ok3 := t.FieldByName("hand")
	buffer := reflect.TypeFor[bytes.Buffer]()
	if !ok1 || !ok2 || !ok3 || raw.Type != buffer || hand.Type != buffer || in.Type != reflect.TypeFor[bytes.Reader]() {
		return layout{}
	}
	return layout{known: true, rawInput: raw.Offset, input: in.Offset, hand: hand.Offset}
}

func (l *layout) fields(c *tls.Conn) (rawInput *bytes.Buffer, input *bytes.Reader, hand *bytes.Buffer) {
	p := unsafe.Pointer(c)
	return (*bytes.Buffer)(unsafe.Add(p, l.rawInput)), (*bytes.Reader)(unsafe.Add(p, l.input)), (*bytes.Buffer)(unsafe.Add(p, l.hand))
}

// lend gives c a read buffer if it has none.
func (s *Store) lend(c *tls.Conn) {
	if !s.layout.known {
		return
	}
	raw, _, _ := s.layout.fields(c)
	if raw.Cap() == 0 {
		*raw = *bytes.NewBuffer(s.buffer()[:0])
	}
}

// takeBack takes c's read buffers if nothing is left in them.
func (s *Store) takeBack(c *tls.Conn) {
	if !s.layout.known {
		return
	}
	raw, in, hand := s.layout.fields(c)
	if hand.Len() == 0 && hand.Cap() > 0 {
		*hand = bytes.Buffer{}
	}
	if raw.Len() > 0 || in.Len() > 0 || raw.Cap() == 0 {
		return
	}
	if raw.Cap() == bufferSize {
		raw.Reset()
		s.buffers.Put((*[bufferSize]byte)(raw.AvailableBuffer()[:bufferSize]))
	}
	in.Reset(nil)
	*raw = bytes.Buffer{}
}

func (s *Store) buffer() []byte {
	if b, ok := s.buffers.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, bufferSize)
}

// fetch reads from the transport until a whole record is there, with as many more
// as fit, and reports false when the rest is still to come. Left to itself,
// crypto/tls asks the transport twice for each batch, with an allocation and an
// error for each time.
func (c *Conn) fetch() bool {
	if !c.store.layout.known {
		return true
	}
	raw, in, _ := c.store.layout.fields(c.tls)
	if in.Len() > 0 {
		return true
	}
	for {
		missing := missingOf(raw.Bytes())
		if missing == 0 {
			return true
		}
		raw.Grow(missing) // moves what is there; see bufferSize
		b := raw.AvailableBuffer()
		n, err := c.shim.readLoop(b[:cap(b)])
		if n == 0 {
			return err != errAgain //nolint:errorlint // ours; crypto/tls is to see all others
		}
		raw.Write(b[:n])
	}
}

// maxRecord is the largest payload of a record in TLS 1.3 (RFC 8446, section 5.2).
const maxRecord = 16<<10 + 256

// missingOf is how many bytes b, which begins with a record, lacks to hold it
// whole. Of one that is too long crypto/tls sees the header alone, and refuses it.
func missingOf(b []byte) int {
	const header = 5
	if len(b) < header {
		return header - len(b)
	}
	n := int(b[3])<<8 | int(b[4])
	if n > maxRecord {
		return 0
	}
	return max(header+n-len(b), 0)
}
