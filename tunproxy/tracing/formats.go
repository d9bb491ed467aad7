package tracing

import (
	"encoding/base64"
	"strings"
)

// traceparent reads W3C's field (Trace Context, section 3.2):
//
//	00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//
// Later versions may go on after it.
func (p *Parent) traceparent(v string) bool {
	const whole = 55
	if len(v) < whole || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return false
	}
	var version, flags [1]byte
	var q Parent
	ok := unhex(version[:], v[:2], false) && unhex(q.Trace[:], v[3:35], false) && unhex(q.Span[:], v[36:52], false) && unhex(flags[:], v[53:55], false)
	switch {
	case !ok, version[0] == 0xff, q.Trace == TraceID{}, q.Span == SpanID{}:
		return false
	case version[0] == 0 && len(v) != whole, len(v) > whole && v[whole] != '-':
		return false
	}
	p.Trace, p.Span, p.id = q.Trace, q.Span, v[3:35]
	p.Decision = decisionOf(flags[0]&sampledFlag != 0)
	p.random = flags[0]&randomFlag != 0
	return true
}

// W3C's flags.
const (
	sampledFlag = 1
	randomFlag  = 2
)

func decisionOf(sampled bool) Decision {
	if sampled {
		return Sampled
	}
	return Dropped
}

func (s *Span) traceparent() string {
	var b [55]byte
	out := append(b[:0], "00-"...)
	out = appendHex(out, s.Trace[:])
	out = append(out, '-')
	out = appendHex(out, s.ID[:])
	out = append(out, '-', '0', '0'+s.flags())
	return string(out)
}

// flags are W3C's. A new trace does not say that its id is random, though it is:
// there are readers that refuse what Level 1 of Trace Context had not.
func (s *Span) flags() byte {
	if s.random {
		return sampledFlag | randomFlag
	}
	return sampledFlag
}

const (
	maxState   = 512 // bytes, as Trace Context recommends
	maxMembers = 32
)

// validState reports whether a tracestate is worth repeating in a span: a list of
// key=value, in printable characters.
func validState(s string) bool {
	if len(s) == 0 || len(s) > maxState {
		return false
	}
	members := 0
	for m := range strings.SplitSeq(s, ",") {
		m = strings.Trim(m, " \t")
		if m == "" {
			continue
		}
		key, value, ok := strings.Cut(m, "=")
		if members++; !ok || key == "" || value == "" || members > maxMembers {
			return false
		}
		for i := range len(m) {
			if m[i] < ' ' || m[i] > '~' {
				return false
			}
		}
	}
	return members > 0
}

// b3 reads B3's one field: TRACE-SPAN, TRACE-SPAN-SAMPLED, TRACE-SPAN-SAMPLED-PARENT,
// or the decision alone.
func (p *Parent) b3(v string) bool {
	if len(v) == 1 {
		d, debug, ok := b3Decision(v)
		if ok && p.Decision == Undecided {
			p.Decision, p.debug = d, debug
		}
		return false // no ids
	}
	trace, rest, ok := strings.Cut(v, "-")
	if !ok {
		return false
	}
	id, rest, more := strings.Cut(rest, "-")
	sampled, parent, hasParent := strings.Cut(rest, "-")
	d, debug := Undecided, false
	if more {
		if d, debug, ok = b3Decision(sampled); !ok {
			return false
		}
	}
	var q Parent
	var of SpanID
	if !q.b3IDs(trace, id) || hasParent && !unhex(of[:], parent, true) {
		return false
	}
	p.Trace, p.Span, p.id, p.Decision, p.debug = q.Trace, q.Span, trace, d, debug
	return true
}

func b3Decision(v string) (d Decision, debug, ok bool) {
	switch v {
	case "1", "true":
		return Sampled, false, true
	case "0", "false":
		return Dropped, false, true
	case "d":
		return Sampled, true, true
	}
	return Undecided, false, false
}

// b3IDs reads ids; a trace's may have 64 bits only.
func (p *Parent) b3IDs(trace, id string) bool {
	to := p.Trace[:]
	if len(trace) == 16 {
		to = p.Trace[8:]
	}
	return unhex(to, trace, true) && unhex(p.Span[:], id, true) && p.Trace != TraceID{} && p.Span != SpanID{}
}

// b3Multi reads B3's several fields.
func (p *Parent) b3Multi(f *fields) bool {
	d, debug := Undecided, false
	switch {
	case f.flags == "1":
		d, debug = Sampled, true
	case f.sampled != "":
		d, _, _ = b3Decision(f.sampled)
	}
	var q Parent
	if !q.b3IDs(f.traceID, f.spanID) {
		if d != Undecided && p.Decision == Undecided {
			p.Decision, p.debug = d, debug
		}
		return false
	}
	p.Trace, p.Span, p.id, p.Decision, p.debug = q.Trace, q.Span, f.traceID, d, debug
	return true
}

// b3 keeps a trace's id as short as it came.
func (s *Span) b3() string {
	trace, id, parent := s.b3Multi()
	sampled := "-1"
	if s.debug {
		sampled = "-d"
	}
	if parent != "" {
		parent = "-" + parent
	}
	return trace + "-" + id + sampled + parent
}

func (s *Span) b3Multi() (trace, id, parent string) {
	trace = s.Trace.String()
	if [8]byte(s.Trace[:8]) == [8]byte{} {
		trace = trace[16:]
	}
	if s.Parent != (SpanID{}) {
		parent = s.Parent.String()
	}
	return trace, s.ID.String(), parent
}

// binLen is the length of grpc-trace-bin: version 0, then three fields, each with
// its number before it: trace, span, flags.
const binLen = 1 + 1 + 16 + 1 + 8 + 1 + 1

// bin reads grpc-trace-bin, in base64 with padding or without.
func (p *Parent) bin(v string) bool {
	v = strings.TrimRight(v, "=")
	var b [binLen + 3]byte
	if len(v) != base64.RawStdEncoding.EncodedLen(binLen) {
		return false
	}
	n, err := base64.RawStdEncoding.Decode(b[:], []byte(v))
	if err != nil || n != binLen || b[0] != 0 || b[1] != 0 || b[18] != 1 || b[27] != 2 {
		return false
	}
	var q Parent
	copy(q.Trace[:], b[2:18])
	copy(q.Span[:], b[19:27])
	if q.Trace == (TraceID{}) || q.Span == (SpanID{}) {
		return false
	}
	p.Trace, p.Span = q.Trace, q.Span
	p.Decision = decisionOf(b[28]&sampledFlag != 0)
	return true
}

func (s *Span) bin() string {
	var b [binLen]byte
	copy(b[2:], s.Trace[:])
	b[18] = 1
	copy(b[19:], s.ID[:])
	b[27], b[28] = 2, sampledFlag
	return base64.RawStdEncoding.EncodeToString(b[:])
}
