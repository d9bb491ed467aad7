// Package detect says which protocol a connection's first bytes speak. It owns
// the signatures of TLS, HTTP/2 and HTTP/1 and the bounds on looking for them;
// it refuses to know connections, deadlines, policy, and what is done with the
// answer.
//
// Detection never consumes: the caller peeks, asks, and asks again with more
// bytes while the answer is NeedMore. It decides on the earliest byte that
// leaves one possibility: a first byte that begins neither TLS nor HTTP is
// Opaque at once, so that binary protocols never wait.
package detect

// Limit is the number of bytes after which Detect no longer answers NeedMore.
// It fits the largest single TLS record, and with it every ClientHello seen in
// practice (post-quantum key shares make 1.8 KB, resumption adds a few hundred).
const Limit = 16 << 10

// Kind is a protocol, or the wish for more bytes.
type Kind uint8

// The kinds.
const (
	// NeedMore: every answer is still possible but the bytes end. At the end of
	// the stream, or at the caller's deadline, NeedMore means Opaque.
	NeedMore Kind = iota
	// Opaque: bytes of a protocol that is not looked into.
	Opaque
	// HTTP1: a request line of HTTP/1. Whether it is a good one is for the parser.
	HTTP1
	// HTTP2: the connection preface of RFC 9113, section 3.4.
	HTTP2
	// TLS: a ClientHello.
	TLS
)

func (k Kind) String() string {
	switch k {
	case NeedMore:
		return "need more"
	case Opaque:
		return "opaque"
	case HTTP1:
		return "http/1"
	case HTTP2:
		return "http/2"
	case TLS:
		return "tls"
	}
	return "unknown"
}

// Result is what the first bytes say.
type Result struct {
	Kind Kind
	// SNI is TLS's server name in lower case; "" when the client sent none, one
	// that is no host name, or a hello longer than Limit.
	SNI string
	// ALPN are the protocols that the client offers, in its order; nil as above.
	ALPN []string
	// Hello comes with NeedMore: the bytes begin like a ClientHello, and can't
	// become a request any more.
	Hello bool
}

// Offers reports whether the client offered an ALPN token for which is(token)
// holds.
func (r Result) Offers(is func(token string) bool) bool {
	for _, p := range r.ALPN {
		if is(p) {
			return true
		}
	}
	return false
}

// Detect looks at the first bytes of a stream, all that have arrived so far. It
// borrows peeked for the call.
func Detect(peeked []byte) Result {
	if len(peeked) == 0 {
		return Result{}
	}
	full := len(peeked) >= Limit
	if full {
		peeked = peeked[:Limit]
	}
	if peeked[0] == recordHandshake {
		r := clientHello(peeked, full)
		r.Hello = r.Kind == NeedMore
		return r
	}
	return Result{Kind: requestLine(peeked, full)}
}
