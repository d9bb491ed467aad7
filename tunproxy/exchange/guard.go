package exchange

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// guard holds an exchange to its terms. An exchange under none has none, and pays
// nothing for it. It is used again with its exchange.
type guard struct {
	x      *Exchange
	terms  *Terms
	retry  retrying
	answer answer

	// Made once, and running or not: each would be an allocation.
	request, response, idle aio.Timer
	moved                   time.Duration

	// Bound once: each would be an allocation.
	onRequest, onResponse, onIdle, onTry, onPause, onHeld func()
}

func newGuard(x *Exchange) *guard {
	g := &guard{x: x}
	g.onRequest, g.onResponse, g.onIdle = g.requestExpired, g.responseExpired, g.idleExpired
	g.onTry, g.onPause, g.onHeld = g.tryExpired, g.reopen, g.releaseHead
	return g
}

// clear prepares g for another use of its exchange. Nothing is running.
func (g *guard) clear() {
	g.terms = nil
	r := &g.retry
	*r = retrying{failed: emptied(r.failed), head: message.Head{Fields: emptied(r.head.Fields)}, pause: r.pause, try: r.try, hold: r.hold}
	g.answer, g.moved = answer{}, 0
}

// Guard puts the exchange under terms; nil is none. Openers call it before their
// first answer; later calls change nothing.
func (x *Exchange) Guard(t *Terms) {
	if t == nil || x.guard != nil || x.over {
		return
	}
	g := x.spareGuard
	if g == nil {
		g = newGuard(x)
		x.spareGuard = g
	}
	g.terms = t
	x.guard = g
	now := x.cfg.Loop.Now()
	g.moved = now
	if d := t.Policy.Timeouts.Request; d > 0 {
		g.arm(&g.request, max(d-(now-x.began), 0), g.onRequest)
	}
	if d := t.Policy.Timeouts.Idle; d > 0 {
		g.arm(&g.idle, d, g.onIdle)
	}
	if t.Policy.Retry != nil {
		t.Budget.Request(now)
	}
}

// event hears that something of the exchange moved. g may be nil.
func (g *guard) event() {
	if g != nil {
		g.moved = g.x.cfg.Loop.Now()
	}
}

// sent hears that an endpoint has, or is being sent, the whole request. g may be nil.
func (g *guard) sent() {
	if g == nil || !g.x.reqEnd || g.x.up == nil || g.x.over {
		return
	}
	if d := g.terms.Policy.Timeouts.Response; d > 0 {
		g.arm(&g.response, d, g.onResponse)
	}
	g.armTry()
}

// attemptOver hears that the exchange gave up on an endpoint. g may be nil.
func (g *guard) attemptOver() {
	if g != nil {
		stop(g.response)
		stop(g.retry.try)
	}
}

// stop ends all that is under way: the response is whole, or the exchange became
// a stream of bytes, or is over. g may be nil.
func (g *guard) stop() {
	if g != nil {
		stop(g.request)
		stop(g.response)
		stop(g.idle)
		stop(g.retry.try)
		stop(g.retry.pause)
		g.dropHead()
	}
}

// arm lets f run after d, and not when it was to run before. t is always of the
// same f.
func (g *guard) arm(t *aio.Timer, d time.Duration, f func()) {
	if *t == nil {
		*t = g.x.cfg.Loop.AfterFunc(d, f)
		return
	}
	(*t).Reset(d)
}

func stop(t aio.Timer) {
	if t != nil {
		t.Stop()
	}
}

func (g *guard) requestExpired() { g.x.expire(ErrRequestTimeout) }

func (g *guard) responseExpired() { g.x.expire(ErrResponseTimeout) }

// idleExpired looks whether something moved since the timer was set: a timer for
// each frame would cost more than looking now and then.
func (g *guard) idleExpired() {
	left := g.terms.Policy.Timeouts.Idle - (g.x.cfg.Loop.Now() - g.moved)
	if left > 0 {
		g.arm(&g.idle, left, g.onIdle)
		return
	}
	g.x.expire(ErrIdleTimeout)
}

// expire ends an exchange that took too long: with an answer if none went down,
// else with a response that is seen to be broken.
func (x *Exchange) expire(e *Error) {
	if x.over {
		return
	}
	outcome := Failure
	if x.waiting {
		x.waiting = false
		x.cfg.Opener.Cancel(x)
		outcome = Undelivered
	}
	if x.up != nil {
		x.releaseUp()
		x.up.Abort(message.Cancel)
		x.leaveUp()
	}
	if !x.respHead {
		x.answer(e, outcome)
		return
	}
	x.res.ProxyError = e.Name
	x.cut(message.Cancel, e)
}

// begins hears that a response's head goes down. That of a gRPC call says nothing
// yet, and neither does a failure's.
func (g *guard) begins(h *message.Head, end bool) {
	if g.x.tunnels(h) {
		g.stop()
	}
	if h.Status >= 500 || h.Status == 429 {
		g.answer.told = true // what follows makes it no better
	} else if !end && !g.x.isGRPC() {
		g.answers()
	}
}

// tunnels reports whether a response makes the exchange a stream of bytes.
func (x *Exchange) tunnels(h *message.Head) bool {
	return h.Status == 101 || x.req.Method == "CONNECT" && h.Status >= 200 && h.Status < 300
}
