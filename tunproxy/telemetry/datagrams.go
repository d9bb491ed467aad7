package telemetry

import (
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/flow"
)

const (
	// maxUDP and maxNames bound the label sets of UDP flows and of names that are
	// resolved: whoever invents some leaves room for the families of requests.
	maxUDP   = 256
	maxNames = 256
)

// Datagrams are the families of UDP and of names that the pod resolves.
type Datagrams struct {
	flows     *sets[udpMetrics]
	names     *sets[dnsMetrics]
	unwatched Counter

	overflowIn, overflowOut, overflowInBytes, overflowOutBytes Counter
}

type udpMetrics struct {
	flows                              Counter
	open                               Gauge
	read, readBytes, wrote, wroteBytes Counter
}

// rcodes is how many of DNS's response codes have a name here; all others share
// the last.
const rcodes = 7

type dnsMetrics struct {
	queries, answers, unanswered Counter
	responses                    [rcodes]Counter
	took                         Histogram
}

func newDatagrams(r *Registry) *Datagrams {
	d := &Datagrams{
		flows: newSets(r,
			counts("udp_flows_total", "Total count of UDP flows that began.", func(m *udpMetrics) *Counter { return &m.flows }),
			gauges("udp_open_flows", "Number of UDP flows in which somebody sent within the last minute.", func(m *udpMetrics) *Gauge { return &m.open }),
			counts("udp_read_packets_total", "Total count of UDP packets from peers.", func(m *udpMetrics) *Counter { return &m.read }),
			counts("udp_read_bytes_total", "Total count of bytes of those, with headers.", func(m *udpMetrics) *Counter { return &m.readBytes }),
			counts("udp_write_packets_total", "Total count of UDP packets to peers.", func(m *udpMetrics) *Counter { return &m.wrote }),
			counts("udp_write_bytes_total", "Total count of bytes of those, with headers.", func(m *udpMetrics) *Counter { return &m.wroteBytes }),
		),
		names: newSets(r,
			counts("dns_queries_total", "Total count of queries over UDP for a name, each time that one is sent.", func(m *dnsMetrics) *Counter { return &m.queries }),
			column[dnsMetrics]{"dns_responses_total", "Total count of their responses, by response code.", counter, printResponses},
			counts("dns_answers_total", "Total count of records in answer sections of those.", func(m *dnsMetrics) *Counter { return &m.answers }),
			rare("dns_unanswered_total", "Total count of queries without a response within 5 seconds.", func(m *dnsMetrics) *Counter { return &m.unanswered }),
			column[dnsMetrics]{"dns_response_latency_seconds", "The time between a query and its response.", histogram, func(t *text, s *set[dnsMetrics]) {
				t.histogram("dns_response_latency_seconds", s.labels, "", &dnsScale, &s.metrics.took)
			}},
		),
	}
	d.flows.max, d.names.max = maxUDP, maxNames
	r.Collect(d.collect)
	return d
}

func printResponses(t *text, s *set[dnsMetrics]) {
	for i, code := range [rcodes]string{`rcode="NOERROR"`, `rcode="FORMERR"`, `rcode="SERVFAIL"`, `rcode="NXDOMAIN"`, `rcode="NOTIMP"`, `rcode="REFUSED"`, `rcode="other"`} {
		if n := s.metrics.responses[i].Value(); n > 0 {
			t.sample("dns_responses_total", s.labels, code, n)
		}
	}
}

// collect prints what there was no room to remember.
func (d *Datagrams) collect(w *Writer) {
	w.Counter("udp_unwatched_packets_total", "Total count of UDP packets of flows that were not remembered, as there are too many.")
	w.Sample("udp_unwatched_packets_total", float64(d.overflowIn.Value()), Label{"way", "read"})
	w.Sample("udp_unwatched_packets_total", float64(d.overflowOut.Value()), Label{"way", "write"})
	w.Counter("udp_unwatched_bytes_total", "Total count of bytes of those.")
	w.Sample("udp_unwatched_bytes_total", float64(d.overflowInBytes.Value()), Label{"way", "read"})
	w.Sample("udp_unwatched_bytes_total", float64(d.overflowOutBytes.Value()), Label{"way", "write"})
	w.Counter("dns_unwatched_queries_total", "Total count of queries that were not remembered, as too many wait for their responses.")
	w.Sample("dns_unwatched_queries_total", float64(d.unwatched.Value()))
}

// Overflow counts a packet of no flow.
func (d *Datagrams) Overflow(read bool, size int) {
	if read {
		d.overflowIn.Inc()
		d.overflowInBytes.Add(uint64(size))
		return
	}
	d.overflowOut.Inc()
	d.overflowOutBytes.Add(uint64(size))
}

// Unwatched counts a query whose response nobody will look for.
func (d *Datagrams) Unwatched() { d.unwatched.Inc() }

// UDP is a handle for the flows that lead to one address.
type UDP struct {
	sets *sets[udpMetrics]
	set  *set[udpMetrics]
}

// Flow begins one; Close ends it.
func (d *Datagrams) Flow(dir flow.Direction, target netip.AddrPort) UDP {
	l := Labels{Direction: dir, Target: target}
	var stack [256]byte
	b := appendLabel(stack[:0], "direction", dir.String())
	b = l.appendTarget(b)
	u := UDP{d.flows, d.flows.acquire(b)}
	if u.set != nil {
		u.set.metrics.flows.Inc()
		u.set.metrics.open.Add(1)
	}
	return u
}

// Packet counts one of the flow's, from the peer (read) or to it.
func (u UDP) Packet(read bool, size int) {
	if u.set == nil {
		return
	}
	m := &u.set.metrics
	if read {
		m.read.Inc()
		m.readBytes.Add(uint64(size))
		return
	}
	m.wrote.Inc()
	m.wroteBytes.Add(uint64(size))
}

// Close ends the flow. The handle must not be used afterwards.
func (u UDP) Close() {
	if u.set != nil {
		u.set.metrics.open.Add(-1)
		u.sets.release(u.set)
	}
}

// DNS is a handle for queries for one name and type.
type DNS struct {
	sets *sets[dnsMetrics]
	set  *set[dnsMetrics]
}

// Name finds the figures; Release gives them back.
func (d *Datagrams) Name(name, kind string) DNS {
	var stack [512]byte
	return DNS{d.names, d.names.acquire(appendLabel(appendLabel(stack[:0], "name", name), "type", kind))}
}

// Asked counts a query.
func (d DNS) Asked() {
	if d.set != nil {
		d.set.metrics.queries.Inc()
	}
}

// Answered counts its response.
func (d DNS) Answered(rcode uint8, answers int, took time.Duration) {
	if d.set == nil {
		return
	}
	m := &d.set.metrics
	m.responses[min(rcode, rcodes-1)].Inc()
	m.answers.Add(uint64(answers))
	m.took.took(&dnsScale, took)
}

// Unanswered counts a query that had none.
func (d DNS) Unanswered() {
	if d.set != nil {
		d.set.metrics.unanswered.Inc()
	}
}

// Release gives the handle back. It must not be used afterwards.
func (d DNS) Release() { d.sets.release(d.set) }
