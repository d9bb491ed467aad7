package resilience

import "time"

// BudgetPolicy bounds retries by the requests that cause them, so that a Service
// that fails as a whole does not get a multiple of its load. The zero one does
// not bound.
type BudgetPolicy struct {
	// Ratio is how many retries a request pays for.
	Ratio float64
	// PerSecond are retries that nobody pays for, so that few requests may be
	// retried at all.
	PerSecond float64
	// Window is how long payments last. 0: there is no bound.
	Window time.Duration
}

// slots is how many parts a window has; one of them falls out at a time.
const slots = 10

// Budget is the account of one event loop for one Service.
type Budget struct {
	p    BudgetPolicy
	at   int64 // the current slot, counted from the loop's beginning
	paid [slots]slot
}

type slot struct{ requests, retries int }

// NewBudget opens an account.
func NewBudget(p BudgetPolicy) *Budget { return &Budget{p: p} }

// Request pays for a request.
func (b *Budget) Request(now time.Duration) {
	if b.p.Window > 0 {
		b.slot(now).requests++
	}
}

// Take asks for a retry; it reports whether the budget has it.
func (b *Budget) Take(now time.Duration) bool {
	if b.p.Window <= 0 {
		return true
	}
	cur := b.slot(now)
	var sum slot
	for _, s := range b.paid {
		sum.requests += s.requests
		sum.retries += s.retries
	}
	if float64(sum.retries)+1 > b.p.Ratio*float64(sum.requests)+b.p.PerSecond*b.p.Window.Seconds() {
		return false
	}
	cur.retries++
	return true
}

// slot is the current one; those that fell out of the window are emptied.
func (b *Budget) slot(now time.Duration) *slot {
	at := int64(now / max(b.p.Window/slots, 1))
	for n := min(at-b.at, slots); n > 0; n-- {
		b.paid[(at-n+1)%slots] = slot{}
	}
	b.at = max(at, b.at)
	return &b.paid[b.at%slots]
}
