package tunproxy

import (
	"slices"

	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
	"github.com/tunmesh/tunmesh/tunproxy/route"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// maxParkedConns bounds the connections that wait for an endpoint of one target,
// unanswered. Requests have resilience.QueueLimit.
const maxParkedConns = 4096

// queue is who waits for a usable endpoint of a target, while there is none.
type queue struct {
	gate    resilience.Gate
	shut    bool // requests fail at once, and that was counted
	waiting []*parked
	conns   int // of waiting

	metrics        telemetry.Balancer // of requests
	bytes          telemetry.Balancer // of connections that carry bytes
	ready, pending int                // as last counted
}

// parked is somebody who waits so. again is called once: whoever it is asks anew.
type parked struct {
	again   func()
	request bool
}

// parkRequest keeps again until the target has a usable endpoint, or had none for
// too long. It returns nil when there is nothing to wait for, or the queue is full.
func (tg *target) parkRequest(again func()) *parked {
	if !tg.mayWait() || len(tg.queue.waiting)-tg.queue.conns >= resilience.QueueLimit {
		return nil
	}
	tg.queue.metrics.Queued()
	return tg.park(&parked{again: again, request: true})
}

// parkConn is parkRequest for a connection.
func (tg *target) parkConn(again func()) *parked {
	if !tg.mayWait() || tg.queue.conns >= maxParkedConns {
		return nil
	}
	tg.measureConns()
	tg.queue.bytes.Queued()
	tg.queue.conns++
	return tg.park(&parked{again: again})
}

func (tg *target) park(p *parked) *parked {
	tg.queue.waiting = append(tg.queue.waiting, p)
	return p
}

// mayWait reports whether an endpoint may become usable soon.
func (tg *target) mayWait() bool {
	return tg.set.Ready() == 0 && tg.snap.Kind == discover.Service && !tg.queue.gate.Failing(tg.w.loop.Now())
}

// unpark lets all who wait ask again.
func (tg *target) unpark() {
	all := tg.queue.waiting
	tg.queue.waiting, tg.queue.conns = nil, 0
	for _, p := range all {
		tg.queue.of(p).Unqueued()
		p.again()
	}
}

// leave takes p out, without a call.
func (tg *target) leave(p *parked) {
	before := len(tg.queue.waiting)
	tg.queue.waiting = slices.DeleteFunc(tg.queue.waiting, func(q *parked) bool { return q == p })
	if len(tg.queue.waiting) == before {
		return
	}
	tg.queue.of(p).Unqueued()
	if !p.request {
		tg.queue.conns--
	}
}

// of is where p is counted.
func (q *queue) of(p *parked) telemetry.Balancer {
	if p.request {
		return q.metrics
	}
	return q.bytes
}

// assess takes in that endpoints came, left, or changed their readiness.
func (tg *target) assess() {
	now := tg.w.loop.Now()
	if tg.queue.gate.Set(now, tg.healthy()) {
		tg.w.loop.AfterFunc(resilience.Grace, tg.graceOver)
	}
	if tg.queue.gate.Open() && tg.queue.shut {
		tg.queue.shut = false
		tg.queue.metrics.Gate(false)
		tg.queue.bytes.Gate(false)
	}
	tg.countEndpoints()
	if tg.set.Ready() > 0 && len(tg.queue.waiting) > 0 {
		tg.unpark()
	}
}

// graceOver is the end of waiting, unless there was an endpoint meanwhile.
func (tg *target) graceOver() {
	if !tg.queue.gate.Failing(tg.w.loop.Now()) {
		return
	}
	if !tg.queue.shut {
		tg.queue.shut = true
		tg.queue.metrics.Gate(true)
		tg.queue.bytes.Gate(true)
	}
	tg.unpark()
}

// healthy reports whether an endpoint is usable for more than a trial.
func (tg *target) healthy() bool { return tg.set.Len() > tg.ill }

// countEndpoints brings the figures of the balancer up to date; the target's end
// takes them back.
func (tg *target) countEndpoints() {
	ready := tg.set.Ready()
	pending := tg.set.Len() - ready
	q := &tg.queue
	q.metrics.Endpoints(ready-q.ready, pending-q.pending)
	q.bytes.Endpoints(ready-q.ready, pending-q.pending)
	q.ready, q.pending = ready, pending
}

// measure begins to count the balancer of a Service to which requests go.
func (tg *target) measure() {
	if tg.queue.metrics == (telemetry.Balancer{}) && tg.snap.Kind == discover.Service {
		m := tg.w.p.cfg.Metrics
		tg.queue.metrics = m.Balancers.Handle(parentOf(tg.snap), resilience.Grace)
		tg.countAnew(tg.queue.metrics)
		tg.route = m.Routes.Handle(parentOf(tg.snap), telemetry.Ref(route.DefaultRef()))
	}
}

// measureConns is measure for connections that carry bytes.
func (tg *target) measureConns() {
	if tg.queue.bytes == (telemetry.Balancer{}) && tg.snap.Kind == discover.Service {
		tg.queue.bytes = tg.w.p.cfg.Metrics.TCPBalancers.Handle(parentOf(tg.snap), resilience.Grace)
		tg.countAnew(tg.queue.bytes)
	}
}

// countAnew tells one that comes late what the other was told.
func (tg *target) countAnew(b telemetry.Balancer) {
	b.Updated(tg.set.Len(), 0)
	b.Endpoints(tg.queue.ready, tg.queue.pending)
}

// connections is the handle of connections to a Service.
func (tg *target) connections() telemetry.ToService {
	if !tg.conns.made && tg.snap.Kind == discover.Service {
		m, p := tg.w.p.cfg.Metrics, parentOf(tg.snap)
		tg.conns = conns{true, m.Connections.Handle(p, telemetry.Ref{Kind: "default", Name: "opaq"}), m.Detections[flow.Outbound].To(p)}
	}
	return tg.conns.to
}

// conns are the handles for connections to a Service.
type conns struct {
	made   bool
	to     telemetry.ToService
	detect telemetry.Detection
}
