package h1

import "github.com/tunmesh/tunmesh/tunproxy/message"

// fields parses the field lines of a head or a trailer section.
type fields struct {
	s   string // ends with CR LF CR LF (or, for no fields at all, CR LF)
	pos int
	max int
	h   *message.Head
	f   *framing

	request                  bool // Host is one of the fields
	host, coding, protocol   string
	hosts, lengths, codings  int
	badLength, lengthsDiffer bool
}

// parse reads lines up to the empty one into h.Fields, and what framing needs
// into f. Host is kept in a request, where it was.
func (p *fields) parse() *Error {
	for {
		if p.s[p.pos] == '\r' {
			if p.pos+1 >= len(p.s) || p.s[p.pos+1] != '\n' {
				return errBareCR
			}
			break
		}
		name, value, err := p.line()
		if err != nil {
			return err
		}
		if len(p.h.Fields) >= p.max {
			return errFieldCount
		}
		if !p.note(classify(name), value) {
			continue
		}
		p.h.Fields = append(p.h.Fields, message.Field{Name: name, Value: value})
	}
	if p.badLength {
		return errLength
	}
	return nil
}

// line takes one "name: value CRLF" (RFC 9112, section 5).
func (p *fields) line() (name, value string, err *Error) {
	s, start := p.s, p.pos
	i := start
	for class[s[i]]&isToken != 0 {
		i++
	}
	if s[i] != ':' || i == start {
		return "", "", nameError(s[start], s[i], i == start)
	}
	name = s[start:i]
	i++
	for s[i] == ' ' || s[i] == '\t' {
		i++
	}
	start = i
	for class[s[i]]&isValue != 0 {
		i++
	}
	if s[i] != '\r' || s[i+1] != '\n' {
		return "", "", valueError(s[i])
	}
	p.pos = i + 2
	for i > start && (s[i-1] == ' ' || s[i-1] == '\t') {
		i--
	}
	return name, s[start:i], nil
}

// nameError says why a line has no field name: first is its first byte, stop the
// byte after its last good one.
func nameError(first, stop byte, empty bool) *Error {
	switch {
	case first == ' ' || first == '\t':
		return errFold
	case empty && stop == ':':
		return errEmptyName
	case stop == ' ' || stop == '\t':
		return errColonSpace
	case stop == '\n':
		return errBareLF
	case stop == 0:
		return errNUL
	case stop == '\r':
		return errNoColon
	}
	return errFieldName
}

func valueError(stop byte) *Error {
	switch stop {
	case '\r':
		return errBareCR
	case '\n':
		return errBareLF
	case 0:
		return errNUL
	}
	return errControl
}

// note takes down what a special field says; false removes it from the list.
func (p *fields) note(kind special, value string) bool {
	switch kind {
	case fieldHost:
		p.hosts++
		p.host = value
		return p.request
	case fieldContentLength:
		n, ok := parseLength(value)
		p.badLength = p.badLength || !ok
		p.lengthsDiffer = p.lengthsDiffer || p.lengths > 0 && n != p.f.length
		p.lengths++
		p.f.length = n
		return p.lengths == 1
	case fieldTransferEncoding:
		p.codings++
		p.coding = value
	case fieldUpgrade:
		p.protocol = value
	case fieldExpect:
		p.f.expect = p.f.expect || fold(value, "100-continue")
	case fieldConnection, fieldProxyConnection:
		p.options(value, kind == fieldConnection)
	}
	return true
}

// options reads Connection (RFC 9110, section 7.6.1). Of Proxy-Connection, which
// HTTP/1.0 clients send to what they take for a proxy, nothing is believed.
func (p *fields) options(value string, believed bool) {
	for value != "" && believed {
		var t string
		t, value = message.NextElement(value)
		switch {
		case fold(t, "close"):
			p.f.close = true
		case fold(t, "keep-alive"):
			p.f.keepAlive = true
		case fold(t, "upgrade"):
			p.f.upgrade = true
		}
	}
}

// parseTrailers parses a trailer section into out. Fields that would change
// framing or routing are refused (RFC 9110, section 6.5.1): whoever merges
// trailers into the head would read another message.
func parseTrailers(s string, maxFields int, h *message.Head) *Error {
	*h = message.Head{Fields: h.Fields[:0]}
	var f framing
	p := fields{s: s, max: maxFields, h: h, f: &f}
	if err := p.parse(); err != nil {
		return err
	}
	if p.hosts+p.lengths+p.codings > 0 {
		return errTrailer
	}
	for i := range h.Fields {
		if classify(h.Fields[i].Name) != ordinary {
			return errTrailer
		}
	}
	return nil
}

var errTrailer = &Error{400, "forbidden trailer field"}
