package resilience

import "time"

// Accrual says when an endpoint has failed so much that it gets no requests for a
// while.
type Accrual struct {
	// Consecutive failures after which it gets none; 0 is no such bound.
	Consecutive int
	// Backoff is for how long: the first time Min, and longer each time that the
	// one request which is then tried fails.
	Backoff Backoff
	// Rate also bounds the share of successes; the zero one does not.
	Rate RatePolicy
	// HonorRetryAfter makes a rest as long as the endpoint's own Retry-After asks,
	// up to MaxRetryAfter.
	HonorRetryAfter bool
}

// Equal compares two; nil is none.
func (a *Accrual) Equal(o *Accrual) bool {
	if a == nil || o == nil {
		return a == o
	}
	return *a == *o
}

// MaxRetryAfter is the longest Retry-After that is believed.
const MaxRetryAfter = 5 * time.Minute

// RatePolicy bounds the share of successes in a window of time.
type RatePolicy struct {
	// Threshold is the share below which an endpoint gets no requests; 0: none.
	Threshold float64
	Window    time.Duration
	// MinRequests is how many requests the window needs to mean anything.
	MinRequests int
}

// Verdict is what a Breaker wants done with its endpoint.
type Verdict uint8

// The verdicts.
const (
	// Keep it as it is.
	Keep Verdict = iota
	// Rest: no requests for the time that comes with it; then call Try.
	Rest
	// Serve: it is well again.
	Serve
	// TryAgain: the request that was tried said nothing; another one may go.
	TryAgain
)

// Breaker keeps one endpoint's account.
//
//	serving ──failed too much──▶ resting ──Try──▶ on trial ──Began──▶ tried ──success──▶ serving
//	                                ▲                                   │
//	                                └──────────────failure──────────────┘
//
// What requests say that began before a rest does not count after it.
type Breaker struct {
	p     *Accrual
	state state
	fails int // in a row
	rests int // in a row, for the backoff
	rate  window
}

type state uint8

const (
	serving state = iota
	resting
	onTrial
	tried
)

// NewBreaker makes one for an endpoint that is well.
func NewBreaker(p *Accrual) *Breaker { return &Breaker{p: p} }

// Serving reports that the endpoint is well, as far as is known.
func (b *Breaker) Serving() bool { return b.state == serving }

// Try is the end of a rest: one request may go to the endpoint now.
func (b *Breaker) Try() { b.state = onTrial }

// Began hears of a request to the endpoint. It reports whether it is the one that
// is tried, after which no other may follow; its End has trial set.
func (b *Breaker) Began() (trial bool) {
	if b.state != onTrial {
		return false
	}
	b.state = tried
	return true
}

// Sign is what a request's end says of its endpoint.
type Sign struct {
	// Trial: Began said so of this request.
	Trial bool
	// Failed: the endpoint failed. Limited: it said that it has too much to do,
	// which counts for the rate alone. Void: the end says nothing.
	Failed, Limited, Void bool
	// RetryAfter is what the endpoint asked for, if it did.
	RetryAfter time.Duration
}

// Answered hears that the request that is tried has an answer, though not all of
// it. It reports whether the endpoint is well.
func (b *Breaker) Answered() bool {
	if b.state != tried {
		return false
	}
	*b = Breaker{p: b.p}
	return true
}

// Ended hears of a request's end and says what to do. random is any 64 bits.
func (b *Breaker) Ended(now time.Duration, s Sign, random uint64) (v Verdict, rest time.Duration) {
	switch {
	case s.Trial && b.state == tried && s.Void:
		b.state = onTrial
		return TryAgain, 0
	case s.Trial && b.state == tried && (s.Failed || s.Limited && b.p.Rate.Threshold > 0):
		b.rests++
		return b.rest(s, random)
	case s.Trial && b.state == tried:
		*b = Breaker{p: b.p}
		return Serve, 0
	case b.state != serving || s.Void:
		return Keep, 0
	}
	if s.Failed {
		b.fails++
	} else if !s.Limited {
		b.fails = 0
	}
	low := b.rate.add(now, &b.p.Rate, s.Failed || s.Limited)
	if b.p.Consecutive > 0 && b.fails >= b.p.Consecutive || low {
		b.rests = 0
		return b.rest(s, random)
	}
	return Keep, 0
}

func (b *Breaker) rest(s Sign, random uint64) (Verdict, time.Duration) {
	b.state, b.fails, b.rate = resting, 0, window{}
	d := b.p.Backoff.Pause(b.rests, random)
	if b.p.HonorRetryAfter {
		d = max(d, min(s.RetryAfter, MaxRetryAfter))
	}
	return Rest, d
}

// window counts what ended in the last time, in slots.
type window struct {
	at    int64
	slots [slots]struct{ good, bad int32 }
}

// add counts one end, and reports whether the rate is below its threshold.
func (w *window) add(now time.Duration, p *RatePolicy, bad bool) (low bool) {
	if p.Threshold <= 0 {
		return false
	}
	at := int64(now / max(p.Window/slots, 1))
	for n := min(at-w.at, slots); n > 0; n-- {
		w.slots[(at-n+1)%slots].good, w.slots[(at-n+1)%slots].bad = 0, 0
	}
	w.at = max(at, w.at)
	if s := &w.slots[w.at%slots]; bad {
		s.bad++
	} else {
		s.good++
	}
	good, all := 0, 0
	for _, s := range w.slots {
		good += int(s.good)
		all += int(s.good + s.bad)
	}
	return bad && all >= p.MinRequests && float64(good) < p.Threshold*float64(all)
}
