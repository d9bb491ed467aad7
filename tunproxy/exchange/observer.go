package exchange

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// An Observer hears of exchanges, on their loop; it never blocks and keeps
// nothing that it is given.
type Observer interface {
	// Request: the head arrived, x.Request has it, and x.Endpoint is where it
	// goes first; nil when there is no endpoint for it.
	Request(x *Exchange)
	// Response: the final response head is about to go down.
	Response(x *Exchange, h *message.Head)
	// End: both directions are over, or the exchange broke. It is called once
	// for each Request.
	End(x *Exchange, r *Result)
}

// Attempts hears of each time that a request goes to an endpoint: once for most,
// more often for those that are sent again. It is called on the loop and keeps
// nothing that it is given.
type Attempts interface {
	// Sent: the request goes to x.Endpoint().
	Sent(x *Exchange)
	// Over: that is over, before the endpoint is told so. It is called once for
	// each Sent.
	Over(x *Exchange, a Answer)
}

// Answer is how a request went at one endpoint.
type Answer struct {
	Status     int // 0 without a response head
	GRPCStatus int // NoGRPCStatus without one
	WasReset   bool
	Reset      message.Code
	// ProxyError names the error for which the sidecar answers; "": it does not.
	ProxyError string
	// Total is the time to the end; from the request's head for the first
	// endpoint, else from when the request was sent to this one.
	Total time.Duration
	// Redelivered: the endpoint did not act on the request, as far as the
	// protocol or the method lets one know, and it goes to another by itself.
	Redelivered bool
}

// sent tells that the request goes to the current endpoint.
func (x *Exchange) sent() {
	if a := x.cfg.Attempts; a != nil && !x.Quiet {
		x.counted = true
		a.Sent(x)
	}
}

// left tells how it went there.
func (x *Exchange) left(a Answer) {
	if !x.counted {
		return
	}
	x.counted = false
	began := x.began
	if x.res.Retries > 0 {
		began = x.attemptBegan
	}
	a.Total = x.cfg.Loop.Now() - began
	x.cfg.Attempts.Over(x, a)
}

// answerOf is an endpoint's that broke: what the client would get of it.
func (x *Exchange) answerOf(code message.Code, err error) Answer {
	switch {
	case err != nil:
		return x.answerFor(ErrBroken)
	case x.req.Version == message.HTTP2:
		return Answer{GRPCStatus: NoGRPCStatus, WasReset: true, Reset: code}
	}
	return x.answerFor(ErrReset)
}

// answerFor is that of an endpoint for which the sidecar answers.
func (x *Exchange) answerFor(e *Error) Answer {
	if x.isGRPC() {
		return Answer{Status: 200, GRPCStatus: e.GRPCStatus, ProxyError: e.Name}
	}
	return Answer{Status: e.Status, GRPCStatus: NoGRPCStatus, ProxyError: e.Name}
}

// NoGRPCStatus is a Result's GRPCStatus when there was none.
const NoGRPCStatus = -1

// Result is how an exchange went.
type Result struct {
	// Status is 0 when no response head went down.
	Status int
	// GRPCStatus is the value of grpc-status; NoGRPCStatus without one.
	GRPCStatus int
	// WasReset: the stream ended with Reset instead of a whole response.
	WasReset bool
	Reset    message.Code
	// ProxyError names an error response made by this sidecar, or why it ended a
	// response that had begun; "" otherwise.
	ProxyError string
	// Err says what broke; nil for a whole response of an endpoint.
	Err error
	// Retries counts endpoints that turned the request down, or had it and did
	// not satisfy, before the last.
	Retries int

	RequestBytes, ResponseBytes int64
	// RequestFrames and ResponseFrames are the pieces in which bodies came.
	RequestFrames, ResponseFrames Frames
	// FirstByte and Total are times since the request's head; FirstByte is 0
	// without a response head.
	FirstByte, Total time.Duration
	// Trailers of the response, as they went down.
	Trailers []message.Field
}

// Frames counts pieces of a body by size: up to 128 bytes, 1 KB, 10 KB (Linkerd's
// buckets), and larger ones.
type Frames struct {
	Sizes [4]uint32
	Bytes uint64
}

func (f *Frames) add(n int) {
	switch {
	case n == 0:
		return
	case n <= 128:
		f.Sizes[0]++
	case n <= 1024:
		f.Sizes[1]++
	case n <= 10240:
		f.Sizes[2]++
	default:
		f.Sizes[3]++
	}
	f.Bytes += uint64(n)
}

// Failed classifies as Linkerd does: a status of 5xx, a gRPC status that says
// the server failed, or a response that is not whole.
func (r *Result) Failed() bool {
	if r.WasReset && r.Reset != message.NoError || r.Status >= 500 || r.Status == 0 {
		return true
	}
	return failing(r.GRPCStatus)
}

// failing reports a gRPC status that says the server failed.
func failing(code int) bool {
	switch code {
	case 2, 4, 13, 14, 15: // unknown, deadline exceeded, internal, unavailable, data loss
		return true
	}
	return false
}

// outcomeOf sorts an answer for the balancer.
func outcomeOf(status, grpc int, failed bool) Outcome {
	switch {
	case failed:
		return Failure
	case status == 429, grpc == grpcResourceExhausted:
		return Limited
	}
	return Success
}
