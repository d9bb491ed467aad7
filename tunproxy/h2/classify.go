package h2

import "github.com/tunmesh/tunmesh/tunproxy/hpack"

// The classes of fields that matter to HTTP/2 (RFC 9113, sections 8.2 and 8.3).
const (
	regular uint8 = iota
	pseudoMethod
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoStatus
	pseudoProtocol
	host
	contentLength
	grpcType      // content-type: application/grpc…
	badName       // not a token in lower case, or an unknown pseudo-header field
	badValue      // control characters, spaces around, or not what the name asks for
	badConnection // specific to a connection (8.2.2)
)

// classes is how fields are classified, once per table entry.
var classes = hpack.NewClassifier(classify)

func classify(name, value string) uint8 {
	if len(name) == 0 {
		return badName
	}
	if !validValue(value) {
		return badValue
	}
	if name[0] == ':' {
		return classifyPseudo(name, value)
	}
	for i := range len(name) {
		if !tokenChar(name[i]) || 'A' <= name[i] && name[i] <= 'Z' {
			return badName
		}
	}
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return badConnection
	case "te":
		if value != "trailers" {
			return badConnection
		}
	case "host":
		if !validAuthority(value) {
			return badValue
		}
		return host
	case "content-length":
		if _, ok := parseLength(value); !ok {
			return badValue
		}
		return contentLength
	case "content-type":
		if isGRPC(value) {
			return grpcType
		}
	}
	return regular
}

// isGRPC: application/grpc, application/grpc+proto and the like.
func isGRPC(contentType string) bool {
	const grpc = "application/grpc"
	return len(contentType) >= len(grpc) && contentType[:len(grpc)] == grpc &&
		(len(contentType) == len(grpc) || contentType[len(grpc)] == '+' || contentType[len(grpc)] == ';')
}

func classifyPseudo(name, value string) uint8 {
	class, ok := badName, true
	switch name {
	case ":method":
		class, ok = pseudoMethod, validToken(value)
	case ":scheme":
		class, ok = pseudoScheme, validScheme(value)
	case ":authority":
		class, ok = pseudoAuthority, validAuthority(value)
	case ":path":
		class, ok = pseudoPath, validPath(value)
	case ":status":
		class, ok = pseudoStatus, len(value) == 3 && parseStatus(value) >= 100
	case ":protocol":
		class, ok = pseudoProtocol, validToken(value)
	}
	if !ok {
		return badValue
	}
	return class
}

// validValue: no control characters but tab, no white space around.
func validValue(v string) bool {
	if len(v) == 0 {
		return true
	}
	if c := v[0]; c == ' ' || c == '\t' {
		return false
	}
	if c := v[len(v)-1]; c == ' ' || c == '\t' {
		return false
	}
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func validToken(v string) bool {
	for i := range len(v) {
		if !tokenChar(v[i]) {
			return false
		}
	}
	return len(v) > 0
}

// tokenChar: RFC 9110, section 5.6.2.
func tokenChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9', 'A' <= c && c <= 'Z':
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

// validScheme: RFC 3986, section 3.1.
func validScheme(v string) bool {
	for i := range len(v) {
		c := v[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return len(v) > 0
}

// validAuthority: host and port without userinfo (RFC 9113, section 8.3.1), and
// nothing that would end an authority inside an HTTP/1 request target.
func validAuthority(v string) bool {
	for i := range len(v) {
		switch c := v[i]; {
		case c <= ' ', c >= 0x7f, c == '@', c == '/', c == '?', c == '#', c == '\\', c == '"', c == '<', c == '>':
			return false
		}
	}
	return true
}

// validPath: nothing that would end an HTTP/1 request line. Whether it begins
// well depends on the method.
func validPath(v string) bool {
	for i := range len(v) {
		if c := v[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return len(v) > 0
}

func parseStatus(v string) int {
	n := 0
	for i := range len(v) {
		c := v[i]
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// parseLength takes 1 to 18 digits: no sign, no list, no overflow.
func parseLength(v string) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(v) {
		c := v[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
