package telemetry

import "strconv"

// Routes are the families of requests to a Service, as its callers see them:
// whatever endpoints were asked for one. Their labels name the Service (parent_)
// and the rule that took the request (route_).
type Routes struct {
	// RetryRequests are requests sent again, RetrySuccesses requests that were and
	// then got a good response. RetryLimitExceeded and RetryOverflow are those not
	// sent again because of the limit for one, and for all of them.
	RetryRequests, RetrySuccesses, RetryLimitExceeded, RetryOverflow *Counters
}

func newRoutes(r *Registry) *Routes {
	return &Routes{
		RetryRequests:      NewCounters(r, "outbound_http_route_retry_requests_total", "Total count of requests sent again."),
		RetrySuccesses:     NewCounters(r, "outbound_http_route_retry_successes_total", "Total count of requests that got a good response after being sent again."),
		RetryLimitExceeded: NewCounters(r, "outbound_http_route_retry_limit_exceeded_total", "Total count of requests not sent again because they had been as often as the limit says."),
		RetryOverflow:      NewCounters(r, "outbound_http_route_retry_overflow_total", "Total count of requests not sent again because the budget for all of them was spent."),
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
