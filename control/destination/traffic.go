package destination

import (
	"time"

	api "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/control/catalog"
)

// traffic is what a Service asks for as the wire API carries it.
func traffic(t *catalog.Traffic) *api.Traffic {
	if t == nil {
		return nil
	}
	return &api.Traffic{
		Retry:    retry(t.Retry),
		Accrual:  accrual(t.Accrual),
		Penalty:  penalty(t.Penalty),
		Timeouts: &api.Timeouts{RequestMs: ms(t.Timeouts.Request), ResponseMs: ms(t.Timeouts.Response), IdleMs: ms(t.Timeouts.Idle)},
	}
}

func retry(r *catalog.Retry) *api.Retry {
	if r == nil {
		return nil
	}
	m := &api.Retry{Codes: r.Codes, Limit: r.Limit, TimeoutMs: ms(r.Timeout), Backoff: backoff(r.Backoff)}
	for _, s := range r.Statuses {
		m.Statuses = append(m.Statuses, &api.StatusRange{First: s.First, Last: s.Last})
	}
	if b := r.Budget; b != nil {
		m.Budget = &api.RetryBudget{Percent: b.Percent, PerSecond: b.PerSecond, WindowMs: ms(b.Window)}
	}
	return m
}

func accrual(a *catalog.Accrual) *api.Accrual {
	if a == nil {
		return nil
	}
	m := &api.Accrual{Consecutive: a.Consecutive, Backoff: backoff(a.Backoff), RetryAfter: a.RetryAfter}
	if r := a.Rate; r != nil {
		m.Rate = &api.SuccessRate{Threshold: r.Threshold, WindowMs: ms(r.Window), MinRequests: r.MinRequests}
	}
	return m
}

func penalty(p *catalog.Penalty) *api.Penalty {
	if p == nil {
		return nil
	}
	return &api.Penalty{TimeMs: ms(p.Time), MaxRetryAfterMs: ms(p.MaxRetryAfter)}
}

func backoff(b catalog.Backoff) *api.Backoff {
	return &api.Backoff{MinMs: ms(b.Min), MaxMs: ms(b.Max), Jitter: b.Jitter}
}

// ms is a duration as the wire API writes it; annotations have no finer one.
func ms(d time.Duration) uint64 { return uint64(max(d, 0) / time.Millisecond) }
