package orig

import (
	"math"
	"strconv"
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// original is the content of the hop field:
//
//	original = version *( ";" parameter )
//	version  = "1.0" / "1.1"
//	parameter:
//	  a          absolute form (request)
//	  c          Transfer-Encoding: chunked was there, and was the last field
//	  c="3"      the same, and three fields were before it
//	  h="3"      three fields were before Host; without it, it was the first, or none
//	  k          Connection: keep-alive was there (HTTP/1.0)
//	  l          names are in lower case unless named; without it, like Content-Type
//	  n="A,B"    names spelled otherwise, in order
//	  u="words"  the Upgrade field of a 426 response
//	  r="words"  the reason phrase (response), when it is not the usual one; last
//
// Unknown parameters are ignored. A typical value is "1.1", the same in every
// message of a connection, and so one byte in HPACK.
type original struct {
	version10, absolute, chunked, keepAlive, lower bool
	host                                           bool // not in its usual place or spelling
	hostAt, chunkedAt                              int  // how many fields were before
	names                                          string
	upgrade                                        string
	reason                                         string
	hasReason                                      bool
}

// last is a place behind all fields.
const last = math.MaxInt

// describe collects what h says that HTTP/2 can't, but for its names.
func describe(h *message.Head) original {
	o := original{
		version10: h.Version == message.HTTP10,
		absolute:  h.Status == 0 && h.Form == message.Absolute,
		hasReason: h.Status != 0 && h.Reason != phrase(h.Status),
		reason:    h.Reason,
		chunkedAt: last,
	}
	if !o.version10 && h.Status != upgradeRequired {
		return o
	}
	for i := range h.Fields {
		switch f := &h.Fields[i]; {
		case o.version10 && message.EqualFold(f.Name, "connection"):
			o.keepAlive = o.keepAlive || hasToken(f.Value, "keep-alive")
		case h.Status == upgradeRequired && message.EqualFold(f.Name, "upgrade") && strings.IndexByte(f.Value, '"') < 0:
			o.upgrade = f.Value
		}
	}
	return o
}

// upgradeRequired is the one response whose Upgrade field is about the request
// that it answers, and not about its connection (RFC 9110, section 15.5.22).
const upgradeRequired = 426

// describeNames notes how the fields that are left are spelled, and where those
// stand that do not travel as fields. It removes a Host that is where and as h1
// writes it by itself.
func (o *original) describeNames(f []message.Field) []message.Field {
	if len(f) > 0 && f[0].Name == "Host" {
		f = f[:copy(f, f[1:])]
	}
	for i := range f {
		switch name := f[i].Name; {
		case len(name) == 4 && message.EqualFold(name, "host"):
			o.host, o.hostAt = true, i
		case len(name) == 17 && message.EqualFold(name, "transfer-encoding"):
			o.chunked, o.chunkedAt = true, i
		}
	}
	if o.chunkedAt == len(f)-1 {
		o.chunkedAt = last
	}
	o.lower = len(f) > 0 && f[0].Name != "" && f[0].Name[0] >= 'a' && f[0].Name[0] <= 'z'
	return f
}

// append writes the field's value. The names spelled otherwise are those of h.
func (o *original) append(b []byte, h *message.Head) []byte {
	if o.version10 {
		b = append(b, "1.0"...)
	} else {
		b = append(b, "1.1"...)
	}
	for _, p := range [...]struct {
		set  bool
		name byte
	}{{o.absolute, 'a'}, {o.chunked && o.chunkedAt == last, 'c'}, {o.keepAlive, 'k'}, {o.lower, 'l'}} {
		if p.set {
			b = append(b, ';', p.name)
		}
	}
	if o.chunked && o.chunkedAt != last {
		b = appendPlace(b, 'c', o.chunkedAt)
	}
	if o.host {
		b = appendPlace(b, 'h', o.hostAt)
	}
	b = o.appendNames(b, h.Fields)
	if o.upgrade != "" {
		b = append(b, `;u="`...)
		b = append(b, o.upgrade...)
		b = append(b, '"')
	}
	if o.hasReason {
		b = append(b, `;r="`...)
		b = append(b, o.reason...)
		b = append(b, '"')
	}
	return b
}

func appendPlace(b []byte, name byte, at int) []byte {
	b = append(b, ';', name, '=', '"')
	b = strconv.AppendInt(b, int64(at), 10)
	return append(b, '"')
}

// appendNames lists the names whose spelling does not follow from the rule, and
// with each all others that differ from it in spelling alone, so that the nth of a
// name gets the nth spelling.
func (o *original) appendNames(b []byte, fs []message.Field) []byte {
	if !o.anyIrregular(fs) {
		return b
	}
	b = append(b, `;n="`...)
	for i := range fs {
		if !o.regular(fs[i].Name) || o.hasIrregularTwin(fs, i) {
			b = append(b, fs[i].Name...)
			b = append(b, ',')
		}
	}
	b[len(b)-1] = '"'
	return b
}

func (o *original) anyIrregular(fs []message.Field) bool {
	for i := range fs {
		if !o.regular(fs[i].Name) {
			return true
		}
	}
	return false
}

func (o *original) hasIrregularTwin(fs []message.Field, i int) bool {
	for j := range fs {
		if j != i && message.EqualFold(fs[j].Name, fs[i].Name) && !o.regular(fs[j].Name) {
			return true
		}
	}
	return false
}

// regular reports that a name is spelled as the rule says.
func (o *original) regular(name string) bool {
	if o.lower {
		for i := range len(name) {
			if 'A' <= name[i] && name[i] <= 'Z' {
				return false
			}
		}
		return true
	}
	return isTitle(name)
}

// isTitle reports that a letter is upper case exactly at the beginning and after
// each '-'.
func isTitle(name string) bool {
	start := true
	for i := range len(name) {
		c := name[i]
		if start && 'a' <= c && c <= 'z' || !start && 'A' <= c && c <= 'Z' {
			return false
		}
		start = c == '-'
	}
	return true
}

// parse reads the field's value; it reports whether it is well-formed.
func (o *original) parse(v string) bool {
	if len(v) < 3 || v[:2] != "1." || v[2] != '0' && v[2] != '1' {
		return false
	}
	o.version10 = v[2] == '0'
	o.chunkedAt = last
	for v = v[3:]; v != ""; {
		if v[0] != ';' {
			return false
		}
		v = v[1:]
		name := v
		if i := strings.IndexAny(v, ";="); i >= 0 {
			name = v[:i]
		}
		v = v[len(name):]
		value := ""
		if v != "" && v[0] == '=' {
			var ok bool
			if value, v, ok = quoted(v[1:], name == "r"); !ok {
				return false
			}
		}
		switch name {
		case "":
			return false
		case "a":
			o.absolute = true
		case "c":
			o.chunked = true
			if value != "" {
				o.chunkedAt = place(value)
			}
		case "h":
			o.host, o.hostAt = true, place(value)
		case "k":
			o.keepAlive = true
		case "l":
			o.lower = true
		case "n":
			o.names = value
		case "u":
			o.upgrade = value
		case "r":
			o.reason, o.hasReason = value, true
		}
	}
	return true
}

// quoted takes a value in quotes off v; the last parameter's reaches up to v's end,
// because a reason may hold quotes itself.
func quoted(v string, last bool) (value, rest string, ok bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", "", false
	}
	v = v[1:]
	if last {
		if v[len(v)-1] != '"' {
			return "", "", false
		}
		return v[:len(v)-1], "", true
	}
	i := strings.IndexByte(v, '"')
	if i < 0 {
		return "", "", false
	}
	return v[:i], v[i+1:], true
}

// place reads a number of fields; what is none is beyond them all.
func place(v string) int {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return last
	}
	return int(n)
}
