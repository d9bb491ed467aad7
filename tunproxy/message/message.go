// Package message is what an HTTP connection and the exchange above it say to
// each other, whatever the version on the wire. It owns the head of a message
// and the two interfaces Stream and Receiver; it refuses to know bytes on the
// wire, connections, routing or policy.
//
// An exchange joins two Streams: the one on which a client's request came in
// (downstream) and the one on which it goes to an endpoint (upstream). It is
// the Receiver of both and passes events across:
//
//	downstream Stream ──Head/Data/Trailers──▶ Receiver ──Send…──▶ upstream Stream
//	downstream Stream ◀──Consumed── Receiver ◀──Drained── upstream Stream
//
// Flow control is end to end and by credit: a Stream delivers at most its
// receive window of unconsumed bytes; Data's bytes are copied into the other
// Stream's output; when they have left for the transport that Stream reports
// Drained(n), and only then Consumed(n) reopens the first window.
package message

// Code is why a stream was aborted: the HTTP/2 error codes of RFC 9113, section 7.
type Code uint32

// The codes of RFC 9113, section 7.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

// String is the code's name in RFC 9113; all unknown ones share one, so that it
// fits as a label.
func (c Code) String() string {
	switch c {
	case NoError:
		return "NO_ERROR"
	case ProtocolError:
		return "PROTOCOL_ERROR"
	case InternalError:
		return "INTERNAL_ERROR"
	case FlowControlError:
		return "FLOW_CONTROL_ERROR"
	case SettingsTimeout:
		return "SETTINGS_TIMEOUT"
	case StreamClosed:
		return "STREAM_CLOSED"
	case FrameSizeError:
		return "FRAME_SIZE_ERROR"
	case RefusedStream:
		return "REFUSED_STREAM"
	case Cancel:
		return "CANCEL"
	case CompressionError:
		return "COMPRESSION_ERROR"
	case ConnectError:
		return "CONNECT_ERROR"
	case EnhanceYourCalm:
		return "ENHANCE_YOUR_CALM"
	case InadequateSecurity:
		return "INADEQUATE_SECURITY"
	case HTTP11Required:
		return "HTTP_1_1_REQUIRED"
	}
	return "UNKNOWN"
}

// Field is one header or trailer field. Name is lower case in HTTP/2 and as
// received in HTTP/1.
type Field struct {
	Name, Value string
	// Sensitive: never indexed by HPACK (RFC 7541, section 7.1.3).
	Sensitive bool
}

// Version is the HTTP version a message was written in.
type Version uint8

// The versions.
const (
	HTTP10 Version = 10
	HTTP11 Version = 11
	HTTP2  Version = 20
)

// Form is the form of an HTTP/1 request target (RFC 9112, section 3.2).
type Form uint8

// The forms.
const (
	Origin    Form = iota // /path?query
	Absolute              // http://host/path
	Authority             // host:port (CONNECT)
	Asterisk              // * (OPTIONS)
)

// Head is the head of a request or a response. A Head passed to a call is
// borrowed for that call; Clone keeps it.
type Head struct {
	// Request line. Authority is :authority or Host; Path is :path (with query).
	Method, Scheme, Authority, Path string
	// Protocol is :protocol of an extended CONNECT (RFC 8441).
	Protocol string

	// Status line; Status is 0 in a request. Reason is HTTP/1's phrase.
	Status int
	Reason string

	// Fields in the order received, without pseudo-header fields. HTTP/1's framing
	// fields (Content-Length, Transfer-Encoding) and Host are kept as received,
	// for their place and spelling; what they say is in ContentLength and
	// Authority, which alone count. HTTP/2's Host is in Authority only.
	Fields []Field

	// Version the sender spoke, and Form of its request target.
	Version Version
	Form    Form
	// ContentLength in bytes; -1 when unknown (chunked, until close, HTTP/2
	// without the field).
	ContentLength int64
	// Untraced: a sidecar decided that the request is not traced, and the next one
	// need not decide again.
	Untraced bool
	// Upgrade: the request asks for (or the 101 grants) a change of protocol,
	// after which the bytes of both directions are opaque Data.
	Upgrade bool
}

// Clone copies h and its field list.
func (h *Head) Clone() *Head {
	c := *h
	c.Fields = append([]Field(nil), h.Fields...)
	return &c
}

// Get is the first value of the field with that name, compared without case.
func (h *Head) Get(name string) (string, bool) {
	for i := range h.Fields {
		if EqualFold(h.Fields[i].Name, name) {
			return h.Fields[i].Value, true
		}
	}
	return "", false
}

// Informational reports a 1xx response head, after which the real one follows.
func (h *Head) Informational() bool { return h.Status >= 100 && h.Status < 200 && h.Status != 101 }

// EqualFold compares names without ASCII case, as those of fields are (RFC 9110,
// section 5.1).
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if 'A' <= x && x <= 'Z' {
			x += 'a' - 'A'
		}
		if 'A' <= y && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

// Stream is one side of an exchange, implemented by HTTP/1 and HTTP/2
// connections. All calls are on the connection's loop. Send calls queue; the
// connection flushes once per pass. After an abort, from either side, every
// call does nothing.
type Stream interface {
	// SetReceiver names who hears this stream. A server connection calls its
	// accept function with the new stream before any event.
	SetReceiver(r Receiver)
	// SendHead sends a request or response head (an informational response may
	// come first, any number of times). end: no body and no trailers follow.
	SendHead(h *Head, end bool)
	// SendData takes a copy of p. end: this was the last.
	SendData(p []byte, end bool)
	// SendTrailers ends this direction with trailer fields.
	SendTrailers(f []Field)
	// Consumed says that n bytes delivered by Receiver.Data are done with.
	Consumed(n int)
	// Abort ends both directions: RST_STREAM with the code, or in HTTP/1 a
	// closed connection.
	Abort(code Code)
	// Delivered reports whether the peer may have acted on what was sent: false
	// is a proof (nothing of it left this process, the peer refused the stream
	// or named a lower last stream id in GOAWAY), and the request may be sent
	// elsewhere without any setting.
	Delivered() bool
}

// Receiver hears a Stream's events. All calls are on the connection's loop and
// never from inside a Stream method.
type Receiver interface {
	// Head: a request or response head; end: nothing follows.
	Head(s Stream, h *Head, end bool)
	// Data: body bytes, borrowed for the call. p may be empty when end is true.
	Data(s Stream, p []byte, end bool)
	// Trailers end this direction; f is borrowed for the call.
	Trailers(s Stream, f []Field)
	// Drained: n bytes given to SendData have left for the transport.
	Drained(s Stream, n int)
	// Aborted is the last event: the peer reset the stream with code, or the
	// connection broke (err says how; code is then Cancel or InternalError).
	Aborted(s Stream, code Code, err error)
}

// Releaser is implemented by a Stream that can be used again for another
// exchange. Release says that the caller is done with it: no call follows, no
// event is delivered any more (a direction that has not ended is cancelled).
// It is called once; not calling it costs an allocation per stream, no more.
type Releaser interface {
	Release()
}
