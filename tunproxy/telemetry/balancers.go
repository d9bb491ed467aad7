package telemetry

import (
	"sync/atomic"
	"time"
)

// Balancers are the families of the endpoints of Services and of those who wait
// for one: requests (outbound_http_balancer_) or connections that carry bytes
// (outbound_tcp_balancer_). Labels name the Service, as parent_ and as backend_.
type Balancers struct{ sets *sets[balancerMetrics] }

type balancerMetrics struct {
	ready, pending, queue Gauge
	added, removed        Counter
	waited                Histogram
	queued                Counter
	gateOpen, gateShut    Counter
	openAt, shutAt        atomic.Int64 // Unix milliseconds; 0: is not so now
	patience              Gauge        // milliseconds
	tripped, recovered    Counter
}

func newBalancers(r *Registry, prefix, who string, breakers bool) *Balancers {
	endpoints, p2c, updates := prefix+"endpoints", prefix+"p2c_endpoints", prefix+"p2c_updates_total"
	latency, openTime, shutTime, timeout := prefix+"queue_latency_seconds", prefix+"queue_gate_open_time_seconds", prefix+"queue_gate_shut_time_seconds", prefix+"queue_gate_timeout_seconds"
	type m = balancerMetrics
	stamp := func(name string, get func(*m) *atomic.Int64) func(t *text, s *set[m]) {
		return func(t *text, s *set[m]) { t.float(name, s.labels, "", float64(get(&s.metrics).Load())/1000) }
	}
	columns := []column[m]{
		{endpoints, "Number of endpoints that may be chosen (ready) and that may not (pending).", gauge, func(t *text, s *set[m]) {
			t.signed(endpoints, s.labels, `endpoint_state="ready"`, s.metrics.ready.Value())
			t.signed(endpoints, s.labels, `endpoint_state="pending"`, s.metrics.pending.Value())
		}},
		{p2c, "Number of endpoints that are balanced over.", gauge, func(t *text, s *set[m]) {
			t.signed(p2c, s.labels, "", s.metrics.ready.Value()+s.metrics.pending.Value())
		}},
		{updates, "Total count of endpoints that came (Add) and left (Remove).", counter, func(t *text, s *set[m]) {
			t.sample(updates, s.labels, `op="Add"`, s.metrics.added.Value())
			t.sample(updates, s.labels, `op="Remove"`, s.metrics.removed.Value())
		}},
		gauges(prefix+"queue_length", "Number of "+who+" that wait for a usable endpoint.", func(x *m) *Gauge { return &x.queue }),
		{latency, "The time that " + who + " waited for a usable endpoint and, if need be, a connection to it.", histogram, func(t *text, s *set[m]) {
			t.histogram(latency, s.labels, "", &queueScale, &s.metrics.waited)
		}},
		counts(prefix+"queue_requests_total", "Total count of "+who+" that waited for a usable endpoint.", func(x *m) *Counter { return &x.queued }),
		counts(prefix+"queue_gate_open_total", "Total count of times that "+who+" were let wait, at first or after they had failed at once.", func(x *m) *Counter { return &x.gateOpen }),
		counts(prefix+"queue_gate_shut_total", "Total count of times that "+who+" began to fail at once, as no endpoint was usable for too long.", func(x *m) *Counter { return &x.gateShut }),
		{openTime, "Time when " + who + " were let wait (Unix seconds); 0 while they fail at once.", gauge, stamp(openTime, func(x *m) *atomic.Int64 { return &x.openAt })},
		{shutTime, "Time when " + who + " began to fail at once (Unix seconds); 0 while they may wait.", gauge, stamp(shutTime, func(x *m) *atomic.Int64 { return &x.shutAt })},
		{timeout, "How long no endpoint has to be usable before " + who + " fail at once.", gauge, func(t *text, s *set[m]) {
			t.float(timeout, s.labels, "", float64(s.metrics.patience.Value())/1000)
		}},
	}
	if breakers {
		columns = append(columns,
			counts(prefix+"endpoint_shut_total", "Total count of times that a circuit breaker began to keep "+who+" from an endpoint, or went on after a trial.", func(x *m) *Counter { return &x.tripped }),
			counts(prefix+"endpoint_open_total", "Total count of times that a circuit breaker let "+who+" go to an endpoint again.", func(x *m) *Counter { return &x.recovered }),
		)
	}
	return &Balancers{newSets(r, columns...)}
}

// Balancer is a handle for one Service. The zero Balancer counts nothing.
type Balancer struct {
	sets *sets[balancerMetrics]
	set  *set[balancerMetrics]
}

// Handle finds the figures of a Service; Release gives them back. patience is how
// long no endpoint has to be usable before nobody waits any more.
func (m *Balancers) Handle(p Parent, patience time.Duration) Balancer {
	var stack [512]byte
	b := appendLabels(appendLabels(stack[:0], p.named("parent_")), p.named("backend_"))
	h := Balancer{m.sets, m.sets.acquire(b)}
	if h.set == nil {
		return h
	}
	h.set.metrics.patience.Set(patience.Milliseconds())
	if h.set.metrics.gateOpen.Value() == 0 {
		h.Gate(false)
	}
	return h
}

// Endpoints adds to the numbers of endpoints; what was added is taken back by
// whoever added it.
func (b Balancer) Endpoints(ready, pending int) {
	if b.set != nil {
		b.set.metrics.ready.Add(int64(ready))
		b.set.metrics.pending.Add(int64(pending))
	}
}

// Updated counts endpoints that came and left.
func (b Balancer) Updated(added, removed int) {
	if b.set != nil {
		b.set.metrics.added.Add(uint64(added))
		b.set.metrics.removed.Add(uint64(removed))
	}
}

// Waited says for how long one waited who goes to an endpoint now.
func (b Balancer) Waited(d time.Duration) {
	if b.set != nil {
		b.set.metrics.waited.took(&queueScale, d)
	}
}

// Queued says that one begins to wait, Unqueued that it no longer does.
func (b Balancer) Queued() {
	if b.set != nil {
		b.set.metrics.queue.Add(1)
		b.set.metrics.queued.Inc()
	}
}

// Unqueued is Queued's end.
func (b Balancer) Unqueued() {
	if b.set != nil {
		b.set.metrics.queue.Add(-1)
	}
}

// Gate says that nobody waits from now on, or that they may again.
func (b Balancer) Gate(shut bool) {
	if b.set == nil {
		return
	}
	m, now := &b.set.metrics, b.sets.r.cfg.Now().UnixMilli()
	if shut {
		m.gateShut.Inc()
		m.shutAt.Store(now)
		m.openAt.Store(0)
		return
	}
	m.gateOpen.Inc()
	m.openAt.Store(now)
	m.shutAt.Store(0)
}

// Tripped says that a breaker keeps requests from an endpoint for a while.
func (b Balancer) Tripped() {
	if b.set != nil {
		b.set.metrics.tripped.Inc()
	}
}

// Recovered says that a breaker does so no longer.
func (b Balancer) Recovered() {
	if b.set != nil {
		b.set.metrics.recovered.Inc()
	}
}

// Release gives the handle back. It must not be used afterwards.
func (b Balancer) Release() {
	if b.set != nil {
		b.sets.release(b.set)
	}
}
