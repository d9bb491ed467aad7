package exchange

import (
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// request takes the head of the request and asks for an endpoint.
func (x *Exchange) request(h *message.Head, end bool) {
	fields := x.cfg.Spares.copyFields(x.req.Fields, h.Fields)
	x.req = *h
	x.req.Fields = fields
	x.reqEnd = end
	x.began = x.cfg.Loop.Now()
	if t := x.cfg.Translate; t != nil {
		t.Request(&x.req)
	}
	if s := x.cfg.Spares; s != nil && cap(x.req.Fields) > maxFields {
		s.foldLater(x)
	}
	if x.cfg.Began != nil {
		x.cfg.Began()
	}
	x.open()
}

func (x *Exchange) open() {
	x.waiting = true
	x.cfg.Opener.Open(x)
}

// Opened is Opener's good answer. It takes the stream; nothing was sent on it.
func (x *Exchange) Opened(u Upstream) {
	if !x.waiting { // the client left meanwhile
		u.Endpoint.Ended(Canceled, 0)
		u.Stream.Abort(message.Cancel)
		release(u.Stream)
		return
	}
	x.waiting = false
	x.up, x.endpoint, x.translate = u.Stream, u.Endpoint, u.Translate
	x.charged = true
	x.drained = 0
	x.attemptBegan = x.cfg.Loop.Now()
	x.tell()
	x.sent()
	u.Stream.SetReceiver(x)
	h := x.cfg.Spares.draft().copyHead(x.Request())
	if x.translate != nil {
		x.translate.Request(h)
	}
	x.up.SendHead(h, x.reqEnd && len(x.body) == 0 && !x.hasTrailers)
	if len(x.body) > 0 {
		x.up.SendData(x.body, x.reqEnd && !x.hasTrailers)
	}
	if x.hasTrailers {
		x.sendTrailers()
	}
	if len(x.body) > replayLimit {
		x.forget()
	}
	x.guard.sent()
}

func (x *Exchange) sendTrailers() {
	d := x.cfg.Spares.draft()
	d.copy(x.trailers)
	if x.translate != nil {
		d.head.Fields = x.translate.Trailers(d.head.Fields)
	}
	x.up.SendTrailers(d.head.Fields)
}

// forget gives up on replay: the request is too long, or was acted upon.
func (x *Exchange) forget() {
	x.keep = false
	x.dropBody()
	x.trailers = x.trailers[:0]
}

func (x *Exchange) requestData(p []byte, end bool) {
	x.received += int64(len(p))
	x.res.RequestBytes = x.received
	x.res.RequestFrames.add(len(p))
	x.reqEnd = x.reqEnd || end
	if x.discard {
		x.releaseDown()
		x.afterDiscarded()
		return
	}
	if x.up == nil || x.keep {
		// Without an upstream all of it is held: the stream's window bounds it.
		x.hold(p)
	}
	if x.up == nil {
		if x.waiting && x.tooMuch() {
			x.cfg.Opener.Cancel(x)
			x.Fail(ErrOverload)
		}
		return
	}
	x.up.SendData(p, end)
	if x.keep && (len(x.body) > replayLimit || x.tight()) {
		x.forget()
	}
	if end {
		x.guard.sent()
		x.ended()
	}
}

func (x *Exchange) requestTrailers(f []message.Field) {
	x.reqEnd = true
	if t := x.cfg.Translate; t != nil {
		f = t.Trailers(f)
	}
	if x.discard {
		x.afterDiscarded()
		return
	}
	x.hasTrailers = true
	x.trailers = append(x.trailers[:0], f...)
	if x.up != nil {
		x.sendTrailers()
		x.guard.sent()
		x.ended()
	}
}

// upstreamAborted decides what the end of the upstream stream means.
func (x *Exchange) upstreamAborted(code message.Code, err error) {
	up := x.up
	delivered := up.Delivered() && (err == nil || x.cfg.Undelivered == nil || !x.cfg.Undelivered(err))
	unanswered := delivered && err != nil && x.cfg.Unanswered != nil && x.cfg.Unanswered(err) && idempotent(x.req.Method)
	switch {
	case x.respEnd:
		// The response is whole, if still on its way down; the server does not
		// want the request's rest.
		x.releaseUp()
		x.leaveUp()
		x.dropUpload()
	case x.respHead:
		x.releaseUp()
		x.leaveUp()
		x.breakResponse(code, err)
	case (!delivered || unanswered) && x.keep && len(x.tried)+1 < maxAttempts:
		x.leaveUp()
		a := x.answerOf(code, err)
		a.Redelivered = true
		x.left(a)
		x.endAttempt(Undelivered)
		if unanswered {
			x.tried = append(x.tried, nil) // it turned nothing down
		} else {
			x.tried = append(x.tried, x.endpoint)
		}
		x.res.Retries++
		x.open()
	case delivered && x.guard.takesBreak(code, err):
	default:
		x.releaseUp()
		x.leaveUp()
		x.failed(delivered, code, err)
	}
}

// idempotent methods may be sent again (RFC 9110, section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// failed ends an exchange whose endpoint gave no response.
func (x *Exchange) failed(delivered bool, code message.Code, err error) {
	switch {
	case !delivered && x.cfg.RefuseUndelivered:
		x.refuse(Undelivered)
	case !delivered:
		x.answer(ErrRefusedEverywhere.with(err), Undelivered)
	case err != nil:
		x.answer(ErrBroken.with(err), Failure)
	case x.req.Version == message.HTTP2:
		x.reset(code)
	default:
		x.answer(ErrReset, Failure)
	}
}

// Fail is Opener's bad answer: no endpoint for this request.
func (x *Exchange) Fail(e *Error) {
	if !x.waiting {
		return
	}
	x.waiting = false
	if e.Elsewhere && x.cfg.RefuseUndelivered {
		x.refuse(Undelivered)
		return
	}
	x.answer(e, Undelivered)
}
