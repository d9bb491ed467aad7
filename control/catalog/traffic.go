package catalog

import (
	"reflect"
	"time"
)

// Traffic is what a Service's annotations ask of those who call it. It is
// immutable; what is zero was not asked for.
type Traffic struct {
	Timeouts Timeouts
	Retry    *Retry   // nil: never
	Accrual  *Accrual // nil: no circuit breakers
	Penalty  *Penalty // nil: failures count as slow answers, no more
}

// Penalty is the response time that failures count as.
type Penalty struct {
	Time time.Duration
	// MaxRetryAfter is the most that an answer's Retry-After counts as.
	MaxRetryAfter time.Duration
}

// Accrual says when an endpoint has failed so much that it gets no requests for a
// while.
type Accrual struct {
	// Consecutive failures after which it gets none; 0 is no such bound.
	Consecutive uint32
	Backoff     Backoff
	// Rate also bounds the share of successes; nil does not.
	Rate *Rate
	// RetryAfter: a rest is as long as the endpoint asks.
	RetryAfter bool
}

// Rate bounds the share of successes in a window of time.
type Rate struct {
	Threshold   float64
	Window      time.Duration
	MinRequests uint32
}

// Retry says which requests are sent again.
type Retry struct {
	Statuses []StatusRange // of HTTP
	Codes    []uint32      // of gRPC, sorted
	// Limit is how often one request is sent again.
	Limit uint32
	// Timeout is how long a try may go without a response while another is left.
	Timeout time.Duration
	Backoff Backoff
	// Budget bounds all retries together; nil: nothing does.
	Budget *Budget
}

// StatusRange is a range of HTTP statuses, both ends in it.
type StatusRange struct{ First, Last uint32 }

// Backoff is a pause that doubles from Min to Max, spread by Jitter.
type Backoff struct {
	Min, Max time.Duration
	Jitter   float64
}

// Budget bounds retries by the requests of a window of time.
type Budget struct {
	Percent   uint32 // of the requests
	PerSecond uint32 // that are always allowed
	Window    time.Duration
}

// Timeouts of requests to a Service; 0 is none.
type Timeouts struct {
	// Request bounds a request with its response and all its retries.
	Request time.Duration
	// Response bounds the time from the request's end to the response's.
	Response time.Duration
	// Idle bounds the time in which nothing moves in either direction.
	Idle time.Duration
}

// Equal compares what is asked for; nil asks for nothing.
func (t *Traffic) Equal(o *Traffic) bool { return t == o || reflect.DeepEqual(t, o) }
