package detect

import "strings"

// TLS constants (RFC 8446, sections 4, 4.2 and 5.1; RFC 6066, section 3; RFC 7301).
const (
	recordHandshake     = 0x16
	recordHeader        = 5
	maxRecord           = 1 << 14
	handshakeHeader     = 4
	typeClientHello     = 1
	extensionServerName = 0
	extensionALPN       = 16
	maxServerName       = 253
	maxALPN             = 32 // tokens kept; more than anyone offers
)

// clientHello reads a ClientHello that may be spread over several records. What
// begins like one and turns out not to be is Opaque: it is for the app to answer.
func clientHello(p []byte, full bool) Result {
	hello, kind := gather(p)
	switch {
	case kind == NeedMore && full && len(hello) > 0:
		return Result{Kind: TLS} // a hello longer than Limit: no names
	case kind == NeedMore && full:
		return Result{Kind: Opaque}
	case kind != TLS:
		return Result{Kind: kind}
	}
	r := Result{Kind: TLS}
	if !parseHello(hello, &r) {
		return Result{Kind: Opaque}
	}
	return r
}

// gather returns the body of the handshake message in p's records: TLS when it is
// whole, NeedMore (with what is there) when the bytes end, Opaque when they
// can't be a ClientHello. It copies only when the message spans records.
func gather(p []byte) ([]byte, Kind) {
	var message []byte
	for records := 0; ; records++ {
		body, rest, kind := record(p)
		if kind == Opaque {
			return nil, Opaque
		}
		switch records {
		case 0:
			message = body
		case 1:
			message = append(append(make([]byte, 0, len(message)+len(p)), message...), body...)
		default:
			message = append(message, body...)
		}
		if len(message) > 0 && message[0] != typeClientHello {
			return nil, Opaque
		}
		if len(message) >= handshakeHeader {
			size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if size < 2+32+1 { // version, random, session id's length
				return nil, Opaque
			}
			if len(message) >= handshakeHeader+size {
				return message[handshakeHeader : handshakeHeader+size], TLS
			}
		}
		if kind == NeedMore {
			return message, NeedMore
		}
		p = rest
	}
}

// record takes one record's payload off p; NeedMore when it is not all there.
func record(p []byte) (body, rest []byte, kind Kind) {
	if len(p) > 0 && p[0] != recordHandshake || len(p) > 1 && p[1] != 3 || len(p) > 2 && p[2] > 4 {
		return nil, nil, Opaque
	}
	if len(p) < recordHeader {
		return nil, nil, NeedMore
	}
	n := int(p[3])<<8 | int(p[4])
	if n == 0 || n > maxRecord {
		return nil, nil, Opaque
	}
	p = p[recordHeader:]
	if len(p) < n {
		return p, nil, NeedMore
	}
	return p[:n], p[n:], TLS
}

// parseHello reads the extensions of a whole ClientHello's body into r and
// reports whether the body is well-formed. Of an extension sent twice the first
// counts; a TLS server refuses such a hello anyway.
func parseHello(b []byte, r *Result) bool {
	c := cursor{b: b}
	c.skip(2 + 32)       // legacy_version, random
	c.skip(int(c.u8()))  // legacy_session_id
	suites := c.u16()    // cipher_suites
	c.skip(int(suites))  //
	methods := c.u8()    // legacy_compression_methods
	c.skip(int(methods)) //
	if c.bad || suites < 2 || suites%2 != 0 || methods < 1 {
		return false
	}
	if len(c.b) == 0 {
		return true // TLS 1.2 and older may have no extensions
	}
	extensions := c.vector16()
	if c.bad || len(c.b) != 0 {
		return false
	}
	var seenName, seenALPN bool
	for len(extensions.b) > 0 {
		kind := extensions.u16()
		body := extensions.vector16()
		if extensions.bad {
			return false
		}
		switch {
		case kind == extensionServerName && !seenName:
			seenName = true
			r.SNI = serverName(body)
		case kind == extensionALPN && !seenALPN:
			seenALPN = true
			r.ALPN = protocols(body)
		}
	}
	return true
}

// serverName reads a server_name extension: the first host_name, if it is one.
func serverName(c cursor) string {
	list := c.vector16()
	for len(list.b) > 0 && !list.bad {
		kind := list.u8()
		name := list.vector16()
		if list.bad {
			return ""
		}
		if kind == 0 {
			return hostName(name.b)
		}
	}
	return ""
}

// hostName is b in lower case, or "" when it is no DNS name: it becomes a label
// in metrics and must not carry arbitrary bytes there.
func hostName(b []byte) string {
	if len(b) == 0 || len(b) > maxServerName {
		return ""
	}
	for i, ch := range b {
		if letter(ch) || ch >= '0' && ch <= '9' || (ch == '-' || ch == '.' || ch == '_') && i > 0 {
			continue
		}
		return ""
	}
	return strings.ToLower(string(b))
}

// protocols reads an ALPN extension; nil when it is malformed.
func protocols(c cursor) []string {
	list := c.vector16()
	if c.bad || len(c.b) != 0 {
		return nil
	}
	var out []string
	for len(list.b) > 0 && len(out) < maxALPN {
		n := int(list.u8())
		if n == 0 || n > len(list.b) {
			return nil
		}
		out = append(out, string(list.b[:n]))
		list.skip(n)
	}
	return out
}

// cursor reads big-endian numbers and vectors; after a read beyond the end it is
// bad and yields zeros.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) skip(n int) {
	if n > len(c.b) {
		c.b, c.bad = nil, true
		return
	}
	c.b = c.b[n:]
}

func (c *cursor) u8() uint8 {
	if len(c.b) < 1 {
		c.b, c.bad = nil, true
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) u16() uint16 {
	if len(c.b) < 2 {
		c.b, c.bad = nil, true
		return 0
	}
	v := uint16(c.b[0])<<8 | uint16(c.b[1])
	c.b = c.b[2:]
	return v
}

// vector16 is the content of a vector with a two-byte length.
func (c *cursor) vector16() cursor {
	n := int(c.u16())
	if c.bad || n > len(c.b) {
		c.b, c.bad = nil, true
		return cursor{bad: true}
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return cursor{b: v}
}
