// Package resilience decides what is done about requests that fail or take too
// long: what the owner of a Service asked for, as values and small state
// machines. It refuses to know connections, streams, endpoints, timers and the
// clock: it is told what happened and when, and answers what to do.
//
// A Policy is shared by everything that uses it and never changes. What has state
// belongs to one event loop.
package resilience

import "time"

// Policy is what the owner of a Service asked for. The zero Policy asks for
// nothing: requests wait as long as their client does, and go out once.
type Policy struct {
	Timeouts Timeouts
	Retry    *Retry   // nil: never
	Accrual  *Accrual // nil: endpoints get requests whatever they answer
	Penalty  *Penalty // nil: failures are slow answers, and no more
}

// Penalty is the response time that failures, and answers that say that there is
// too much to do, count as when endpoints are chosen.
type Penalty struct {
	Time time.Duration
	// MaxRetryAfter is the most that an answer's Retry-After counts as.
	MaxRetryAfter time.Duration
}

// Of is the penalty for an answer that asks to be left alone for a while.
func (p *Penalty) Of(retryAfter time.Duration) time.Duration {
	return max(p.Time, min(retryAfter, p.MaxRetryAfter))
}

// equal compares two; nil is none.
func (p *Penalty) equal(o *Penalty) bool {
	if p == nil || o == nil {
		return p == o
	}
	return *p == *o
}

// Timeouts end requests; 0 is none.
type Timeouts struct {
	// Request is from a request's head to the end of its response, retries
	// included.
	Request time.Duration
	// Response is from the end of the request to the end of the response.
	Response time.Duration
	// Idle is how long nothing may move, in either direction.
	Idle time.Duration
}

// Equal compares two policies; nil is one that asks for nothing.
func (p *Policy) Equal(o *Policy) bool {
	switch {
	case p == o:
		return true
	case p == nil || o == nil:
		return false
	}
	return p.Timeouts == o.Timeouts && p.Retry.equal(o.Retry) && p.Accrual.Equal(o.Accrual) && p.Penalty.equal(o.Penalty)
}
