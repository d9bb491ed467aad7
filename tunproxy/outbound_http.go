package tunproxy

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/balance"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/orig"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

const (
	// attemptWait is how long a request waits for a connection to one endpoint
	// while others have not been tried (Linkerd's connect timeout).
	attemptWait = time.Second
	// requestWait is how long it waits in all: as long as a connect may take, so
	// that a peer's sidecar may restart meanwhile.
	requestWait = upstream.WireTimeout
)

// outboundRequests is an HTTP connection of the app: it sends each request
// where the balancer says.
type outboundRequests struct {
	w    *worker
	tg   *target
	flow flow.Secured
	cfg  exchange.Config
}

// serveOutbound turns an app's connection into requests.
func (w *worker) serveOutbound(c aio.Conn, f flow.Secured, tg *target) {
	r := &outboundRequests{w: w, tg: tg, flow: f}
	r.cfg = exchange.Config{
		Loop:        w.loop,
		Opener:      r,
		Observers:   w.p.observers,
		Attempts:    w.p.attempts(),
		Translate:   orig.FromClient{},
		Began:       w.p.began,
		Ended:       w.p.ended,
		Undelivered: refusedLate,
		Unanswered:  unanswered,
		Flow:        &r.flow,
		Spares:      w.spares,
	}
	tg.users++
	tg.measure()
	l := tg.clientLabels()
	w.serveHTTP(c, f.Protocol, false, &l, r.cfg.Serve, r.closed)
}

func (r *outboundRequests) closed() {
	r.tg.users--
	r.tg.used = r.w.loop.Now()
}

// refusedLate: the far sidecar turned the handshake down after we thought it
// done (TLS 1.3 lets a client finish first). It has seen no byte of requests.
func refusedLate(err error) bool { return errors.Is(err, mtls.ErrRefusedByPeer) }

// unanswered: the server may have closed the connection while it was idle.
func unanswered(err error) bool { return errors.Is(err, h1.ErrUnanswered) }

// Open implements exchange.Opener: route → balance → connection.
func (r *outboundRequests) Open(x *exchange.Exchange) { r.open(x, nil) }

func (r *outboundRequests) open(x *exchange.Exchange, last error) {
	r.tg.used = r.w.loop.Now()
	rule := r.tg.routes.Find(x.Request())
	if rule == nil {
		x.Fail(exchange.ErrNoRoute)
		return
	}
	x.Guard(r.tg.terms)
	e := r.tg.use(pickFor(rule.Backend, x, r.tg.used))
	if e == nil {
		if p := r.tg.parkRequest(func() { r.unparked(x) }); p != nil {
			x.Waiting = p
			return
		}
	}
	if e == nil || x.Exhausted() {
		x.Fail(r.noEndpoint(x, last))
		return
	}
	e.beginFor(x)
	kind := kindFor(x.Request(), e)
	g := e.group(kind)
	if s, ok := g.Open(); ok {
		x.Opened(exchange.Upstream{Stream: s, Endpoint: e, Translate: e.translator(kind)})
		return
	}
	t := &waiting{r: r, x: x, e: e, g: g, began: r.w.loop.Now()}
	limit := requestWait - (t.began - x.Began())
	if r.tg.set.Ready() > x.Attempts()+1 {
		limit = min(limit, attemptWait)
	}
	x.Waiting = t
	t.timer = r.w.loop.AfterFunc(max(limit, 0), t.expired)
	g.Wait(t)
}

// Cancel implements exchange.Opener.
func (r *outboundRequests) Cancel(x *exchange.Exchange) {
	switch t := x.Waiting.(type) {
	case *waiting:
		t.over()
		t.g.Forget(t)
		t.e.Judge(x, exchange.Attempt{Outcome: exchange.Canceled, Wait: r.w.loop.Now() - t.began})
	case *parked:
		x.Waiting = nil
		r.tg.leave(t)
	}
}

// unparked asks again for a request that waited for the target's next endpoint.
func (r *outboundRequests) unparked(x *exchange.Exchange) {
	x.Waiting = nil
	r.open(x, nil)
}

