package exchange

import (
	"strconv"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// retrying is a guard's part that sends requests again.
//
//	sent ──head that asks for it, broken, or too late──▶ pause ──▶ Opener.Open ──▶ sent
//	 └─ gRPC: a head alone says nothing; it is held until something follows it, for
//	    headHold at most
type retrying struct {
	n      int        // how often the request was sent again
	failed []Endpoint // those that answered and did not satisfy
	pause  aio.Timer  // this and the next: as a guard's
	try    aio.Timer
	hold   aio.Timer
	held   bool
	head   message.Head // while held
}

// headHold is how long a gRPC call's head waits for what follows it. Servers that
// set header fields and then fail send a head and trailers in two writes, between
// which a busy machine may lie.
const headHold = 50 * time.Millisecond

// Failed reports whether an endpoint has had this request, and did not satisfy.
func (x *Exchange) Failed(e Endpoint) bool {
	if x.guard == nil {
		return false
	}
	for _, f := range x.guard.retry.failed {
		if f == e {
			return true
		}
	}
	return false
}

// Retried reports whether the request was sent again after an answer.
func (x *Exchange) Retried() bool { return x.guard != nil && x.guard.retry.n > 0 }

// takes decides about a response's head, and reports whether the guard took it:
// the client does not see it, or not yet. g may be nil.
func (g *guard) takes(h *message.Head, end bool) bool {
	if g == nil || g.terms.Policy.Retry == nil {
		return false
	}
	if g.x.isGRPC() && h.Status == 200 {
		if end {
			return g.judgeCode(h.Fields)
		}
		g.hold(h)
		return true
	}
	r := g.terms.Policy.Retry
	if !r.Status(h.Status) {
		g.satisfied()
		return false
	}
	return g.again(outcomeOf(h.Status, NoGRPCStatus, h.Status >= 500), g.after(h), Answer{Status: h.Status, GRPCStatus: NoGRPCStatus})
}

// takesTrailers does the same for trailers of a response whose head is held. g
// may be nil.
func (g *guard) takesTrailers(f []message.Field) bool {
	if g == nil || !g.retry.held {
		return false
	}
	if g.judgeCode(f) {
		g.dropHead()
		return true
	}
	g.releaseHead()
	return false
}

// judgeCode decides by the status of a gRPC call.
func (g *guard) judgeCode(f []message.Field) bool {
	code := grpcStatus(f)
	if !g.terms.Policy.Retry.Code(code) {
		g.satisfied()
		return false
	}
	wait := time.Duration(0)
	for i := range f {
		if f[i].Name == "grpc-retry-pushback-ms" {
			wait = resilience.Pushback(f[i].Value)
		}
	}
	return g.again(outcomeOf(0, code, failing(code)), wait, Answer{Status: 200, GRPCStatus: code})
}

// releaseHead lets the held head go to the client, as what followed it says
// nothing that asks for another try. g may be nil.
func (g *guard) releaseHead() {
	if g == nil || !g.retry.held {
		return
	}
	g.dropHead()
	if !g.x.over {
		g.satisfied()
		g.x.respond(&g.retry.head, false)
	}
}

// dropHead ends the holding of a head, which is not sent.
func (g *guard) dropHead() {
	stop(g.retry.hold)
	g.retry.held = false
}

// hold keeps a head for what follows it. A client that has more to say may wait for
// the head before it does: then no longer than to the end of the loop's pass.
func (g *guard) hold(h *message.Head) {
	fields := append(g.retry.head.Fields[:0], h.Fields...)
	g.retry.head, g.retry.held = *h, true
	g.retry.head.Fields = fields
	if g.x.reqEnd {
		g.arm(&g.retry.hold, headHold, g.onHeld)
		return
	}
	g.x.cfg.Loop.Defer(g.onHeld)
}

// takesBreak decides about an endpoint that broke without a response: it counts
// as the answer that the client would get. g may be nil.
func (g *guard) takesBreak(code message.Code, err error) bool {
	if g == nil || g.terms.Policy.Retry == nil {
		return false
	}
	g.dropHead()
	r := g.terms.Policy.Retry
	if g.x.isGRPC() {
		return r.Code(brokenCode(code, err)) && g.again(Failure, 0, g.x.answerOf(code, err))
	}
	return r.Status(ErrBroken.Status) && g.again(Failure, 0, g.x.answerOf(code, err))
}

// brokenCode is the gRPC status that a client makes of a reset.
func brokenCode(code message.Code, err error) int {
	switch {
	case err != nil:
		return grpcUnavailable
	case code == message.Cancel:
		return grpcCanceled
	case code == message.EnhanceYourCalm:
		return grpcResourceExhausted
	case code == message.RefusedStream:
		return grpcUnavailable
	}
	return grpcInternal
}

// after is how long an endpoint asks to be left alone.
func (g *guard) after(h *message.Head) time.Duration {
	v, ok := h.Get("retry-after")
	if !ok {
		return 0
	}
	now := time.Now
	if g.terms.Now != nil {
		now = g.terms.Now
	}
	wait, _ := resilience.RetryAfter(v, now())
	return wait
}

// again sends the request once more, if that is allowed and of use. The endpoint
// asks not to be asked again for a while: another one may be.
func (g *guard) again(o Outcome, rest time.Duration, a Answer) bool {
	x, r := g.x, g.terms.Policy.Retry
	if !x.keep {
		return false // too long, or a response went down
	}
	if g.retry.n >= r.Limit {
		g.tell(Retries.LimitExceeded)
		return false
	}
	pause := r.Backoff.Pause(g.retry.n, g.terms.Rand())
	if rest > pause && !g.elsewhere(rest) {
		return false
	}
	if !g.terms.Budget.Take(x.cfg.Loop.Now()) {
		g.tell(Retries.Overflowed)
		return false
	}
	g.tell(Retries.Retried)
	x.releaseUp()
	x.up.Abort(message.Cancel)
	x.leaveUp()
	g.retry.failed = append(g.retry.failed, x.endpoint)
	x.left(a)
	x.endAttempt(o)
	g.retry.n++
	x.res.Retries++
	g.arm(&g.retry.pause, pause, g.onPause)
	return true
}

// elsewhere reports whether another endpoint could have the request, this one
// being left alone.
func (g *guard) elsewhere(rest time.Duration) bool {
	if rest == resilience.Never {
		return false
	}
	c, ok := g.x.cfg.Opener.(Chooser)
	if !ok {
		return false
	}
	g.retry.failed = append(g.retry.failed, g.x.endpoint)
	found := c.Elsewhere(g.x)
	g.retry.failed = g.retry.failed[:len(g.retry.failed)-1]
	return found
}

func (g *guard) reopen() {
	if !g.x.over {
		g.x.open()
	}
}

// armTry begins to wait for a response's head, while another try is left.
func (g *guard) armTry() {
	r := g.terms.Policy.Retry
	if r == nil || r.Timeout <= 0 || g.retry.n >= r.Limit || g.x.respHead {
		return
	}
	g.arm(&g.retry.try, r.Timeout, g.onTry)
}

// tryExpired: an endpoint takes long. If there can't be another try, nobody gains
// from giving up on this one.
func (g *guard) tryExpired() {
	if !g.x.over && !g.x.respHead && g.x.up != nil && !g.retry.held {
		g.again(Failure, 0, g.x.answerFor(ErrResponseTimeout))
	}
}

// satisfied: a response asks for no retry.
func (g *guard) satisfied() {
	stop(g.retry.try)
	if g.retry.n > 0 {
		g.tell(Retries.Succeeded)
	}
}

func (g *guard) tell(what func(Retries)) {
	if r := g.terms.Retries; r != nil {
		what(r)
	}
}

// grpcStatus is the status of a gRPC call; NoGRPCStatus without one.
func grpcStatus(f []message.Field) int {
	for i := range f {
		if f[i].Name == "grpc-status" {
			if n, err := strconv.Atoi(f[i].Value); err == nil && n >= 0 {
				return n
			}
			break
		}
	}
	return NoGRPCStatus
}
