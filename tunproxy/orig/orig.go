// Package orig carries HTTP/1 messages over the HTTP/2 hop between two sidecars
// without loss: what HTTP/2 can't say goes into one field (hop.FieldOrig) on one
// side and is put back on the other (docs/design/0002). It owns that field, the
// removal of what belongs to one connection only, and the removal of sidecars'
// fields from what others send; it refuses to know connections, streams and how
// messages are framed in bytes.
//
// The four translators are named after where a message comes from or goes to, and
// fit package exchange. One that translates keeps what it computed for the next
// message (Names), and so belongs to one event loop.
package orig

import (
	"errors"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// ErrMalformed is a hop field that is not as docs/design/0002 has it. The message
// is then treated as one of HTTP/2.
var ErrMalformed = errors.New("read " + hop.FieldOrig + ": malformed")

// Pack rewrites a head of HTTP/1 in place for the hop: fields of the connection go,
// the hop field comes. Heads of HTTP/2 lose sidecars' fields only.
func (n *Names) Pack(h *message.Head) {
	h.Fields = stripFields(h.Fields, h.Status != 0)
	defer markUntraced(h)
	if h.Version == message.HTTP2 {
		return
	}
	o := describe(h)
	h.Fields = dropConnection(h.Fields)
	if h.Status == 204 || h.Informational() {
		// A length that means nothing would be a contradiction in HTTP/2
		// (RFC 9110, section 8.6).
		h.Fields = drop(h.Fields, "content-length")
	}
	h.Fields = o.describeNames(h.Fields)
	value := n.value(&o, h)
	h.Fields = append(dropPlaced(h.Fields), message.Field{Name: hop.FieldOrig, Value: value})
}

// Unpack restores in place a head that Pack rewrote, and reports whether it was one
// of HTTP/1. Without the hop field h is left alone, apart from sidecars' fields
// that are not for apps.
func (n *Names) Unpack(h *message.Head) (http1 bool, err error) {
	value, found := "", 0
	for i := range h.Fields {
		switch h.Fields[i].Name {
		case hop.FieldOrig:
			value = h.Fields[i].Value
			found++
		case hop.FieldUntraced:
			h.Untraced = true
		}
	}
	h.Fields = stripFields(h.Fields, h.Status != 0)
	if found == 0 {
		return false, nil
	}
	var o original
	if found > 1 || !o.parse(value) {
		return false, ErrMalformed
	}
	n.restore(&o, h)
	return true, nil
}

// markUntraced writes as a field what h says of tracing.
func markUntraced(h *message.Head) {
	if h.Untraced {
		h.Fields = append(h.Fields, message.Field{Name: hop.FieldUntraced, Value: "1"})
	}
}

// Strip removes sidecars' fields from what somebody else sent.
func Strip(f []message.Field) []message.Field { return stripFields(f, false) }

// stripFields removes them in place; keepError spares the one that apps may read.
func stripFields(f []message.Field, keepError bool) []message.Field {
	for i := range f { // nearly always there is none, and nothing moves
		if ours(f[i].Name) {
			return append(f[:i], stripRest(f[i:], keepError)...)
		}
	}
	return f
}

func stripRest(f []message.Field, keepError bool) []message.Field {
	out := f[:0]
	for i := range f {
		if ours(f[i].Name) && !(keepError && f[i].Name == hop.FieldProxyError) {
			continue
		}
		out = append(out, f[i])
	}
	return out
}

// ours reports the prefix without regard to case, and to '_' in place of '-',
// which servers that turn names into variables can't tell apart.
func ours(name string) bool {
	if len(name) < len(hop.FieldPrefix) || lower(name[0]) != hop.FieldPrefix[0] {
		return false
	}
	for i := range len(hop.FieldPrefix) {
		c := lower(name[i])
		if c == '_' {
			c = '-'
		}
		if c != hop.FieldPrefix[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// drop removes all fields of one name.
func drop(f []message.Field, name string) []message.Field {
	out := f[:0]
	for i := range f {
		if !message.EqualFold(f[i].Name, name) {
			out = append(out, f[i])
		}
	}
	return out
}
