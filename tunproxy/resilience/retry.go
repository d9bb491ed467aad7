package resilience

import (
	"slices"
	"time"
)

// Retry says which requests are sent again, and how often. Whoever asks for it
// says that all of the Service's requests may arrive twice, whatever their method.
type Retry struct {
	// Statuses are the ranges of HTTP statuses after which to try again.
	Statuses []StatusRange
	// Codes has bit n set to try again after the gRPC status n.
	Codes uint32
	// Limit is how often a request is sent again.
	Limit int
	// Timeout is how long a try may go without the head of a response, counted
	// from the end of the request, while another try is left; 0 is no limit.
	Timeout time.Duration
	Backoff Backoff
	// Budget bounds the retries of all requests together.
	Budget BudgetPolicy
}

// StatusRange is a range of HTTP statuses, both ends in it.
type StatusRange struct{ First, Last int }

// Status reports whether to try again after a response with that HTTP status.
func (r *Retry) Status(code int) bool {
	return slices.ContainsFunc(r.Statuses, func(s StatusRange) bool { return s.First <= code && code <= s.Last })
}

// Code reports whether to try again after a response with that gRPC status.
func (r *Retry) Code(code int) bool { return code >= 0 && code < 32 && r.Codes&(1<<code) != 0 }

// equal compares two; nil is none.
func (r *Retry) equal(o *Retry) bool {
	if r == nil || o == nil {
		return r == o
	}
	return slices.Equal(r.Statuses, o.Statuses) && r.Codes == o.Codes && r.Limit == o.Limit && r.Timeout == o.Timeout &&
		r.Backoff == o.Backoff && r.Budget == o.Budget
}
