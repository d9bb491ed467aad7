package discover

import (
	"fmt"
	"math"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/resilience"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// trafficOf checks what a target asks of its callers; nil: nothing. Like the rest
// of an update it is taken whole or not at all.
func trafficOf(m *wire.Traffic) (*resilience.Policy, error) {
	if m == nil {
		return nil, nil
	}
	r := trafficReader{}
	p := &resilience.Policy{
		Retry:   r.retry(m.Retry),
		Accrual: r.accrual(m.Accrual),
		Timeouts: resilience.Timeouts{
			Request:  r.ms("request timeout", m.Timeouts.RequestMS),
			Response: r.ms("response timeout", m.Timeouts.ResponseMS),
			Idle:     r.ms("idle timeout", m.Timeouts.IdleMS),
		},
	}
	if t := m.Penalty; t != nil {
		p.Penalty = &resilience.Penalty{Time: r.ms("penalty", t.TimeMS), MaxRetryAfter: r.ms("penalty's Retry-After", t.MaxRetryAfterMS)}
	}
	if p.Equal(&resilience.Policy{}) {
		p = nil
	}
	return p, r.err
}

// trafficReader reads fields and keeps the first error.
type trafficReader struct{ err error }

func (r *trafficReader) bad(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("traffic: "+format, args...)
	}
}

func (r *trafficReader) ms(what string, n uint64) time.Duration {
	if n > math.MaxInt64/uint64(time.Millisecond) {
		r.bad("%s of %d ms", what, n)
		return 0
	}
	return time.Duration(n) * time.Millisecond //nolint:gosec // checked
}

func (r *trafficReader) retry(m *wire.Retry) *resilience.Retry {
	if m == nil {
		return nil
	}
	t := &resilience.Retry{
		Limit: int(m.Limit), Timeout: r.ms("retry timeout", m.TimeoutMS), Backoff: r.backoff(m.Backoff),
	}
	for _, s := range m.Statuses {
		if s.First < 100 || s.Last > 599 || s.First > s.Last {
			r.bad("statuses from %d to %d", s.First, s.Last)
		}
		t.Statuses = append(t.Statuses, resilience.StatusRange{First: int(s.First), Last: int(s.Last)})
	}
	for _, c := range m.Codes {
		if c >= 32 {
			r.bad("gRPC status %d", c)
		}
		t.Codes |= 1 << (c % 32)
	}
	if m.Limit > maxRetries {
		r.bad("%d retries", m.Limit)
	}
	if b := m.Budget; b != nil {
		if b.WindowMS == 0 {
			r.bad("a retry budget without a window")
		}
		t.Budget = resilience.BudgetPolicy{Ratio: float64(b.Percent) / 100, PerSecond: float64(b.PerSecond), Window: r.ms("retry budget's window", b.WindowMS)}
	}
	return t
}

func (r *trafficReader) accrual(m *wire.Accrual) *resilience.Accrual {
	if m == nil {
		return nil
	}
	a := &resilience.Accrual{Consecutive: int(m.Consecutive), Backoff: r.backoff(m.Backoff), HonorRetryAfter: m.RetryAfter}
	if m.Backoff.MaxMS == 0 {
		r.bad("a circuit breaker that never rests")
	}
	if t := m.Rate; t != nil {
		if !(t.Threshold >= 0 && t.Threshold <= 1) || t.WindowMS < minRateWindow || t.MinRequests > maxRateRequests {
			r.bad("a success rate of %v over %d ms and %d requests", t.Threshold, t.WindowMS, t.MinRequests)
		}
		a.Rate = resilience.RatePolicy{Threshold: t.Threshold, Window: r.ms("success rate's window", t.WindowMS), MinRequests: int(t.MinRequests)}
	}
	return a
}

// Bounds of what a success rate is taken of (Linkerd's): below the one a window's
// tenth is shorter than a loop's pass, above the other counters overflow.
const (
	minRateWindow   = 10 // ms
	maxRateRequests = 1_000_000
)

// maxRetries bounds what a control plane may ask for.
const maxRetries = 100

func (r *trafficReader) backoff(m wire.Backoff) resilience.Backoff {
	if m.MinMS > m.MaxMS || !(m.Jitter >= 0 && m.Jitter <= 100) {
		r.bad("a backoff from %d to %d ms with jitter %v", m.MinMS, m.MaxMS, m.Jitter)
	}
	return resilience.Backoff{Min: r.ms("backoff", m.MinMS), Max: r.ms("backoff", m.MaxMS), Jitter: m.Jitter}
}
