package detect

import (
	"bytes"
	"strings"
)

// preface is as much of HTTP/2's connection preface as no HTTP/1 request can be.
const preface = "PRI * HTTP/2.0"

// maxMethod bounds a method's length. The longest registered one has 17 bytes
// (UPDATEREDIRECTREF); text protocols whose first word is longer are opaque.
const maxMethod = 32

// version is how the last word of a request line begins. One digit more decides.
const version = "HTTP/"

// requestLine decides between HTTP/1, HTTP/2 and opaque. It waits for the version
// at the end of the line, because other protocols begin with a word and a space
// as well (Redis "GET key", NATS "CONNECT {…}", SMTP "EHLO name").
func requestLine(p []byte, full bool) Kind {
	p, empty := skipEmptyLine(p)
	if empty != HTTP1 {
		return undecided(empty, full, Opaque)
	}
	method, n := scanMethod(p)
	if method != HTTP1 {
		return undecided(method, full, Opaque)
	}
	switch {
	case bytes.HasPrefix(p, []byte(preface)):
		return HTTP2
	case strings.HasPrefix(preface, string(p)):
		return NeedMore // shorter than the preface, so below the limit
	}
	target := p[n+1:]
	end, form := scanTarget(target, string(p[:n]) == "CONNECT")
	if form != HTTP1 {
		// A target that goes on beyond the limit is a long URL, not another
		// protocol: HTTP/1's parser has the right answer to it.
		return undecided(form, full, HTTP1)
	}
	last := target[end+1:]
	for i := range min(len(last), len(version)) {
		if last[i] != version[i] {
			return Opaque
		}
	}
	if len(last) <= len(version) {
		return undecided(NeedMore, full, HTTP1)
	}
	if d := last[len(version)]; d < '0' || d > '9' {
		return Opaque
	}
	return HTTP1
}

// undecided is k, or, when there is no more to come, what it then means.
func undecided(k Kind, full bool, then Kind) Kind {
	if k == NeedMore && full {
		return then
	}
	return k
}

// skipEmptyLine skips the one empty line that RFC 9112, section 2.2, asks servers
// to ignore before a request line.
func skipEmptyLine(p []byte) ([]byte, Kind) {
	if p[0] != '\r' {
		return p, HTTP1
	}
	if len(p) < 2 {
		return nil, NeedMore
	}
	if p[1] != '\n' {
		return nil, Opaque
	}
	if len(p) == 2 {
		return nil, NeedMore
	}
	return p[2:], HTTP1
}

// scanMethod finds the method's end, a space. Methods that begin with anything
// but a letter are legal tokens that nobody uses, and Redis begins with '*'.
func scanMethod(p []byte) (Kind, int) {
	for i, c := range p {
		switch {
		case letter(c):
		case i > 0 && c == ' ':
			return HTTP1, i
		case i > 0 && (c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9'):
		default:
			return Opaque, 0
		}
		if i >= maxMethod {
			return Opaque, 0
		}
	}
	return NeedMore, 0
}

// scanTarget finds the request target's end, a space, and answers Opaque at the
// first byte that fits no form of RFC 9112, section 3.2.
func scanTarget(p []byte, connect bool) (int, Kind) {
	if len(p) == 0 {
		return 0, NeedMore
	}
	switch {
	case connect:
		return scanWord(p, authorityByte)
	case p[0] == '/':
		return scanWord(p, visible)
	case p[0] == '*':
		if len(p) > 1 && p[1] != ' ' {
			return 0, Opaque
		}
		return scanWord(p, visible)
	case letter(p[0]):
		return scanAbsolute(p)
	}
	return 0, Opaque
}

// scanAbsolute accepts scheme "://" and then any visible byte.
func scanAbsolute(p []byte) (int, Kind) {
	for i, c := range p {
		if c != ':' {
			if !letter(c) && !(i > 0 && (c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.')) {
				return 0, Opaque
			}
			continue
		}
		const slashes = "://"
		for j := range min(len(slashes), len(p)-i) {
			if p[i+j] != slashes[j] {
				return 0, Opaque
			}
		}
		if len(p) < i+len(slashes) {
			return 0, NeedMore
		}
		n, k := scanWord(p[i+len(slashes):], visible)
		return n + i + len(slashes), k
	}
	return 0, NeedMore
}

// scanWord finds the space that ends a word of at least one byte.
func scanWord(p []byte, ok func(byte) bool) (int, Kind) {
	for i, c := range p {
		if c == ' ' && i > 0 {
			return i, HTTP1
		}
		if !ok(c) {
			return 0, Opaque
		}
	}
	return 0, NeedMore
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// visible allows bytes of UTF-8 too: many clients send them unescaped.
func visible(c byte) bool { return c > ' ' && c != 0x7f }

func authorityByte(c byte) bool {
	return letter(c) || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' || c == ':' ||
		c == '[' || c == ']' || c == '%' || c == '~'
}
