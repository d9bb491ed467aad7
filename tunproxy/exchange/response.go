package exchange

import (
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// discardLimit bounds how much of a request's rest is read and dropped after
// its response, in bytes; a client that still goes on is cut off.
const discardLimit = 1 << 20

// stopAfter is how much an HTTP/2 client may send after a response that has
// left before it is asked to stop: a window's worth is under way anyway.
const stopAfter = 64 << 10

func (x *Exchange) response(h *message.Head, end bool) {
	h = x.cfg.Spares.draft().copyHead(h)
	if x.translate != nil {
		x.translate.Response(h)
	}
	if t := x.cfg.Translate; t != nil {
		t.Response(h)
	}
	if h.Informational() {
		x.down.SendHead(h, false)
		return
	}
	x.guard.note(h)
	if x.guard.takes(h, end) {
		return
	}
	x.respond(h, end)
}

// respond lets the final head of a response go down. After it nothing is repeated.
func (x *Exchange) respond(h *message.Head, end bool) {
	x.respHead = true
	x.forget()
	if x.guard != nil {
		x.guard.begins(h, end)
	}
	x.res.Status = h.Status
	x.res.FirstByte = x.cfg.Loop.Now() - x.began
	if end { // gRPC calls this "trailers only"
		x.noteGRPC(h.Fields)
	}
	x.tellResponse(h)
	x.down.SendHead(h, end)
	if end {
		x.responseEnded()
	}
}

func (x *Exchange) tellResponse(h *message.Head) {
	x.tell()
	if x.Quiet {
		return
	}
	for _, ob := range x.cfg.Observers {
		ob.Response(x, h)
	}
}

func (x *Exchange) responseData(p []byte, end bool) {
	x.guard.releaseHead()
	x.guard.answers()
	x.upOwed += len(p)
	x.downOwed += len(p)
	x.res.ResponseBytes += int64(len(p))
	x.res.ResponseFrames.add(len(p))
	x.down.SendData(p, end)
	if end {
		x.responseEnded()
	}
}

func (x *Exchange) responseTrailers(f []message.Field) {
	if x.guard.takesTrailers(f) {
		return
	}
	x.noteGRPC(f)
	d := x.cfg.Spares.draft()
	f = d.copy(f)
	if x.translate != nil {
		f = x.translate.Trailers(f)
	}
	if t := x.cfg.Translate; t != nil {
		f = t.Trailers(f)
	}
	d.head.Fields = f
	x.res.Trailers = append(x.res.Trailers[:0], f...)
	x.down.SendTrailers(f)
	x.responseEnded()
}

// responseEnded: the request may still be under way (an early response); the
// endpoint then says whether it wants the rest.
func (x *Exchange) responseEnded() {
	x.respEnd = true
	x.guard.stop()
	x.ended()
}

// noteGRPC looks for the status of a gRPC call.
func (x *Exchange) noteGRPC(f []message.Field) {
	if n := grpcStatus(f); n != NoGRPCStatus {
		x.res.GRPCStatus = n
	}
}

// breakResponse ends a response that began and can't be completed.
func (x *Exchange) breakResponse(code message.Code, err error) {
	if err != nil {
		x.cut(message.InternalError, ErrBroken.with(err))
		return
	}
	x.reset(code)
}

// cut ends a response that began with an error of the sidecar's: in trailers for
// gRPC clients, else with a reset.
func (x *Exchange) cut(code message.Code, e *Error) {
	x.res.Err = e
	if !x.isGRPC() || x.req.Version != message.HTTP2 {
		x.reset(code)
		return
	}
	x.res.GRPCStatus = e.GRPCStatus
	x.down.SendTrailers(grpcTrailers(e))
	x.respEnd = true
	x.dropUpload()
	x.finish(Failure)
}

// reset passes a reset on to the client.
func (x *Exchange) reset(code message.Code) {
	x.res.Reset, x.res.WasReset = code, true
	x.down.Abort(code)
	x.downGone = true
	x.dropBody()
	x.discard = true
	x.finish(Failure)
}

// refuse tells a sidecar downstream that this one did not act on its request.
func (x *Exchange) refuse(o Outcome) {
	x.res.Reset, x.res.WasReset = message.RefusedStream, true
	x.down.Abort(message.RefusedStream)
	x.downGone = true
	x.dropBody()
	x.discard = true
	x.finish(o)
}

// answer makes the response itself.
func (x *Exchange) answer(e *Error, o Outcome) {
	x.res.Err, x.res.ProxyError = e, e.Name
	h, body := e.response(x.isGRPC(), x.req.Method == "HEAD")
	x.res.Status, x.res.FirstByte = h.Status, x.cfg.Loop.Now()-x.began
	if x.isGRPC() {
		x.res.GRPCStatus = e.GRPCStatus
	}
	if t := x.cfg.Translate; t != nil {
		t.Response(h)
	}
	x.tellResponse(h)
	x.down.SendHead(h, len(body) == 0)
	if len(body) > 0 {
		x.downOwed += len(body)
		x.down.SendData(body, true)
		x.res.ResponseBytes += int64(len(body))
	}
	x.respEnd = true
	x.finish(o)
	x.dropUpload()
}

// dropUpload lets go of the rest of a request that nobody wants any more.
func (x *Exchange) dropUpload() {
	if x.retired {
		return // there is none
	}
	x.discard = true
	x.dropBody()
	x.discardFrom = x.received
	x.releaseDown()
	x.afterDiscarded()
}

// afterDiscarded asks a client that goes on sending to stop, once the response
// has left: HTTP/2 can say so (RFC 9113, section 8.1), an HTTP/1 connection is
// closed, and later.
func (x *Exchange) afterDiscarded() {
	over := x.received - x.discardFrom
	switch {
	case x.reqEnd:
		x.ended()
	case over > discardLimit, over > stopAfter && x.downOwed == 0 && x.req.Version == message.HTTP2:
		x.reqEnd = true
		x.down.Abort(message.NoError)
		x.ended()
	}
}
