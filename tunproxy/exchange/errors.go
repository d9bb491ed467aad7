package exchange

import (
	"errors"
	"strconv"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// The gRPC status codes that sidecars make.
const (
	grpcCanceled          = 1
	grpcDeadlineExceeded  = 4
	grpcNotFound          = 5
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcInternal          = 13
	grpcUnavailable       = 14
)

// Error is a response that the sidecar makes instead of an endpoint's.
type Error struct {
	// Status is the HTTP status, GRPCStatus the code for gRPC clients.
	Status, GRPCStatus int
	// Name is the value of x-tunmesh-proxy-error and of metrics' error label:
	// a few words that do not vary.
	Name string
	// Elsewhere: no endpoint acted on the request, and one that this sidecar
	// does not know might.
	Elsewhere bool
	// Cause is for people, in the response's body and in logs; may be nil.
	Cause error
}

// The errors of docs/design/0001.
var (
	ErrDenied            = &Error{Status: 403, GRPCStatus: grpcPermissionDenied, Name: "unauthorized"}
	ErrNoRoute           = &Error{Status: 404, GRPCStatus: grpcNotFound, Name: "no route"}
	ErrRefusedEverywhere = &Error{Status: 502, GRPCStatus: grpcUnavailable, Name: "connect failed", Elsewhere: true}
	ErrBroken            = &Error{Status: 502, GRPCStatus: grpcUnavailable, Name: "connection broken"}
	ErrReset             = &Error{Status: 502, GRPCStatus: grpcUnavailable, Name: "reset by the endpoint"}
	ErrNoEndpoint        = &Error{Status: 503, GRPCStatus: grpcUnavailable, Name: "no endpoint", Elsewhere: true}
	ErrOverload          = &Error{Status: 503, GRPCStatus: grpcUnavailable, Name: "too many requests waiting", Elsewhere: true}
	ErrTimeout           = &Error{Status: 504, GRPCStatus: grpcUnavailable, Name: "no endpoint in time", Elsewhere: true}
	ErrFailfast          = &Error{Status: 504, GRPCStatus: grpcUnavailable, Name: "failfast", Elsewhere: true}
	ErrRequestTimeout    = &Error{Status: 504, GRPCStatus: grpcDeadlineExceeded, Name: "request timeout"}
	ErrResponseTimeout   = &Error{Status: 504, GRPCStatus: grpcDeadlineExceeded, Name: "response timeout"}
	ErrIdleTimeout       = &Error{Status: 504, GRPCStatus: grpcDeadlineExceeded, Name: "idle timeout"}
	ErrMalformed         = &Error{Status: 400, GRPCStatus: grpcInternal, Name: "malformed request"}
)

// ErrRevoked is why an exchange ended that was not allowed any more.
var ErrRevoked = errors.New("policy does not allow this any more")

// with is e with a cause.
func (e *Error) with(cause error) *Error {
	if cause == nil {
		return e
	}
	c := *e
	c.Cause = cause
	return &c
}

// With is e with a cause, for Openers that know one.
func (e *Error) With(cause error) *Error { return e.with(cause) }

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Name + ": " + e.Cause.Error()
	}
	return e.Name
}

func (e *Error) Unwrap() error { return e.Cause }

// response is the error as an HTTP response, or for gRPC clients as one that
// consists of its trailers. The body is empty in answers to HEAD.
func (e *Error) response(grpc, head bool) (*message.Head, []byte) {
	h := &message.Head{Version: message.HTTP2}
	if grpc {
		h.Status = 200
		h.Fields = append([]message.Field{{Name: "content-type", Value: "application/grpc"}}, grpcTrailers(e)...)
		return h, nil
	}
	body := []byte(e.Error() + "\n")
	h.Status = e.Status
	h.Version = message.HTTP11
	h.Reason = reason(e.Status)
	h.ContentLength = int64(len(body))
	h.Fields = []message.Field{
		{Name: "content-type", Value: "text/plain"},
		{Name: "content-length", Value: strconv.Itoa(len(body))},
		{Name: hop.FieldProxyError, Value: e.Name},
	}
	if head {
		return h, nil
	}
	return h, body
}

func grpcTrailers(e *Error) []message.Field {
	return []message.Field{
		{Name: "grpc-status", Value: strconv.Itoa(e.GRPCStatus)},
		{Name: "grpc-message", Value: grpcMessage(e.Error())},
		{Name: hop.FieldProxyError, Value: e.Name},
	}
}

// grpcMessage escapes as gRPC over HTTP/2 wants it: percent-encoded outside
// printable ASCII.
func grpcMessage(s string) string {
	const hex = "0123456789ABCDEF"
	clean := true
	for i := range len(s) {
		clean = clean && s[i] >= ' ' && s[i] <= '~' && s[i] != '%'
	}
	if clean {
		return s
	}
	b := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

func reason(status int) string {
	switch status {
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	}
	return ""
}

// isGRPC reports whether the client speaks gRPC (content-type application/grpc
// or application/grpc+…).
func (x *Exchange) isGRPC() bool {
	const grpc = "application/grpc"
	v, ok := x.RequestField("content-type")
	return ok && len(v) >= len(grpc) && v[:len(grpc)] == grpc && (len(v) == len(grpc) || v[len(grpc)] == '+' || v[len(grpc)] == ';')
}
