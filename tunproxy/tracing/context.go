package tracing

import (
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

type (
	// TraceID is a trace's; zero is none.
	TraceID [16]byte
	// SpanID is a span's; zero is none.
	SpanID [8]byte
)

// Decision is what a request's sender made up its mind to.
type Decision uint8

// The decisions.
const (
	// Undecided: whoever comes next may choose.
	Undecided Decision = iota
	// Sampled: the sender has a span of it, or wants others to.
	Sampled
	// Dropped: there are to be no spans.
	Dropped
)

// formats that a request has fields of, be they well-formed or not.
type formats uint8

const (
	w3c formats = 1 << iota
	b3Single
	b3Multi
	grpcBin
	state // tracestate
)

// Parent is what a request brings. Its strings are the request's.
type Parent struct {
	// Trace and Span are zero where the request brings none.
	Trace    TraceID
	Span     SpanID
	Decision Decision

	has    formats
	from   formats // the format that Trace is of
	random bool    // the sender says that the trace's id is random
	debug  bool    // B3's
	state  string  // tracestate, where it is one line and Trace is W3C's
	id     string  // Trace, as it was written; "" where that was no text
}

// fields are those of the formats, as found.
type fields struct {
	traceparent, tracestate, b3, bin          string
	traceID, spanID, parentID, sampled, flags string
	states                                    int
	has                                       formats
}

// set keeps a field's value. Of those that came twice nobody can say which is
// true: it then is as malformed.
func (f *fields) set(to *string, v string, is formats) {
	if *to != "" || v == "" {
		v = "?"
	}
	*to = v
	f.has |= is
}

// take keeps a field if it is one of the formats'.
func (f *fields) take(name, v string) bool {
	switch len(name) { // nearly all names are told by their length
	case 2:
		if equalFold(name, "b3") {
			f.set(&f.b3, v, b3Single)
			return true
		}
	case 10:
		switch {
		case equalFold(name, "tracestate"):
			f.tracestate = v
			f.states++
			f.has |= state
			return true
		case equalFold(name, "x-b3-flags"):
			f.set(&f.flags, v, b3Multi)
			return true
		}
	case 11:
		switch {
		case equalFold(name, "traceparent"):
			f.set(&f.traceparent, v, w3c)
			return true
		case equalFold(name, "x-b3-spanid"):
			f.set(&f.spanID, v, b3Multi)
			return true
		}
	case 12:
		switch {
		case equalFold(name, "x-b3-traceid"):
			f.set(&f.traceID, v, b3Multi)
			return true
		case equalFold(name, "x-b3-sampled"):
			f.set(&f.sampled, v, b3Multi)
			return true
		}
	case 14:
		if equalFold(name, "grpc-trace-bin") {
			f.set(&f.bin, v, grpcBin)
			return true
		}
	case 17:
		if equalFold(name, "x-b3-parentspanid") {
			f.set(&f.parentID, v, b3Multi)
			return true
		}
	}
	return false
}

// Extract reads the fields of a request. Of several formats the first counts:
// W3C, B3 in one field, B3 in several, grpc-trace-bin; one that is malformed is
// as if it were not there.
func Extract(fs []message.Field) Parent {
	var f fields
	for i := range fs {
		f.take(fs[i].Name, fs[i].Value)
	}
	p := Parent{has: f.has}
	if f.has == 0 {
		return p
	}
	switch {
	case p.traceparent(f.traceparent):
		p.from = w3c
		if f.states == 1 && validState(f.tracestate) {
			p.state = f.tracestate
		}
	case p.b3(f.b3):
		p.from = b3Single
	case p.b3Multi(&f):
		p.from = b3Multi
	case p.bin(f.bin):
		p.from = grpcBin
	}
	return p
}

// Inject makes s the parent in a request's fields, in place where there is room:
// in all formats that the request had, so that whichever the next one reads says
// the same, or else in W3C's. They are spelled as the first field is.
func (s *Span) Inject(fs []message.Field, p *Parent) []message.Field {
	title := len(fs) > 0 && fs[0].Name != "" && fs[0].Name[0] >= 'A' && fs[0].Name[0] <= 'Z'
	if p.has != 0 {
		fs = strip(fs, p.from == w3c)
	}
	add := func(lower, upper, value string) {
		if title {
			lower = upper
		}
		fs = append(fs, message.Field{Name: lower, Value: value})
	}
	has := p.has &^ state
	if has == 0 || has&w3c != 0 {
		add("traceparent", "Traceparent", s.traceparent())
	}
	if has&b3Single != 0 {
		add("b3", "B3", s.b3())
	}
	if has&b3Multi != 0 {
		trace, id, parent := s.b3Multi()
		add("x-b3-traceid", "X-B3-Traceid", trace)
		add("x-b3-spanid", "X-B3-Spanid", id)
		if parent != "" {
			add("x-b3-parentspanid", "X-B3-Parentspanid", parent)
		}
		if s.debug {
			add("x-b3-flags", "X-B3-Flags", "1")
		} else {
			add("x-b3-sampled", "X-B3-Sampled", "1")
		}
	}
	if has&grpcBin != 0 {
		add("grpc-trace-bin", "Grpc-Trace-Bin", s.bin())
	}
	return fs
}

// strip removes the fields of all formats in place; tracestate stays where it
// still belongs to the trace.
func strip(fs []message.Field, keepState bool) []message.Field {
	out := fs[:0]
	for i := range fs {
		var f fields
		if f.take(fs[i].Name, "") && (f.has != state || !keepState) {
			continue
		}
		out = append(out, fs[i])
	}
	return out
}

// ID is the trace's id in what a request brings, as it was written, for logs; ""
// where there is none.
func (p *Parent) ID() string {
	if p.from == grpcBin {
		return p.Trace.String()
	}
	return p.id
}

// String is the id in hexadecimal digits.
func (t TraceID) String() string { return hexOf(t[:]) }

// String is the id in hexadecimal digits.
func (s SpanID) String() string { return hexOf(s[:]) }

const digits = "0123456789abcdef"

func hexOf(b []byte) string {
	var s strings.Builder
	s.Grow(2 * len(b))
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

func appendHex(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, digits[c>>4], digits[c&15])
	}
	return dst
}

// unhex reads exactly 2*len(to) digits. W3C wants them in lower case.
func unhex(to []byte, s string, upper bool) bool {
	if len(s) != 2*len(to) {
		return false
	}
	for i := range to {
		hi, ok := digit(s[2*i], upper)
		lo, ok2 := digit(s[2*i+1], upper)
		if !ok || !ok2 {
			return false
		}
		to[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte, upper bool) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case upper && 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func equalFold(a, lower string) bool {
	for i := range len(lower) {
		c := a[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