// waiting is a request that waits for a connection.
type waiting struct {
	r     *outboundRequests
	x     *exchange.Exchange
	e     *endpoint
	g     *upstream.Group
	began time.Duration
	timer aio.Timer
}

func (t *waiting) over() {
	t.timer.Stop()
	t.x.Waiting = nil
}

// Ready implements upstream.Waiter.
func (t *waiting) Ready(s message.Stream) {
	t.over()
	t.x.Opened(exchange.Upstream{Stream: s, Endpoint: t.e, Translate: t.e.translator(t.g.Kind())})
}

// Failed implements upstream.Waiter: nothing of the request left, so another
// endpoint may have it.
func (t *waiting) Failed(err error) {
	t.over()
	t.e.Judge(t.x, exchange.Attempt{Outcome: exchange.Undelivered, Wait: t.r.w.loop.Now() - t.began})
	t.x.TurnedDown(t.e)
	t.r.open(t.x, err)
}

func (t *waiting) expired() {
	t.g.Forget(t)
	t.Failed(aio.ErrTimeout)
}

// noEndpoint is what to say when nobody is left to ask.
func (r *outboundRequests) noEndpoint(x *exchange.Exchange, last error) *exchange.Error {
	switch {
	case last == nil && r.tg.mayWait():
		return exchange.ErrOverload // the queue is full
	case last == nil && r.tg.set.Ready() == 0 && r.tg.set.Len() > 0:
		return exchange.ErrFailfast
	case errors.Is(last, upstream.ErrOverload):
		return exchange.ErrOverload
	case errors.Is(last, aio.ErrTimeout):
		return exchange.ErrTimeout.With(last)
	case last != nil:
		return exchange.ErrRefusedEverywhere.With(last)
	case x.Attempts() > 0:
		return exchange.ErrRefusedEverywhere
	}
	return exchange.ErrNoEndpoint
}

// kindFor is the kind of connection that carries a request to e: HTTP/2 between
// sidecars, but for what HTTP/2 has no room for; as the client spoke elsewhere.
func kindFor(h *message.Head, e *endpoint) upstream.Kind {
	switch {
	case h.Version == message.HTTP2:
		return upstream.HTTP2
	case e.plain() || h.Upgrade || h.Method == "CONNECT":
		return upstream.HTTP1
	}
	return upstream.HTTP2
}

// pickFor chooses an endpoint that has not turned x down: one that has not had it
// yet, or else one that had it and may do better now.
func pickFor(set *balance.Set[place], x *exchange.Exchange, now time.Duration) *balance.Member[place] {
	if x.Attempts() == 0 && !x.Retried() {
		return set.Pick(now, nil)
	}
	if m := fresh(set, x, now); m != nil || !x.Retried() {
		return m
	}
	return set.Pick(now, func(m *balance.Member[place]) bool { return x.Tried(m.Value.used) })
}

// fresh chooses an endpoint that has not had x. One that is not in use has not.
func fresh(set *balance.Set[place], x *exchange.Exchange, now time.Duration) *balance.Member[place] {
	return set.Pick(now, func(m *balance.Member[place]) bool { return x.Tried(m.Value.used) || x.Failed(m.Value.used) })
}

// Elsewhere implements exchange.Chooser.
func (r *outboundRequests) Elsewhere(x *exchange.Exchange) bool {
	rule := r.tg.routes.Find(x.Request())
	return rule != nil && fresh(rule.Backend, x, r.w.loop.Now()) != nil
}

var (
	_ exchange.Opener  = (*outboundRequests)(nil)
	_ exchange.Chooser = (*outboundRequests)(nil)
)

// handle implements measured: requests for which there was no endpoint are counted
// for the target alone, others where they went.
func (r *outboundRequests) handle(x *exchange.Exchange) telemetry.HTTP {
	if x.Endpoint() != nil {
		return telemetry.HTTP{}
	}
	return r.tg.metrics()
}

// ended implements measured.
func (r *outboundRequests) ended(_ *exchange.Exchange, res *exchange.Result) {
	r.tg.route.Ended(answerOf(endOf(res), res.WasReset || res.ResponseFrames.Bytes > 0), telemetry.Frames(res.RequestFrames))
}
