package exchange

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

const (
	// replayLimit is how much of a request's body is kept, in bytes, so that a
	// refused request can be sent elsewhere (Linkerd's figure for retries).
	replayLimit = 64 << 10
	// maxAttempts bounds how many endpoints one request is offered to: enough
	// to get past a node's worth of dead ones, not a walk over a large Service.
	maxAttempts = 10
)

// An Opener finds endpoints for requests.
type Opener interface {
	// Open finds an endpoint for x's request and a stream to it. It calls
	// x.Opened or x.Fail once, on the loop, maybe from inside. x.Tried tells
	// which endpoints have turned this request down already.
	Open(x *Exchange)
	// Cancel: x no longer waits for Open's answer.
	Cancel(x *Exchange)
}

// An Endpoint is where a stream leads, for accounting. It outlives exchanges.
type Endpoint interface {
	// Ended tells how an attempt went: wait is the time to the response's head,
	// or for how long there was none.
	Ended(o Outcome, wait time.Duration)
}

// Outcome of an attempt, as a balancer wants to know it.
type Outcome uint8

// The outcomes.
const (
	// Success: a response that is not a failure of the server.
	Success Outcome = iota
	// Failure: status 5xx, a failing gRPC status, a reset, a broken connection.
	Failure
	// Undelivered: the endpoint provably did not act on the request.
	Undelivered
	// Limited: the endpoint said that it has too much to do (429, or gRPC's
	// RESOURCE_EXHAUSTED).
	Limited
	// Canceled: the client left; this says nothing about the endpoint.
	Canceled
)

// A Translator rewrites heads in place for the connection they leave on or
// came from. Fields may be appended to or removed from.
type Translator interface {
	Request(h *message.Head)
	Response(h *message.Head)
	// Trailers returns the fields to send, in f's array where possible.
	Trailers(f []message.Field) []message.Field
}

// Upstream is Opener's answer.
type Upstream struct {
	// Stream is new: nothing was sent on it. The exchange takes it.
	Stream   message.Stream
	Endpoint Endpoint
	// Translate prepares requests for this connection and reads its responses;
	// nil: as they are.
	Translate Translator
}

// Config is what the exchanges of a connection have in common.
type Config struct {
	Loop   aio.Loop
	Opener Opener
	// Observers hear of each exchange, in order.
	Observers []Observer
	// Attempts hears of each endpoint that a request goes to; nil: nobody does.
	Attempts Attempts
	// Translate reads requests of the downstream connection and prepares
	// responses for it; nil: as they are.
	Translate Translator
	// RefuseUndelivered answers a request that reached no endpoint with
	// REFUSED_STREAM instead of an error response: downstream is another
	// sidecar, which may know more endpoints (docs/design/0001).
	RefuseUndelivered bool
	// Undelivered reports whether an upstream connection that broke with err
	// proves that the peer acted on nothing of it (a refused handshake that
	// shows late); nil: no error does.
	Undelivered func(err error) bool
	// Unanswered reports whether err ended an upstream connection that had
	// served before, with nothing of this response come. The server may have
	// closed it while it was idle, so that a request whose method is idempotent
	// is sent again (RFC 9110, section 9.2.2); nil: no error does.
	Unanswered func(err error) bool
	// Flow is the downstream connection, for observers.
	Flow *flow.Secured
	// Spares are the loop's exchanges for another use; nil: each is made anew.
	Spares *Spares
	// Began and Ended count exchanges in flight; may be nil. Ended is called
	// exactly once for each Began.
	Began, Ended func()
}

