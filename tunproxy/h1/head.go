package h1

import (
	"bytes"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// framing is what a head says about its body and its connection.
type framing struct {
	chunked   bool
	length    int64 // Content-Length, -1 when absent
	close     bool  // Connection: close
	keepAlive bool  // Connection: keep-alive
	upgrade   bool  // Connection: upgrade
	expect    bool  // Expect: 100-continue
}

// What is wrong with a message. Each is its own value, so that the reason counts.
var (
	errStartLine     = &Error{400, "malformed request line"}
	errMethod        = &Error{400, "invalid method"}
	errTarget        = &Error{400, "invalid request target"}
	errAuthority     = &Error{400, "invalid authority"}
	errVersion       = &Error{505, "unsupported HTTP version"}
	errVersionSyntax = &Error{400, "malformed HTTP version"}
	errBareLF        = &Error{400, "bare LF"}
	errBareCR        = &Error{400, "bare CR"}
	errNUL           = &Error{400, "NUL byte"}
	errControl       = &Error{400, "control byte in a field value"}
	errFold          = &Error{400, "folded header line"}
	errColonSpace    = &Error{400, "space before a colon"}
	errNoColon       = &Error{400, "header line without a colon"}
	errEmptyName     = &Error{400, "empty field name"}
	errFieldName     = &Error{400, "invalid field name"}
	errNoHost        = &Error{400, "no Host field"}
	errManyHosts     = &Error{400, "more than one Host field"}
	errHost          = &Error{400, "invalid Host field"}
	errLength        = &Error{400, "invalid Content-Length"}
	errManyLengths   = &Error{400, "more than one Content-Length"}
	errLengthAndTE   = &Error{400, "Content-Length and Transfer-Encoding"}
	errTE            = &Error{400, "invalid Transfer-Encoding"}
	errManyTE        = &Error{400, "more than one Transfer-Encoding"}
	errTE10          = &Error{400, "Transfer-Encoding in HTTP/1.0"}
	errCoding        = &Error{501, "unknown transfer coding"}
	errConnectBody   = &Error{400, "CONNECT with a body"}
	errHeadSize      = &Error{431, "header section too large"}
	errLineSize      = &Error{414, "request line too long"}
	errFieldCount    = &Error{431, "too many header fields"}
	errEmptyLines    = &Error{400, "too many empty lines before the request"}
	errSlowHead      = &Error{408, "request head took too long"}
	errCutHead       = &Error{400, "connection ended inside a request head"}
	errSlowBody      = &Error{408, "request body made no progress"}

	errStatusLine    = &Error{502, "malformed status line"}
	errStatus        = &Error{502, "invalid status code"}
	errSwitch        = &Error{502, "101 that nobody asked for"}
	errInformational = &Error{502, "too many informational responses"}
)

var emptyLine = []byte("\r\n\r\n") // constant

// findEnd returns the length of the head at the beginning of b, with its empty
// line, or 0 while it is incomplete. from is how much was searched before.
func findEnd(b []byte, from int) int {
	from = max(from-3, 0)
	if i := bytes.Index(b[from:], emptyLine); i >= 0 {
		return from + i + len(emptyLine)
	}
	return 0
}

// lonelyLF reports an LF without a CR before it: an incomplete head with one
// will never be a good one.
func lonelyLF(b []byte, from int) bool {
	for i := from; i < len(b); i++ {
		if b[i] == '\n' && (i == 0 || b[i-1] != '\r') {
			return true
		}
	}
	return false
}

// parseRequest parses the head s, which ends with an empty line, into h.
func parseRequest(s string, maxFields int, scheme string, h *message.Head, f *framing) *Error {
	*h = message.Head{Fields: h.Fields[:0], Scheme: scheme}
	*f = framing{length: -1}
	pos, err := requestLine(s, h)
	if err != nil {
		return err
	}
	p := fields{s: s, pos: pos, max: maxFields, h: h, f: f, request: true}
	if err := p.parse(); err != nil {
		return err
	}
	switch {
	case p.hosts > 1:
		return errManyHosts
	case p.hosts == 0 && h.Version != message.HTTP10:
		return errNoHost
	case p.hosts == 1 && !validAuthority(p.host, false):
		return errHost
	}
	if h.Form == message.Origin || h.Form == message.Asterisk {
		h.Authority = p.host // in absolute form the target's wins (RFC 9112, section 3.2.2)
	}
	if p.lengths > 1 {
		return errManyLengths
	}
	if p.codings > 0 {
		if err := p.requestCoding(); err != nil {
			return err
		}
	}
	if h.Method == "CONNECT" && (f.chunked || f.length > 0) {
		return errConnectBody
	}
	switch {
	case f.chunked:
		h.ContentLength = -1
	case f.length >= 0:
		h.ContentLength = f.length
	}
	if h.Version == message.HTTP10 {
		f.upgrade, f.expect = false, false // RFC 9110, sections 7.8 and 10.1.1
	}
	h.Upgrade = f.upgrade && !f.chunked && f.length <= 0 && p.protocol != "" && !offersHTTP2(p.protocol)
	return nil
}

// requestCoding judges Transfer-Encoding in a request (RFC 9112, section 6.1).
func (p *fields) requestCoding() *Error {
	switch {
	case p.h.Version == message.HTTP10:
		return errTE10
	case p.lengths > 0:
		return errLengthAndTE
	case p.codings > 1:
		return errManyTE
	case fold(p.coding, "chunked"):
		p.f.chunked = true
		return nil
	}
	// A list of codings that ends with one chunked has an end; we know no other.
	n, elements, last := 0, 0, ""
	for rest := p.coding; rest != ""; elements++ {
		last, rest = message.NextElement(rest)
		if last == "" || !all(last, isToken) {
			return errTE
		}
		if fold(last, "chunked") {
			n++
		}
	}
	if n == 1 && elements > 1 && fold(last, "chunked") {
		return errCoding
	}
	return errTE
}

// requestLine parses "method SP target SP version CRLF" and returns its length.
func requestLine(s string, h *message.Head) (int, *Error) {
	i := 0
	for class[s[i]]&isToken != 0 {
		i++
	}
	if i == 0 || s[i] != ' ' {
		return 0, lineError(s[i], errMethod)
	}
	h.Method = s[:i]
	start := i + 1
	for i = start; class[s[i]]&isTarget != 0; i++ {
	}
	if i == start || s[i] != ' ' {
		return 0, lineError(s[i], errTarget)
	}
	target := s[start:i]
	s, i = s[i+1:], i+1
	const line = len("HTTP/1.1\r\n")
	if len(s) < line || s[:5] != "HTTP/" || s[6] != '.' || s[5]-'0' > 9 || s[7]-'0' > 9 {
		return 0, errVersionSyntax
	}
	if s[5] != '1' {
		return 0, errVersion
	}
	h.Version = message.HTTP11 // a higher minor version speaks 1.1 too (RFC 9110, section 2.5)
	if s[7] == '0' {
		h.Version = message.HTTP10
	}
	if s[8] != '\r' || s[9] != '\n' {
		return 0, lineError(s[8], errVersionSyntax)
	}
	return i + line, parseTarget(target, h)
}

// lineError names the worst of what may end a word too early.
func lineError(c byte, otherwise *Error) *Error {
	switch c {
	case '\n':
		return errBareLF
	case 0:
		return errNUL
	case '\r':
		return errStartLine
	}
	return otherwise
}

// parseTarget sorts the four forms of RFC 9112, section 3.2.
func parseTarget(t string, h *message.Head) *Error {
	switch {
	case h.Method == "CONNECT":
		if !validAuthority(t, true) {
			return errAuthority
		}
		h.Form, h.Authority = message.Authority, t
		return nil
	case t[0] == '/':
		h.Form, h.Path = message.Origin, t
		return nil
	case t == "*":
		if h.Method != "OPTIONS" {
			return errTarget
		}
		h.Form, h.Path = message.Asterisk, t
		return nil
	}
	return absoluteTarget(t, h)
}

func absoluteTarget(t string, h *message.Head) *Error {
	var rest string
	switch {
	case len(t) > 7 && fold(t[:7], "http://"):
		h.Scheme, rest = "http", t[7:]
	case len(t) > 8 && fold(t[:8], "https://"):
		h.Scheme, rest = "https", t[8:]
	default:
		return errTarget
	}
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	if end == 0 || !validAuthority(rest[:end], false) {
		return errAuthority
	}
	h.Form, h.Authority, h.Path = message.Absolute, rest[:end], rest[end:]
	switch {
	case h.Path == "" && h.Method == "OPTIONS":
		h.Path = "*" // RFC 9112, section 3.2.4
	case h.Path == "":
		h.Path = "/"
	case h.Path[0] == '?':
		h.Path = "/" + h.Path
	}
	return nil
}

// validAuthority accepts host [":" port]; the empty one too unless the port is
// required. User information is not part of an authority in HTTP (RFC 9110,
// section 4.2.4).
func validAuthority(a string, needPort bool) bool {
	if !all(a, isHost) {
		return false
	}
	if a == "" {
		return !needPort
	}
	host := a
	if a[0] == '[' {
		end := 1
		for end < len(a) && (class[a[end]]&isHex != 0 || a[end] == ':' || a[end] == '.' || a[end] == 'v' || a[end] == '%') {
			end++
		}
		if end < 3 || end == len(a) || a[end] != ']' {
			return false
		}
		host = a[end+1:]
		if host == "" {
			return !needPort
		}
		if host[0] != ':' {
			return false
		}
	}
	colon := -1
	for i := range len(host) {
		switch host[i] {
		case ':':
			if colon >= 0 {
				return false
			}
			colon = i
		case '[', ']':
			return false
		default:
			if colon >= 0 && host[i]-'0' > 9 {
				return false
			}
		}
	}
	if colon < 0 {
		return !needPort
	}
	port := host[colon+1:]
	return len(port) <= 5 && (port != "" || !needPort) && (colon > 0 || a[0] == '[')
}

func offersHTTP2(protocols string) bool {
	for protocols != "" {
		var t string
		t, protocols = message.NextElement(protocols)
		if fold(t, "h2c") || fold(t, "h2") || len(t) >= 5 && fold(t[:5], "http/") {
			return true
		}
	}
	return false
}
