package telemetry

// Balancers are the families of the endpoints of Services and of requests that
// wait for one. Their labels name the Service, as parent_ and as backend_.
type Balancers struct{ sets *sets[balancerMetrics] }

type balancerMetrics struct {
	ready, pending, queue      Gauge
	queued, gateOpen, gateShut Counter
	tripped, recovered         Counter
}

func newBalancers(r *Registry) *Balancers {
	return &Balancers{newSets(r, printBalancers)}
}

func printBalancers(t *text, all []*set[balancerMetrics]) {
	const prefix = "outbound_http_balancer_"
	name := prefix + "endpoints"
	t.family(name, "Number of endpoints that may be chosen (ready) and that may not (pending).", gauge)
	for _, s := range all {
		t.signed(name, s.labels, `endpoint_state="ready"`, s.metrics.ready.Value())
		t.signed(name, s.labels, `endpoint_state="pending"`, s.metrics.pending.Value())
	}
	name = prefix + "queue_length"
	t.family(name, "Number of requests that wait for a usable endpoint.", gauge)
	for _, s := range all {
		t.signed(name, s.labels, "", s.metrics.queue.Value())
	}
	for _, c := range []struct {
		name, help string
		get        func(m *balancerMetrics) uint64
	}{
		{"queue_requests_total", "Total count of requests that waited for a usable endpoint.", func(m *balancerMetrics) uint64 { return m.queued.Value() }},
		{"queue_gate_open_total", "Total count of times that requests were let wait again after they had failed at once.", func(m *balancerMetrics) uint64 { return m.gateOpen.Value() }},
		{"queue_gate_shut_total", "Total count of times that requests began to fail at once, as no endpoint was usable for too long.", func(m *balancerMetrics) uint64 { return m.gateShut.Value() }},
		{"endpoint_shut_total", "Total count of times that a circuit breaker began to keep requests from an endpoint, or went on after a trial.", func(m *balancerMetrics) uint64 { return m.tripped.Value() }},
		{"endpoint_open_total", "Total count of times that a circuit breaker let requests go to an endpoint again.", func(m *balancerMetrics) uint64 { return m.recovered.Value() }},
	} {
		t.family(prefix+c.name, c.help, counter)
		for _, s := range all {
			t.sample(prefix+c.name, s.labels, "", c.get(&s.metrics))
		}
	}
}

// Balancer is a handle for one Service. The zero Balancer counts nothing.
type Balancer struct {
	sets *sets[balancerMetrics]
	set  *set[balancerMetrics]
}

// Handle finds the figures of a Service; Release gives them back.
func (m *Balancers) Handle(p Parent) Balancer {
	var stack [512]byte
	b := stack[:0]
	for _, prefix := range []string{"parent_", "backend_"} {
		for _, l := range p.named(prefix) {
			b = appendLabel(b, l.Name, l.Value)
		}
	}
	return Balancer{m.sets, m.sets.acquire(b)}
}

// Endpoints adds to the numbers of endpoints; what was added is taken back by
// whoever added it.
func (b Balancer) Endpoints(ready, pending int) {
	if b.set != nil {
		b.set.metrics.ready.Add(int64(ready))
		b.set.metrics.pending.Add(int64(pending))
	}
}

// Queued says that a request begins to wait, Unqueued that it no longer does.
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

// Gate says that requests fail at once from now on, or no longer do.
func (b Balancer) Gate(shut bool) {
	switch {
	case b.set == nil:
	case shut:
		b.set.metrics.gateShut.Inc()
	default:
		b.set.metrics.gateOpen.Inc()
	}
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
