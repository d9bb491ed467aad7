package tunproxy

import (
	"github.com/tunmesh/tunmesh/tunproxy/balance"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// breaker is an endpoint's circuit breaker, as the balancer sees it: while the
// endpoint rests, or a request is tried on it, it may not be chosen.
type breaker struct {
	*resilience.Breaker
	// trial is the request that is tried; nil: none is.
	trial *exchange.Exchange
}

// accrual is what the Service's owner asks for; nil: no breakers.
func (tg *target) accrual() *resilience.Accrual {
	if tg.terms == nil {
		return nil
	}
	return tg.terms.Policy.Accrual
}

// resetBreakers forgets what endpoints did: they are judged by other rules now.
func (tg *target) resetBreakers() {
	var resting []*balance.Member[place]
	tg.set.All(func(m *balance.Member[place]) bool {
		if e := m.Value.used; e != nil {
			e.breaker = nil
		}
		if !m.Ready() {
			resting = append(resting, m)
		}
		return true
	})
	for _, m := range resting {
		m.SetReady(true)
	}
	tg.ill = 0
	tg.assess()
}

// beginFor is begin for a request.
func (e *endpoint) beginFor(x *exchange.Exchange) {
	e.begin()
	a := e.tg.accrual()
	if a == nil {
		return
	}
	if e.breaker == nil {
		e.breaker = &breaker{Breaker: resilience.NewBreaker(a)}
	}
	if e.breaker.Began() {
		e.breaker.trial = x
		e.setReady(false)
	}
}

// Answered implements exchange.Critic.
func (e *endpoint) Answered(x *exchange.Exchange) {
	if b := e.breaker; b != nil && b.trial == x && b.Breaker.Answered() {
		e.recovered()
	}
}

// Judge implements exchange.Critic.
func (e *endpoint) Judge(x *exchange.Exchange, a exchange.Attempt) {
	e.accrue(x, a)
	e.Ended(a.Outcome, a.Wait)
	if p := e.penalty(); p != nil && a.Outcome != exchange.Success && a.Outcome != exchange.Canceled {
		e.member.Penalize(e.tg.w.loop.Now(), p.Of(a.RetryAfter))
	}
}

// penalty is what failures count as; nil: nothing was asked for.
func (e *endpoint) penalty() *resilience.Penalty {
	if e.tg.terms == nil {
		return nil
	}
	return e.tg.terms.Policy.Penalty
}

// accrue tells the breaker how an attempt went.
func (e *endpoint) accrue(x *exchange.Exchange, a exchange.Attempt) {
	b := e.breaker
	if b == nil {
		return
	}
	s := resilience.Sign{
		Trial: b.trial == x, Limited: a.Outcome == exchange.Limited, RetryAfter: a.RetryAfter,
		Failed: a.Outcome == exchange.Failure || a.Outcome == exchange.Undelivered, Void: a.Outcome == exchange.Canceled,
	}
	if s.Trial {
		b.trial = nil
	}
	verdict, rest := b.Ended(e.tg.w.loop.Now(), s, e.tg.w.rand.Uint64())
	switch verdict {
	case resilience.Rest:
		if !s.Trial {
			e.tg.setIll(1)
		}
		e.tg.queue.metrics.Tripped()
		e.setReady(false)
		e.tg.w.loop.AfterFunc(rest, func() { e.try(b) })
	case resilience.TryAgain:
		e.setReady(true)
	case resilience.Serve:
		e.recovered()
	case resilience.Keep:
	}
}

// try lets one request go to an endpoint that has rested.
func (e *endpoint) try(b *breaker) {
	if e.breaker != b || e.member.Removed() {
		return
	}
	b.Try()
	e.member.Forget() // what it did before would keep the trial from it
	e.setReady(true)
}

// recovered: the trial went well.
func (e *endpoint) recovered() {
	e.breaker.trial = nil
	e.tg.setIll(-1)
	e.tg.queue.metrics.Recovered()
	e.setReady(true)
}

func (e *endpoint) setReady(ready bool) {
	if e.member.Removed() {
		return
	}
	e.member.SetReady(ready)
	e.tg.assess()
}

// setIll counts the endpoints that are kept from requests, or on trial.
func (tg *target) setIll(change int) { tg.ill = max(tg.ill+change, 0) }

// dismiss forgets the breaker of an endpoint that left.
func (e *endpoint) dismiss() {
	if e.breaker != nil && !e.breaker.Serving() {
		e.tg.setIll(-1)
	}
	e.breaker = nil
}

var _ exchange.Critic = (*endpoint)(nil)
