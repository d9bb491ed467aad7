package h2

import (
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// builder gathers the fields of one header block into a head and notes the
// first thing that makes it malformed (RFC 9113, section 8.1.1).
type builder struct {
	head    message.Head
	seen    uint16 // pseudo-header fields, by class
	fields  bool   // a regular field came: no more pseudo-header fields
	host    string
	hasHost bool
	grpc    bool
	bytes   int // of names and values
	most    int // fields
	n       int // fields that came
	malformed
}

// malformed names what is wrong; "" when nothing is.
type malformed string

func (m *malformed) note(reason string) {
	if *m == "" {
		*m = malformed(reason)
	}
}

// reset begins a head of at most so many fields; it keeps no more of them.
func (b *builder) reset(most int) {
	fields := b.head.Fields
	clear(fields)
	*b = builder{head: message.Head{Fields: fields[:0], Version: message.HTTP2, ContentLength: -1}, most: most}
}

func (b *builder) add(name, value string, class uint8, sensitive bool) {
	b.bytes += len(name) + len(value)
	switch class {
	case regular:
	case grpcType:
		b.grpc = true
	case pseudoMethod, pseudoScheme, pseudoAuthority, pseudoPath, pseudoStatus, pseudoProtocol:
		b.pseudo(value, class)
		return
	case host:
		if b.hasHost {
			b.note("two Host fields")
		}
		b.host, b.hasHost, b.fields = value, true, true
		return
	case contentLength:
		n, _ := parseLength(value)
		if b.head.ContentLength >= 0 {
			b.note("two Content-Length fields")
		}
		b.head.ContentLength = n
	case badConnection:
		b.note("a field that is specific to a connection")
	case badValue:
		b.note("a field with a forbidden value")
	default:
		b.note("a field with a forbidden name")
	}
	b.fields = true
	if b.n++; b.n <= b.most {
		b.head.Fields = append(b.head.Fields, message.Field{Name: name, Value: value, Sensitive: sensitive})
	}
}

// tooMany reports fields beyond the most, which are not in the head.
func (b *builder) tooMany() bool { return b.n > b.most }

func (b *builder) pseudo(value string, class uint8) {
	switch {
	case b.fields:
		b.note("a pseudo-header field after a regular one")
	case b.seen&(1<<class) != 0:
		b.note("a pseudo-header field twice")
	}
	b.seen |= 1 << class
	switch class {
	case pseudoMethod:
		b.head.Method = value
	case pseudoScheme:
		b.head.Scheme = value
	case pseudoAuthority:
		b.head.Authority = value
	case pseudoPath:
		b.head.Path = value
	case pseudoStatus:
		b.head.Status = parseStatus(value)
	case pseudoProtocol:
		b.head.Protocol = value
	}
}

// fieldCost is what a field takes besides its characters, in bytes, while its
// head is kept.
const fieldCost = 40

// size is what the request costs those who keep it.
func (b *builder) size() int { return streamCost + b.bytes + fieldCost*len(b.head.Fields) }

// listed is the size of the header list that was gathered, but for the overhead
// of pseudo-header fields.
func (b *builder) listed() int { return b.bytes + hpack.FieldOverhead*b.n }

func (b *builder) has(class uint8) bool { return b.seen&(1<<class) != 0 }

// request completes the head of a request (sections 8.3.1 and 8.5, RFC 8441).
func (b *builder) request(extendedConnect bool) {
	h := &b.head
	connect := h.Method == "CONNECT"
	switch {
	case !b.has(pseudoMethod):
		b.note("a request without :method")
	case b.has(pseudoStatus):
		b.note("a request with :status")
	case b.has(pseudoProtocol) && (!connect || !extendedConnect):
		b.note(":protocol where it is not allowed")
	case connect && !b.has(pseudoProtocol):
		if b.has(pseudoScheme) || b.has(pseudoPath) || !b.has(pseudoAuthority) || h.Authority == "" {
			b.note("CONNECT has :authority alone")
		}
	case !b.has(pseudoScheme) || !b.has(pseudoPath):
		b.note("a request without :scheme or :path")
	case h.Path[0] != '/' && !(h.Path == "*" && h.Method == "OPTIONS"):
		b.note("a :path that does not begin with /")
	case connect && h.Authority == "":
		b.note("extended CONNECT without :authority")
	}
	if b.hasHost {
		if !b.has(pseudoAuthority) {
			h.Authority = b.host
		} else if !strings.EqualFold(h.Authority, b.host) {
			b.note("Host differs from :authority")
		}
	}
	switch {
	case connect && h.Protocol == "":
		h.Form = message.Authority
	case h.Path == "*":
		h.Form = message.Asterisk
	}
}

// response completes the head of a response (section 8.3.2).
func (b *builder) response() {
	if b.seen != 1<<pseudoStatus {
		b.note("a response needs :status and no other pseudo-header field")
	}
	if b.head.Status == 101 {
		b.note("status 101 does not exist in HTTP/2")
	}
	b.keepHost()
}

// trailers completes trailer fields (section 8.1).
func (b *builder) trailers() {
	if b.seen != 0 {
		b.note("a pseudo-header field in trailers")
	}
	b.keepHost()
}

// keepHost puts Host back among the fields where it means nothing.
func (b *builder) keepHost() {
	if b.hasHost {
		b.head.Fields = append(b.head.Fields, message.Field{Name: "host", Value: b.host})
	}
}
