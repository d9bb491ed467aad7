package tunproxy

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/orig"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// inboundRequests is an HTTP connection from the network: it lets each request
// pass that policy allows, to the app, as coming from the true client.
type inboundRequests struct {
	w      *worker
	flow   flow.Secured
	app    upstream.Endpoint
	first  aio.Conn // to the app, unused so far; nil once given to the pool
	groups [2]*upstream.Group
	gaveTo *upstream.Group // that adopted first
	cfg    exchange.Config
	counts counts
}

// serveInbound turns a client's connection into requests. It takes both.
func (w *worker) serveInbound(c, first aio.Conn, f flow.Secured, app upstream.Endpoint) {
	r := &inboundRequests{w: w, flow: f, app: app, first: first}
	hop := f.Peer.Security == flow.Mutual
	r.cfg = exchange.Config{
		Loop:              w.loop,
		Opener:            r,
		Observers:         w.p.observers,
		Translate:         w.fromNetwork(hop && f.Protocol == flow.HTTP2),
		RefuseUndelivered: hop && f.Protocol == flow.HTTP2,
		Unanswered:        unanswered,
		Began:             w.p.began,
		Ended:             w.p.ended,
		Flow:              &r.flow,
		Spares:            w.spares,
	}
	l := w.p.inboundLabels(&r.flow)
	l.Server = w.server(&r.flow)
	w.serveHTTP(c, f.Protocol, hop, &l, r.cfg.Serve, r.closed)
}

// fromNetwork prepares for what clients send: sidecars say more than others.
func (w *worker) fromNetwork(sidecar bool) exchange.Translator {
	if sidecar {
		return orig.FromSidecar{Names: w.names}
	}
	return orig.FromClient{}
}

func (r *inboundRequests) closed() {
	if r.first != nil {
		r.first.Close()
		r.first = nil
	}
	if r.gaveTo != nil {
		r.gaveTo.Left()
		r.gaveTo = nil
	}
	for i, g := range r.groups {
		if g != nil {
			g.Release()
			r.groups[i] = nil
		}
	}
	r.counts.release()
}

// Open implements exchange.Opener: authorize → connection to the app.
func (r *inboundRequests) Open(x *exchange.Exchange) {
	h := x.Request()
	d := r.w.p.judgeRequest(&r.flow, h)
	x.Quiet = r.w.p.isProbe(&r.flow, h)
	if !x.Quiet {
		x.Own = d
		c := r.counts.find(r.w, &r.flow, d, h.Authority)
		c.judged.Inc()
		c.served.Request()
	}
	if !d.Allow {
		x.Fail(exchange.ErrDenied)
		return
	}
	kind := upstream.HTTP1
	if h.Version == message.HTTP2 {
		kind = upstream.HTTP2
	}
	g := r.group(kind)
	s, ok := g.Open()
	if h.Protocol != "" && wantsUpgrade(x, s) {
		if ok {
			s.Abort(message.Cancel)
		}
		g = r.group(upstream.HTTP1)
		s, ok = g.Open()
	}
	if ok {
		x.Opened(r.upstream(x, s, g))
		return
	}
	t := &waitingForApp{r: r, x: x, g: g}
	x.Waiting = t
	t.timer = r.w.loop.AfterFunc(upstream.AppTimeout+time.Second, t.expired)
	g.Wait(t)
}

// group is the pool's connections to the app for this client. The connection
// that was made before the client's was accepted is the first of them.
func (r *inboundRequests) group(kind upstream.Kind) *upstream.Group {
	g := r.groups[kind]
	if g == nil {
		g = r.w.pool.Hold(r.app, kind)
		r.groups[kind] = g
	}
	if r.first != nil {
		g.AdoptFor(r.first)
		r.first, r.gaveTo = nil, g
	}
	return g
}

func (r *inboundRequests) upstream(x *exchange.Exchange, s message.Stream, g *upstream.Group) exchange.Upstream {
	u := exchange.Upstream{Stream: s, Endpoint: theApp{}, Translate: orig.ToServer{}}
	if x.Request().Protocol != "" && g.Kind() == upstream.HTTP1 {
		u.Translate = new(orig.Upgrade)
	}
	if tunnels(x.Request()) {
		u.Endpoint = r.tunnel(x)
	}
	return u
}

// Cancel implements exchange.Opener.
func (r *inboundRequests) Cancel(x *exchange.Exchange) {
	if t, ok := x.Waiting.(*waitingForApp); ok {
		t.over()
		t.g.Forget(t)
	}
}

// waitingForApp is a request that waits for a connection to the app.
type waitingForApp struct {
	r     *inboundRequests
	x     *exchange.Exchange
	g     *upstream.Group
	timer aio.Timer
}

func (t *waitingForApp) over() {
	t.timer.Stop()
	t.x.Waiting = nil
}

// Ready implements upstream.Waiter.
func (t *waitingForApp) Ready(s message.Stream) {
	t.over()
	t.x.Opened(t.r.upstream(t.x, s, t.g))
}

// Failed implements upstream.Waiter.
func (t *waitingForApp) Failed(err error) {
	t.over()
	switch {
	case errors.Is(err, upstream.ErrOverload):
		t.x.Fail(exchange.ErrOverload)
	case errors.Is(err, aio.ErrTimeout):
		t.x.Fail(exchange.ErrTimeout.With(err))
	default:
		t.x.Fail(exchange.ErrRefusedEverywhere.With(err))
	}
}

func (t *waitingForApp) expired() {
	t.g.Forget(t)
	t.Failed(aio.ErrTimeout)
}

// theApp is the endpoint of inbound requests: there is nothing to choose.
type theApp struct{}

// Ended implements exchange.Endpoint.
func (theApp) Ended(exchange.Outcome, time.Duration) {}

var _ exchange.Opener = (*inboundRequests)(nil)

// handle implements measured.
func (r *inboundRequests) handle(x *exchange.Exchange) telemetry.HTTP {
	d, ok := x.Own.(*authz.Decision)
	if !ok { // was never opened
		return telemetry.HTTP{}
	}
	return r.counts.find(r.w, &r.flow, d, x.Authority()).requests
}

// ended implements measured.
func (r *inboundRequests) ended(x *exchange.Exchange, res *exchange.Result) {
	d, ok := x.Own.(*authz.Decision)
	if !ok || !d.Allow {
		return
	}
	c := r.counts.find(r.w, &r.flow, d, x.Authority())
	a := telemetry.Answer{Status: res.Status, Took: res.Total, Frames: telemetry.Frames(res.ResponseFrames)}
	c.served.Ended(a, res.Total-res.FirstByte, telemetry.Frames(res.RequestFrames))
}
