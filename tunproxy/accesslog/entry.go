// Package accesslog writes a line for each request that a pod was asked. It owns
// the formats, which are Linkerd's, and a bounded way from event loops to a file;
// it refuses to know where the file is and which requests are worth a line.
//
// A loop appends a line to a buffer in memory and goes on; one goroutine hands
// what has gathered to the file. While the file takes nothing and the buffer is
// full, lines are dropped and counted.
package accesslog

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Format of a line.
type Format uint8

// The formats.
const (
	// Off: there is no access log.
	Off Format = iota
	// Apache: the client, its identity, the time, the request line and the status,
	// as in the Common Log Format.
	Apache
	// JSON: an object.
	JSON
)

// ParseFormat reads an annotation's value.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "":
		return Off, nil
	case "apache":
		return Apache, nil
	case "json":
		return JSON, nil
	}
	return Off, fmt.Errorf("%q is no format of an access log: want apache or json", s)
}

// maxText bounds what a client can have written of one of its fields, in bytes;
// the rest is cut off.
const maxText = 2048

// Entry is a request with its response.
type Entry struct {
	Client netip.AddrPort
	// ID is the identity that the client proved; zero without one.
	ID   spiffe.ID
	Time time.Time // of the request's head
	// Scheme, Authority and Path are the target. Path is not "/…" for some: "*".
	Method, Scheme, Authority, Path string
	Version                         string
	UserAgent, TraceID              string
	// Status is 0 when the client got no response.
	Status int
	// RequestBytes and ResponseBytes are of the bodies.
	RequestBytes, ResponseBytes int64
	// Head is the time until the response's head, Whole until its end.
	Head, Whole time.Duration
}

// Append adds e's line to dst.
func (f Format) Append(dst []byte, e *Entry) []byte {
	if f == JSON {
		return e.json(dst)
	}
	return e.apache(dst)
}

func (e *Entry) apache(b []byte) []byte {
	b = e.Client.AppendTo(b)
	b = append(b, ' ')
	b = e.appendID(b)
	b = append(b, " - ["...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, "] \""...)
	b = appendPlain(b, e.Method)
	b = append(b, ' ')
	b = e.uri(b, appendPlain)
	b = append(b, ' ')
	b = append(b, e.Version...)
	b = append(b, "\" "...)
	if e.Status == 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, int64(e.Status), 10)
	}
	return append(b, '\n')
}

// appendID writes who the client is; names of identities need no quotes.
func (e *Entry) appendID(b []byte) []byte {
	if e.ID.IsZero() {
		return append(b, '-')
	}
	return e.ID.AppendServerName(b)
}

// uri is the target in absolute form where it has one.
func (e *Entry) uri(b []byte, text func([]byte, string) []byte) []byte {
	if e.Authority != "" && len(e.Path) > 0 && e.Path[0] == '/' {
		b = append(text(b, e.Scheme), "://"...)
		b = text(b, e.Authority)
	} else if e.Path == "" {
		return text(b, e.Authority)
	}
	return text(b, e.Path)
}

func (e *Entry) json(b []byte) []byte {
	field := func(b []byte, name, value string) []byte {
		b = append(append(append(b, `,"`...), name...), `":"`...)
		return append(appendJSON(b, value), '"')
	}
	number := func(b []byte, name string, n int64) []byte {
		b = append(append(append(b, `,"`...), name...), `":"`...)
		return append(strconv.AppendInt(b, n, 10), '"')
	}
	b = append(b, `{"client.addr":"`...)
	b = append(e.Client.AppendTo(b), '"')
	b = append(b, `,"client.id":"`...)
	b = e.appendID(b)
	b = append(b, `","timestamp":"`...)
	b = append(e.Time.UTC().AppendFormat(b, time.RFC3339Nano), '"')
	b = field(b, "method", e.Method)
	b = append(b, `,"uri":"`...)
	b = append(e.uri(b, appendJSON), '"')
	b = field(b, "version", e.Version)
	b = field(b, "trace_id", e.TraceID)
	b = number(b, "request_bytes", e.RequestBytes)
	if e.Status != 0 {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(e.Status), 10)
		b = number(b, "response_bytes", e.ResponseBytes)
		b = number(b, "total_ns", int64(e.Head))
	}
	b = number(b, "duration_ns", int64(e.Whole))
	b = field(b, "user_agent", e.UserAgent)
	b = field(b, "host", e.Authority)
	return append(b, "}\n"...)
}

const hex = "0123456789abcdef"

// appendPlain writes text of a client so that it can neither end a line nor a
// quotation.
func appendPlain(b []byte, s string) []byte {
	for i := range len(s[:min(len(s), maxText)]) {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c >= 0x7f:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

// appendJSON writes text of a client as the inside of a JSON string. What is no
// UTF-8 becomes U+FFFD.
func appendJSON(b []byte, s string) []byte {
	s = s[:min(len(s), maxText)]
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		i++
	}
	return b
}
