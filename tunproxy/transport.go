package tunproxy

import (
	"errors"
	"io"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/forward"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// transport is a connection whose bytes are counted. The counts come from the
// connection's own statistics, now and then and at the end, so that moving
// bytes costs nothing here.
type transport struct {
	w     *worker
	index int // in w.tracked
	c     aio.Conn
	m     telemetry.TCP
	was   aio.Stats // counted so far
	born  time.Duration

	direction flow.Direction
	protocol  flow.Protocol
	near      bool // the other end is in this pod: there is no path to speak of
}

// track begins to count a connection's bytes, until close.
func (w *worker) track(c aio.Conn, l *telemetry.Labels, end telemetry.End, p flow.Protocol) *transport {
	t := &transport{
		w: w, index: len(w.tracked), c: c, m: w.p.cfg.Metrics.TCP.Handle(l, end),
		born: w.loop.Now(), direction: l.Direction, protocol: p, near: l.Peer.Reason == flow.Loopback,
	}
	w.tracked = append(w.tracked, t)
	t.m.Open()
	return t
}

// trackUpstream is track for the pool's connections.
func (w *worker) trackUpstream(e upstream.Endpoint, c aio.Conn, p flow.Protocol) *transport {
	if ep := w.endpointOf(e); ep != nil {
		l := ep.labels(flow.HTTP1, "")
		return w.track(c, &l, telemetry.Dst, p)
	}
	l := telemetry.Labels{Direction: flow.Outbound, Target: e.Addr, Peer: flow.Peer{Addr: e.Addr, Reason: flow.NotMeshed}}
	switch {
	case e.Side == aio.App:
		l.Direction = flow.Inbound
		l.Peer.Reason = flow.Loopback
	case !e.ID.IsZero():
		l.Peer = flow.Peer{Addr: e.Addr, Security: flow.Mutual, ID: e.ID}
	}
	return w.track(c, &l, telemetry.Dst, p)
}

// endpointOf finds for whom the pool has connected to e: the endpoint of the
// target that was used last, since several may share one connection. nil: the
// app of this pod, or an endpoint that has left meanwhile.
func (w *worker) endpointOf(e upstream.Endpoint) (ep *endpoint) {
	for _, tg := range w.targets {
		m := tg.set.Get(e.Addr)
		if m == nil || m.Value.used == nil {
			continue
		}
		if u := m.Value.used; u.up == e && (ep == nil || tg.used > ep.tg.used) {
			ep = u
		}
	}
	return ep
}

// sample counts what moved since the last time.
func (t *transport) sample() {
	s := t.c.Stats()
	t.m.Read(int(s.BytesIn - t.was.BytesIn))
	t.m.Wrote(int(s.BytesOut - t.was.BytesOut))
	n := telemetry.Network{
		Retransmits: s.Retransmits - t.was.Retransmits, Timeouts: s.Timeouts - t.was.Timeouts, OutOfOrder: s.OutOfOrder - t.was.OutOfOrder,
		ZeroWindows: s.ZeroWindows - t.was.ZeroWindows, DroppedMemory: s.DroppedMemory - t.was.DroppedMemory, DroppedQueue: s.DroppedQueue - t.was.DroppedQueue,
	}
	if !t.near && (s.BytesIn != t.was.BytesIn || s.BytesOut != t.was.BytesOut) {
		n.RTT = s.RTT
	}
	t.m.Went(n)
	t.was = s
}

// close counts the connection's end.
func (t *transport) close(err error) {
	t.sample()
	t.m.Close(errno(err))
	t.m.Release()
	last := len(t.w.tracked) - 1
	t.w.tracked[t.index] = t.w.tracked[last]
	t.w.tracked[t.index].index = t.index
	t.w.tracked[last] = nil
	t.w.tracked = t.w.tracked[:last]
}

// errno names the end of a connection as Linkerd's label does.
func errno(err error) string {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return ""
	case errors.Is(err, aio.ErrReset), errors.Is(err, forward.ErrAborted), errors.Is(err, io.ErrUnexpectedEOF):
		return "ECONNRESET"
	case errors.Is(err, aio.ErrRefused):
		return "ECONNREFUSED"
	case errors.Is(err, aio.ErrTimeout):
		return "ETIMEDOUT"
	case errors.Is(err, aio.ErrUnreachable):
		return "EHOSTUNREACH"
	}
	return "EIO"
}

// join forwards bytes between two connections until they are over.
func (w *worker) join(a, b aio.Conn, p flow.Protocol, src, dst *telemetry.Labels, done func(error)) *forward.Pipe {
	ta, tb := w.track(a, src, telemetry.Src, p), w.track(b, dst, telemetry.Dst, p)
	w.p.began()
	return forward.Join(a, b, forward.Config{Scratch: w.scratch, Done: func(err error) {
		ta.close(err)
		tb.close(err)
		w.p.ended()
		done(err)
	}})
}

// inboundPipe is a byte connection to the app, which policy may close.
type inboundPipe struct {
	w    *worker
	flow flow.Secured
	pipe *forward.Pipe
}

// joinInbound forwards between a client and the app.
func (w *worker) joinInbound(client, app aio.Conn, f *flow.Secured, d *authz.Decision) {
	p := &inboundPipe{w: w, flow: *f}
	src, dst := w.p.inboundLabels(f), w.p.appLabels(f)
	judgedBy(&src, d, f)
	w.pipes[p] = struct{}{}
	p.pipe = w.join(client, app, f.Protocol, &src, &dst, func(error) { delete(w.pipes, p) })
}

// judgedBy adds the names of a decision to labels.
func judgedBy(l *telemetry.Labels, d *authz.Decision, f *flow.Secured) {
	l.Server = serverOf(d, f)
	l.Authz = telemetry.Authz(d.Authz)
}

// serverOf is the policy's server that a decision is of.
func serverOf(d *authz.Decision, f *flow.Secured) telemetry.Server {
	return telemetry.Server{Group: d.Server.Group, Kind: d.Server.Kind, Name: d.Server.Name, Port: f.OrigDst.Port()}
}

// recheck closes the pipe if policy does not allow it any more.
func (p *inboundPipe) recheck() {
	if d := p.w.p.judge(&p.flow); !d.Allow {
		p.w.p.terminated(&p.flow, d)
		p.pipe.Abort()
	}
}