// An Exchange is one request and its response. It is the Receiver of both streams.
type Exchange struct {
	cfg  *Config
	down message.Stream
	up   message.Stream // nil while there is none

	endpoint  Endpoint
	translate Translator
	tried     []Endpoint

	req         message.Head    // our own copy; Request has its fields, too
	folded      fold            // its fields, where they are many; nil: they never were put away
	unfolded    bool            // req has many fields, which are to be put away
	body        []byte          // received: all of it until keep is false
	keep        bool            // body still holds everything from the first byte
	trailers    []message.Field // of the request, kept for replay
	hasTrailers bool

	reqEnd, respHead, respEnd bool
	waiting                   bool // Open was called and has not answered
	charged                   bool // endpoint waits for its Ended
	counted                   bool // Attempts waits for its Over
	discard                   bool // the request's rest is of no use to anybody
	told                      bool // observers know of the request
	over                      bool // and of its end
	downGone                  bool // the downstream stream was aborted, by either side
	retired                   bool // no stream is held any more
	kept                      bool // a stream may still call: never used again

	received    int64 // request body bytes from downstream
	drained     int64 // of the current attempt, bytes that left for the transport
	consumed    int64 // given back to downstream
	discardFrom int64 // received when discarding began
	upOwed      int   // response bytes not yet given back to upstream
	downOwed    int   // response bytes that downstream has not drained yet

	began, attemptBegan time.Duration
	res                 Result
	guard               *guard // nil: under no terms
	spareGuard          *guard // of an earlier use, or guard

	// Waiting is the Opener's own, between Open and its answer; Own is its own
	// for as long as the exchange lasts.
	Waiting, Own any
	// Quiet is set by the Opener before its answer: observers are not told of
	// this exchange (a probe of the kubelet's).
	Quiet bool
	// Span is the tracer's, from Request to End.
	Span any
	// Memo is for one of the observers to keep something from Request to End.
	Memo any
}

// Serve takes the exchange that begins on a new downstream stream. It fits as
// the accept function of a server connection.
func (c *Config) Serve(s message.Stream) {
	x := c.Spares.take()
	x.cfg, x.down, x.keep = c, s, true
	x.res.GRPCStatus = NoGRPCStatus
	s.SetReceiver(x)
}

// Request is the request's head as the client sent it. It is the exchange's own;
// its list of fields is of use until the end of the loop's pass, and observers may
// change it when they are told of the request.
func (x *Exchange) Request() *message.Head {
	if x.folded != nil && !x.unfolded {
		x.unfold()
	}
	return &x.req
}

// RequestField is the first value of a field of the request, compared without case:
// what Request().Get is, without having all of a long head's.
func (x *Exchange) RequestField(name string) (string, bool) {
	if x.folded != nil && !x.unfolded {
		return x.folded.get(name)
	}
	return x.req.Get(name)
}

// Authority is the request's, as Request has it.
func (x *Exchange) Authority() string { return x.req.Authority }

// Tried reports whether an endpoint has turned this request down.
func (x *Exchange) Tried(e Endpoint) bool {
	for _, t := range x.tried {
		if t == e {
			return true
		}
	}
	return false
}

// TurnedDown notes an endpoint that an Opener asked in vain before its answer.
func (x *Exchange) TurnedDown(e Endpoint) {
	x.tried = append(x.tried, e)
	x.res.Retries++
}

// Exhausted reports that the request has been offered to enough endpoints.
func (x *Exchange) Exhausted() bool { return len(x.tried) >= maxAttempts }

// Attempts is the number of endpoints that have turned this request down.
func (x *Exchange) Attempts() int { return len(x.tried) }

// Endpoint is where the request went last; nil before the first.
func (x *Exchange) Endpoint() Endpoint { return x.endpoint }

// Opener is who was asked for this exchange's endpoint.
func (x *Exchange) Opener() Opener { return x.cfg.Opener }

// Flow is the downstream connection.
func (x *Exchange) Flow() *flow.Secured { return x.cfg.Flow }

// Began is the loop's time when the request's head arrived.
func (x *Exchange) Began() time.Duration { return x.began }

// Head implements message.Receiver.
func (x *Exchange) Head(s message.Stream, h *message.Head, end bool) {
	x.guard.event()
	switch s {
	case x.down:
		x.request(h, end)
	case x.up:
		x.response(h, end)
	}
}

// Data implements message.Receiver.
func (x *Exchange) Data(s message.Stream, p []byte, end bool) {
	x.guard.event()
	switch s {
	case x.down:
		x.requestData(p, end)
	case x.up:
		x.responseData(p, end)
	}
}

// Trailers implements message.Receiver.
func (x *Exchange) Trailers(s message.Stream, f []message.Field) {
	x.guard.event()
	switch s {
	case x.down:
		x.requestTrailers(f)
	case x.up:
		x.responseTrailers(f)
	}
}

