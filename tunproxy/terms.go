package tunproxy

import (
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
	"github.com/tunmesh/tunmesh/tunproxy/route"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// setTerms takes in what the Service's owner asks for now. Requests under way stay
// under what they began with.
func (tg *target) setTerms(p *resilience.Policy) {
	var old *resilience.Policy
	var budget *resilience.Budget
	if tg.terms != nil {
		old, budget = tg.terms.Policy, tg.terms.Budget
	}
	if p.Equal(old) {
		return
	}
	tg.terms = nil
	if p != nil {
		tg.terms = tg.newTerms(p, old, budget)
	}
	if old != nil && old.Accrual != nil && !old.Accrual.Equal(tg.accrual()) {
		tg.resetBreakers()
	}
}

// newTerms are the terms of a policy; the account of retries goes on where its
// rules stay.
func (tg *target) newTerms(p, old *resilience.Policy, budget *resilience.Budget) *exchange.Terms {
	t := &exchange.Terms{Policy: p, Rand: tg.w.rand.Uint64}
	if p.Retry != nil {
		if budget == nil || old.Retry == nil || old.Retry.Budget != p.Retry.Budget {
			budget = resilience.NewBudget(p.Retry.Budget)
		}
		t.Budget = budget
		if tg.retries == nil {
			tg.retries = newRetries(tg.w.p.cfg.Metrics.Routes, parentOf(tg.snap))
		}
		t.Retries = tg.retries
	}
	return t
}

// parentOf names a target in metrics of routes and balancers.
func parentOf(s *discover.Snapshot) telemetry.Parent {
	return telemetry.Parent{Group: "core", Kind: s.Ref.Kind, Namespace: s.Ref.Namespace, Name: s.Ref.Name, Port: s.Ref.Port}
}

// retries counts those of one target.
type retries struct {
	requests, successes, limited, overflowed telemetry.Count
}

func newRetries(m *telemetry.Routes, p telemetry.Parent) *retries {
	ref := telemetry.Ref(route.DefaultRef())
	labels := append(p.Labels(), ref.Labels()...)
	return &retries{
		requests: m.RetryRequests.With(labels...), successes: m.RetrySuccesses.With(labels...),
		limited: m.RetryLimitExceeded.With(labels...), overflowed: m.RetryOverflow.With(labels...),
	}
}

// Retried implements exchange.Retries.
func (r *retries) Retried() { r.requests.Inc() }

// Succeeded implements exchange.Retries.
func (r *retries) Succeeded() { r.successes.Inc() }

// LimitExceeded implements exchange.Retries.
func (r *retries) LimitExceeded() { r.limited.Inc() }

// Overflowed implements exchange.Retries.
func (r *retries) Overflowed() { r.overflowed.Inc() }

// release gives the handles back. r may be nil. Exchanges under way may still
// count; a family's set outlives its handles.
func (r *retries) release() {
	if r != nil {
		for _, c := range []telemetry.Count{r.requests, r.successes, r.limited, r.overflowed} {
			c.Release()
		}
	}
}

var _ exchange.Retries = (*retries)(nil)
