package exchange

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// Terms are what a target's requests are under. They are shared by all exchanges
// with the target on one loop.
type Terms struct {
	Policy *resilience.Policy
	// Budget bounds retries; required where the policy has them.
	Budget *resilience.Budget
	// Rand is a source of uniform 64-bit numbers; required as Budget is.
	Rand func() uint64
	// Now is the wall clock, for dates in Retry-After; nil: time.Now.
	Now func() time.Time
	// Retries hears of retries; nil: nobody does.
	Retries Retries
}

// Retries hears what became of requests that would be sent again, on the loop.
type Retries interface {
	// Retried: a request is sent once more.
	Retried()
	// Succeeded: one that was retried got a response that asks for no retry.
	Succeeded()
	// LimitExceeded: a request was not sent again because it had been, often.
	LimitExceeded()
	// Overflowed: a request was not sent again because all of them together
	// had been too often.
	Overflowed()
}

// A Chooser is an Opener that can say whether a request has somewhere else to go.
type Chooser interface {
	// Elsewhere reports whether Open would find an endpoint that was not asked yet.
	Elsewhere(x *Exchange) bool
}
