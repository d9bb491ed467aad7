package orig

import (
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// original is the content of the hop field:
//
//	original = version *( ";" parameter )
//	version  = "1.0" / "1.1"
//	parameter:
//	  a          absolute form (request)
//	  c          Transfer-Encoding: chunked was there
//	  k          Connection: keep-alive was there (HTTP/1.0)
//	  l          names are in lower case unless named; without it, like Content-Type
//	  n="A,B"    names spelled otherwise, in order
//	  r="words"  the reason phrase (response), when it is not the usual one; last
//
// Unknown parameters are ignored. A typical value is "1.1", the same in every
// message of a connection, and so one byte in HPACK.
type original struct {
	version10, absolute, chunked, keepAlive, lower bool
	names                                          string
	reason                                         string
	hasReason                                      bool
}

// describe collects what h says that HTTP/2 can't.
func describe(h *message.Head) original {
	o := original{
		version10: h.Version == message.HTTP10,
		absolute:  h.Status == 0 && h.Form == message.Absolute,
		hasReason: h.Status != 0 && h.Reason != phrase(h.Status),
		reason:    h.Reason,
	}
	for i := range h.Fields {
		f := &h.Fields[i]
		switch {
		case len(f.Name) == 17 && equalFold(f.Name, "transfer-encoding"):
			o.chunked = true
		case len(f.Name) == 10 && o.version10 && equalFold(f.Name, "connection"):
			o.keepAlive = o.keepAlive || hasToken(f.Value, "keep-alive")
		}
	}
	if len(h.Fields) > 0 {
		first := h.Fields[0].Name
		o.lower = first != "" && first[0] >= 'a' && first[0] <= 'z'
	}
	return o
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
	}{{o.absolute, 'a'}, {o.chunked, 'c'}, {o.keepAlive, 'k'}, {o.lower, 'l'}} {
		if p.set {
			b = append(b, ';', p.name)
		}
	}
	b = o.appendNames(b, h.Fields)
	if o.hasReason {
		b = append(b, `;r="`...)
		b = append(b, o.reason...)
		b = append(b, '"')
	}
	return b
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
		if j != i && equalFold(fs[j].Name, fs[i].Name) && !o.regular(fs[j].Name) {
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
		case "k":
			o.keepAlive = true
		case "l":
			o.lower = true
		case "n":
			o.names = value
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
