package telemetry

import "strconv"

// Routes are the families of requests to a Service, as its callers see them:
// whatever endpoints were asked for one. Their labels name the Service (parent_),
// the rule that took the request (route_), and where that sent it (backend_).
type Routes struct {
	// RetryRequests are requests sent again, RetrySuccesses requests that were and
	// then got a good response. RetryLimitExceeded and RetryOverflow are those not
	// sent again because of the limit for one, and for all of them.
	RetryRequests, RetrySuccesses, RetryLimitExceeded, RetryOverflow *Counters

	routes   *sets[routeMetrics]
	backends *sets[backendMetrics]
}

type routeMetrics struct {
	answers answers
	frames  Histogram // of requests
}

type backendMetrics struct {
	requests Counter
	answers  answers
	frames   Histogram // of responses
}

func newRoutes(r *Registry) *Routes {
	const prefix = "outbound_http_route_"
	duration, statuses, frames := prefix+"request_duration_seconds", prefix+"request_statuses_total", prefix+"request_frame_size_bytes"
	const backend = prefix + "backend_"
	bDuration, bStatuses, bFrames := backend+"response_duration_seconds", backend+"response_statuses_total", backend+"response_frame_size_bytes"
	return &Routes{
		RetryRequests:      NewCounters(r, prefix+"retry_requests_total", "Total count of requests sent again."),
		RetrySuccesses:     NewCounters(r, prefix+"retry_successes_total", "Total count of requests that got a good response after being sent again."),
		RetryLimitExceeded: NewCounters(r, prefix+"retry_limit_exceeded_total", "Total count of requests not sent again because they had been as often as the limit says."),
		RetryOverflow:      NewCounters(r, prefix+"retry_overflow_total", "Total count of requests not sent again because the budget for all of them was spent."),
		routes: newSets(r,
			column[routeMetrics]{duration, "The time between a request being received and its response having been sent.", histogram, func(t *text, s *set[routeMetrics]) {
				s.metrics.answers.durations(t, duration, s.labels, &routeScale)
			}},
			column[routeMetrics]{statuses, "Total count of requests that ended, by the response's status, or the error where there was none.", counter, func(t *text, s *set[routeMetrics]) {
				s.metrics.answers.statuses(t, statuses, s.labels, "http_status", true)
			}},
			column[routeMetrics]{frames, "Sizes of the pieces in which bodies of requests came.", histogram, func(t *text, s *set[routeMetrics]) {
				t.histogram(frames, s.labels, "", &frameScale, &s.metrics.frames)
			}},
		),
		backends: newSets(r,
			counts(backend+"requests_total", "Total count of requests sent to the backend, each time that one is sent.", func(m *backendMetrics) *Counter { return &m.requests }),
			column[backendMetrics]{bDuration, "The time between a request being sent to the backend and the end of its response.", histogram, func(t *text, s *set[backendMetrics]) {
				s.metrics.answers.durations(t, bDuration, s.labels, &backendScale)
			}},
			column[backendMetrics]{bStatuses, "Total count of the backend's responses, by status, or by the error where there was none.", counter, func(t *text, s *set[backendMetrics]) {
				s.metrics.answers.statuses(t, bStatuses, s.labels, "http_status", true)
			}},
			column[backendMetrics]{bFrames, "Sizes of the pieces in which bodies of responses came.", histogram, func(t *text, s *set[backendMetrics]) {
				t.histogram(bFrames, s.labels, "", &frameScale, &s.metrics.frames)
			}},
		),
	}
}

// Ref names a rule: route_group, route_kind, route_namespace, route_name.
type Ref struct{ Group, Kind, Namespace, Name string }

// Labels are Linkerd's names for r.
func (r *Ref) Labels() []Label {
	return []Label{{"route_group", r.Group}, {"route_kind", r.Kind}, {"route_namespace", r.Namespace}, {"route_name", r.Name}}
}

// Route is a handle for the requests of one Service that one rule took, all of
// which go to the Service itself. The zero Route counts nothing.
type Route struct {
	routes  *Routes
	route   *set[routeMetrics]
	backend *set[backendMetrics]
}

// Handle finds the figures; Release gives them back.
func (m *Routes) Handle(p Parent, r Ref) Route {
	var stack [768]byte
	b := appendLabels(stack[:0], p.Labels())
	b = appendLabels(b, r.Labels())
	h := Route{routes: m, route: m.routes.acquire(appendLabel(b, "hostname", ""))}
	h.backend = m.backends.acquire(appendLabels(b, p.named("backend_")))
	return h
}

// Sent counts a request that goes to an endpoint of the backend, and Answered how
// that went.
func (r Route) Sent() {
	if r.backend != nil {
		r.backend.metrics.requests.Inc()
	}
}

// Answered is Sent's end.
func (r Route) Answered(a Answer) {
	if r.backend != nil {
		r.backend.metrics.answers.observe(&backendScale, &a)
	}
}

// Body counts the pieces of a response's body.
func (r Route) Body(f Frames) {
	if r.backend != nil {
		r.backend.metrics.frames.pieces(&f)
	}
}

// Ended counts a request that is over, as the client saw it, with the frames of
// its body.
func (r Route) Ended(a Answer, request Frames) {
	if r.route != nil {
		r.route.metrics.answers.observe(&routeScale, &a)
		r.route.metrics.frames.pieces(&request)
	}
}

// Release gives the handle back. It must not be used afterwards.
func (r Route) Release() {
	if r.routes != nil {
		r.routes.routes.release(r.route)
		r.routes.backends.release(r.backend)
	}
}

// Parent names the resource that a request was for.
type Parent struct {
	Group, Kind, Namespace, Name string
	Port                         uint16
}

// Labels are Linkerd's names for p.
func (p *Parent) Labels() []Label { return p.named("parent_") }

func (p *Parent) named(prefix string) []Label {
	return []Label{
		{prefix + "group", p.Group}, {prefix + "kind", p.Kind}, {prefix + "namespace", p.Namespace}, {prefix + "name", p.Name},
		{prefix + "port", strconv.Itoa(int(p.Port))}, {prefix + "section_name", ""},
	}
}

func appendLabels(b []byte, all []Label) []byte {
	for _, l := range all {
		b = appendLabel(b, l.Name, l.Value)
	}
	return b
}
