package h1

// Classes of bytes (RFC 9110, section 5.6.2 and 5.5; RFC 3986).
const (
	isToken  = 1 << iota // tchar
	isValue              // HTAB, SP, VCHAR, obs-text: what a field value may hold
	isTarget             // what a request target may hold
	isHost               // what an authority may hold
	isHex
)

// class is a constant table.
var class = func() (t [256]uint8) {
	for c := range 256 {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if alnum || contains("!#$%&'*+-.^_`|~", byte(c)) {
			t[c] |= isToken
		}
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= isValue
		}
		// A fragment is not part of a target: some would cut it off, some not.
		// Bytes of UTF-8 are not in the grammar but common, and unambiguous.
		if c > ' ' && c != 0x7f && c != '#' {
			t[c] |= isTarget
		}
		if alnum || contains("-._~!$&'()*+,;=%:[]", byte(c)) {
			t[c] |= isHost
		}
		if c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' {
			t[c] |= isHex
		}
	}
	return t
}()

func contains(s string, c byte) bool {
	for i := range len(s) {
		if s[i] == c {
			return true
		}
	}
	return false
}

// all reports whether s has only bytes of a class.
func all(s string, want uint8) bool {
	for i := range len(s) {
		if class[s[i]]&want == 0 {
			return false
		}
	}
	return true
}

// fold compares without case; lower is in lower case.
func fold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// parseLength reads Content-Length's digits; ok is false for anything else.
func parseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 { // 18 digits can't overflow
		return 0, false
	}
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}

// special is the kind of a field that framing or the connection cares about.
type special uint8

const (
	ordinary special = iota
	fieldTE
	fieldHost
	fieldUpgrade
	fieldConnection
	fieldKeepAlive
	fieldContentLength
	fieldHTTP2Settings
	fieldProxyConnection
	fieldTransferEncoding
	fieldExpect
)

// classify finds a field's kind by its name.
func classify(name string) special {
	switch len(name) {
	case 2:
		if fold(name, "te") {
			return fieldTE
		}
	case 4:
		if fold(name, "host") {
			return fieldHost
		}
	case 6:
		if fold(name, "expect") {
			return fieldExpect
		}
	case 7:
		if fold(name, "upgrade") {
			return fieldUpgrade
		}
	case 10:
		if fold(name, "connection") {
			return fieldConnection
		}
		if fold(name, "keep-alive") {
			return fieldKeepAlive
		}
	case 14:
		if fold(name, "content-length") {
			return fieldContentLength
		}
		if fold(name, "http2-settings") {
			return fieldHTTP2Settings
		}
	case 16:
		if fold(name, "proxy-connection") {
			return fieldProxyConnection
		}
	case 17:
		if fold(name, "transfer-encoding") {
			return fieldTransferEncoding
		}
	}
	return ordinary
}
