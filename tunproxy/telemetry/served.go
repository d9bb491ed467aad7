package telemetry

import (
	"strconv"
	"time"
)

// Served are the families of inbound requests by the policy's server (parent_)
// and the rule (route_).
type Served struct{ sets *sets[servedMetrics] }

type servedMetrics struct {
	requests          Counter
	answers           answers // with the time from the request's head to the end
	response          Histogram
	received, written Histogram // frames
}

func newServed(r *Registry) *Served {
	const prefix = "inbound_http_"
	total, request, response := prefix+"statuses_total", prefix+"request_duration_seconds", prefix+"response_duration_seconds"
	received, written := prefix+"request_frame_size_bytes", prefix+"response_frame_size_bytes"
	return &Served{newSets(r,
		counts(prefix+"requests_total", "Total count of requests that policy let through.", func(m *servedMetrics) *Counter { return &m.requests }),
		column[servedMetrics]{total, "Total count of completed responses.", counter, func(t *text, s *set[servedMetrics]) {
			s.metrics.answers.statuses(t, total, s.labels, "status", false)
		}},
		column[servedMetrics]{request, "The time between a request being received and its response having been sent.", histogram, func(t *text, s *set[servedMetrics]) {
			s.metrics.answers.durations(t, request, s.labels, &routeScale)
		}},
		column[servedMetrics]{response, "The time between a response's head and its end.", histogram, func(t *text, s *set[servedMetrics]) {
			t.histogram(response, s.labels, "", &routeScale, &s.metrics.response)
		}},
		column[servedMetrics]{received, "Sizes of the pieces in which bodies of requests came.", histogram, func(t *text, s *set[servedMetrics]) {
			t.histogram(received, s.labels, "", &frameScale, &s.metrics.received)
		}},
		column[servedMetrics]{written, "Sizes of the pieces in which bodies of responses came.", histogram, func(t *text, s *set[servedMetrics]) {
			t.histogram(written, s.labels, "", &frameScale, &s.metrics.written)
		}},
	)}
}

// Serving is a handle for requests to one server by one rule. The zero Serving
// counts nothing.
type Serving struct {
	sets *sets[servedMetrics]
	set  *set[servedMetrics]
}

// Handle finds the figures; Release gives them back.
func (m *Served) Handle(s Server, r Ref) Serving {
	var stack [512]byte
	b := appendLabels(stack[:0], []Label{
		{"parent_group", s.Group}, {"parent_kind", s.Kind}, {"parent_name", s.Name}, {"parent_port", strconv.Itoa(int(s.Port))},
		{"route_group", r.Group}, {"route_kind", r.Kind}, {"route_name", r.Name},
	})
	return Serving{m.sets, m.sets.acquire(b)}
}

// Request counts a request, Ended how it went: response is the time that its
// response's body took.
func (s Serving) Request() {
	if s.set != nil {
		s.set.metrics.requests.Inc()
	}
}

// Ended is Request's end.
func (s Serving) Ended(a Answer, response time.Duration, request Frames) {
	if s.set != nil {
		m := &s.set.metrics
		m.answers.observe(&routeScale, &a)
		m.response.took(&routeScale, response)
		m.received.pieces(&request)
		m.written.pieces(&a.Frames)
	}
}

// Release gives the handle back. It must not be used afterwards.
func (s Serving) Release() {
	if s.set != nil {
		s.sets.release(s.set)
	}
}