// Drained implements message.Receiver: what left one side reopens the other's window.
func (x *Exchange) Drained(s message.Stream, n int) {
	x.guard.event()
	switch s {
	case x.up:
		x.drained += int64(n)
		if d := x.drained - x.consumed; d > 0 && !x.discard {
			x.consumed += d
			x.down.Consumed(int(d))
		}
	case x.down:
		x.downOwed -= n
		// What the sidecar itself answers is owed to nobody.
		if n = min(n, x.upOwed); n > 0 {
			x.upOwed -= n
			x.up.Consumed(n)
		}
	}
}

// Aborted implements message.Receiver.
func (x *Exchange) Aborted(s message.Stream, code message.Code, err error) {
	switch s {
	case x.up:
		x.upstreamAborted(code, err)
	case x.down:
		x.downstreamAborted(code, err)
	}
}

// Revoke ends the exchange at once, in both directions: whoever let it begin
// does not allow it any more. It is not called from inside a Stream's or an
// Opener's method.
func (x *Exchange) Revoke() {
	if x.over {
		return
	}
	x.down.Abort(message.Cancel)
	x.downstreamAborted(message.Cancel, ErrRevoked)
}

func (x *Exchange) downstreamAborted(code message.Code, err error) {
	x.downGone = true
	if x.waiting {
		x.waiting = false
		x.cfg.Opener.Cancel(x)
	}
	if x.up != nil {
		x.releaseUp()
		if code == message.NoError && !x.respEnd {
			code = message.Cancel
		}
		x.up.Abort(code)
		x.leaveUp()
	}
	x.dropBody()
	if x.respEnd { // only the rest of the request was cut off
		x.reqEnd = true
		x.ended()
		return
	}
	x.res.Err = err
	x.res.Reset, x.res.WasReset = code, true
	x.finish(Canceled)
}

// releaseUp gives back all of the upstream connection's window that the
// response still holds.
func (x *Exchange) releaseUp() {
	if x.upOwed > 0 {
		n := x.upOwed
		x.upOwed = 0
		x.up.Consumed(n)
	}
}

// releaseDown gives back the downstream window that the request still holds.
func (x *Exchange) releaseDown() {
	if d := x.received - x.consumed; d > 0 {
		x.consumed += d
		x.down.Consumed(int(d))
	}
}

// ended closes the exchange's books when both directions are over.
func (x *Exchange) ended() {
	if x.reqEnd && x.respEnd {
		x.finish(outcomeOf(x.res.Status, x.res.GRPCStatus, x.res.Failed()))
	}
}

// finish tells the endpoint and the observers, once.
func (x *Exchange) finish(o Outcome) {
	if !x.over {
		x.over = true
		x.guard.stop()
		x.report(o)
	}
	x.retire()
}

func (x *Exchange) report(o Outcome) {
	if x.req.Method == "" {
		return // no request head ever came
	}
	x.tell()
	x.res.Total = x.cfg.Loop.Now() - x.began
	if !x.Quiet {
		for _, ob := range x.cfg.Observers {
			ob.End(x, &x.res)
		}
	}
	x.left(Answer{Status: x.res.Status, GRPCStatus: x.res.GRPCStatus, WasReset: x.res.WasReset, Reset: x.res.Reset, ProxyError: x.res.ProxyError})
	x.endAttempt(o)
	if x.cfg.Ended != nil {
		x.cfg.Ended()
	}
}

// tell lets observers know of the request, once, when its first endpoint is
// known or there will be none.
func (x *Exchange) tell() {
	if x.told || x.Quiet {
		return
	}
	x.told = true
	for _, ob := range x.cfg.Observers {
		ob.Request(x)
	}
	if x.unfolded {
		x.folded = nil // they may have changed the list (a trace's parent)
	}
}

// endAttempt settles the account with the current endpoint.
func (x *Exchange) endAttempt(o Outcome) {
	x.guard.attemptOver()
	if e := x.endpoint; e != nil && x.charged {
		x.charged = false
		until := x.cfg.Loop.Now()
		if x.respHead {
			until = x.began + x.res.FirstByte
		}
		if !x.guard.judge(o, until-x.attemptBegan) {
			e.Ended(o, until-x.attemptBegan)
		}
	}
}

var _ message.Receiver = (*Exchange)(nil)
