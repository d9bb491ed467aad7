package telemetry

import (
	"strconv"
	"time"
)

// Detected is what a connection turned out to speak.
type Detected uint8

// What it may be.
const (
	NotHTTP Detected = iota
	HTTP1
	HTTP2
	Undecided // it did not come to the point in time
	Broken    // it ended before
	detecteds
)

// labels of Detected are Linkerd's.
func (d Detected) label() string {
	return [detecteds]string{`result="not_http"`, `result="http/1"`, `result="h2"`, `result="read_timeout"`, `result="error"`}[d]
}

// Detections are the families of protocol detection of one direction.
type Detections struct{ sets *sets[detectMetrics] }

type detectMetrics struct {
	took    Histogram
	results [detecteds]Counter
}

func newDetections(r *Registry, prefix string) *Detections {
	duration, results := prefix+"duration_seconds", prefix+"results_total"
	return &Detections{newSets(r,
		column[detectMetrics]{duration, "The time from a connection's begin until it was known what it speaks.", histogram, func(t *text, s *set[detectMetrics]) {
			t.histogram(duration, s.labels, "", &detectScale, &s.metrics.took)
		}},
		column[detectMetrics]{results, "Total count of connections by what they turned out to speak.", counter, func(t *text, s *set[detectMetrics]) {
			for d := range detecteds {
				t.sample(results, s.labels, d.label(), s.metrics.results[d].Value())
			}
		}},
	)}
}

// Detection is a handle for the connections to one Service, or one server of the
// policy. The zero Detection counts nothing.
type Detection struct {
	sets *sets[detectMetrics]
	set  *set[detectMetrics]
}

// To finds the figures of outbound connections to a Service.
func (m *Detections) To(p Parent) Detection {
	return Detection{m.sets, m.sets.acquire(appendLabels(nil, p.Labels()))}
}

// At finds the figures of inbound connections to a server of the policy.
func (m *Detections) At(s Server) Detection {
	return Detection{m.sets, m.sets.acquire(appendLabels(nil, []Label{
		{"srv_group", s.Group}, {"srv_kind", s.Kind}, {"srv_name", s.Name}, {"srv_port", strconv.Itoa(int(s.Port))},
	}))}
}

// Result counts a connection.
func (d Detection) Result(r Detected, took time.Duration) {
	if d.set != nil {
		d.set.metrics.results[r].Inc()
		d.set.metrics.took.took(&detectScale, took)
	}
}

// Release gives the handle back. It must not be used afterwards.
func (d Detection) Release() {
	if d.set != nil {
		d.sets.release(d.set)
	}
}

// Connections are the families of connections to Services, by what is known of
// the Service's protocol, and of those that carry bytes by the rule that took
// them.
type Connections struct {
	known          *sets[knownMetrics]
	opened, closed *Counters
}

type knownMetrics struct{ by [Kinds]Counter }

// Known is what is known of a Service's protocol before a connection speaks.
type Known uint8

// What it may be.
const (
	KnownNothing Known = iota // it is detected
	KnownHTTP1
	KnownHTTP2
	KnownOpaque
	KnownTLS
	Kinds
)

func newConnections(r *Registry) *Connections {
	const name = "outbound_tcp_protocol_connections_total"
	names := [Kinds]string{`protocol="detect"`, `protocol="http/1"`, `protocol="http/2"`, `protocol="opaq"`, `protocol="tls"`}
	return &Connections{
		known: newSets(r, column[knownMetrics]{name, "Total count of outbound connections, by what is known of the Service's protocol.", counter, func(t *text, s *set[knownMetrics]) {
			for k := range names {
				if n := s.metrics.by[k].Value(); n > 0 {
					t.sample(name, s.labels, names[k], n)
				}
			}
		}}),
		opened: NewCounters(r, "outbound_tcp_route_open_total", "Total count of connections with bytes that were joined with an endpoint."),
		closed: NewCounters(r, "outbound_tcp_route_close_total", "Total count of such connections that are over, by the error that ended them."),
	}
}

// ToService is a handle for the connections to one Service. The zero one counts
// nothing.
type ToService struct {
	all    *Connections
	known  *set[knownMetrics]
	opened Count
	labels []Label
}

// Handle finds the figures of a Service and a rule for bytes; Release gives them
// back.
func (m *Connections) Handle(p Parent, r Ref) ToService {
	h := ToService{all: m, known: m.known.acquire(appendLabels(nil, p.Labels())), labels: append(p.Labels(), r.Labels()...)}
	h.opened = m.opened.With(h.labels...)
	return h
}

// Begun counts a connection.
func (c ToService) Begun(k Known) {
	if c.known != nil {
		c.known.metrics.by[k].Inc()
	}
}

// Opened counts one that carries bytes.
func (c ToService) Opened() { c.opened.Inc() }

// Closed is Opened's end; err is an errno as of tcp_close_total, or "". It may
// come after Release.
func (c ToService) Closed(err string) {
	if c.all != nil {
		c.all.closed.Once(append(c.labels[:len(c.labels):len(c.labels)], Label{"error", err})...)
	}
}

// Release gives the handle back.
func (c ToService) Release() {
	if c.all != nil {
		c.all.known.release(c.known)
		c.opened.Release()
	}
}
