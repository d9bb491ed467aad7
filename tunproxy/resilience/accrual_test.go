package resilience

import (
	"math/rand/v2"
	"testing"
	"time"
)

// patient is an endpoint with a breaker, as the tests play it.
type patient struct {
	t   *testing.T
	b   *Breaker
	now time.Duration
}

func newPatient(t *testing.T, p Accrual) *patient {
	return &patient{t, NewBreaker(&p), time.Hour}
}

// end ends one request and checks what is to be done.
func (p *patient) end(s Sign, want Verdict) time.Duration {
	p.t.Helper()
	v, rest := p.b.Ended(p.now, s, 0)
	if v != want || (rest > 0) != (v == Rest) {
		p.t.Fatalf("%+v: verdict %d for %v, want %d", s, v, rest, want)
	}
	return rest
}

// trial lets one request be tried.
func (p *patient) trial(s Sign, want Verdict) time.Duration {
	p.t.Helper()
	p.b.Try()
	if !p.b.Began() || p.b.Began() {
		p.t.Fatal("a trial is not of one request")
	}
	s.Trial = true
	return p.end(s, want)
}

var (
	good    = Sign{}
	bad     = Sign{Failed: true}
	limited = Sign{Limited: true}
	void    = Sign{Void: true}
)

func consecutive(n int) Accrual {
	return Accrual{Consecutive: n, Backoff: Backoff{Min: time.Second, Max: time.Minute}}
}

func TestConsecutiveFailures(t *testing.T) {
	p := newPatient(t, consecutive(7))
	for range 5 { // never seven in a row
		for range 6 {
			p.end(bad, Keep)
		}
		p.end(good, Keep)
	}
	for range 6 {
		p.end(bad, Keep)
		p.end(void, Keep)
		p.end(limited, Keep) // neither a failure nor a success
	}
	if d := p.end(bad, Rest); d != time.Second {
		t.Errorf("the first rest is %v", d)
	}
	if p.b.Serving() || p.b.Began() {
		t.Error("serves while it rests")
	}
	for range 20 { // those that were under way say nothing any more
		p.end(bad, Keep)
		p.end(good, Keep)
	}
	for _, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
		if d := p.trial(bad, Rest); d != want*time.Second {
			t.Errorf("a rest of %v, want %v s", d, want)
		}
	}
	p.trial(void, TryAgain)
	if !p.b.Began() {
		t.Error("a trial without result is not repeated")
	}
	if p.end(Sign{Trial: true}, Serve); !p.b.Serving() {
		t.Error("does not serve after a good trial")
	}
	for range 6 {
		p.end(bad, Keep)
	}
	if d := p.end(bad, Rest); d != time.Second {
		t.Errorf("the next first rest is %v", d)
	}
	p.b.Try()
	if p.b.Answered() || !p.b.Began() || !p.b.Answered() || !p.b.Serving() || p.b.Answered() {
		t.Error("the beginning of a long answer ends a trial, once")
	}
}

func TestRestsAreSpread(t *testing.T) {
	a := consecutive(1)
	a.Backoff.Jitter = 0.5
	rnd, seen := rand.New(rand.NewPCG(1, 2)), map[time.Duration]bool{}
	for range 100 {
		_, d := NewBreaker(&a).Ended(0, bad, rnd.Uint64())
		if d < time.Second || d > 1500*time.Millisecond {
			t.Fatalf("a rest of %v", d)
		}
		seen[d] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d different rests of 100", len(seen))
	}
}

func TestSuccessRate(t *testing.T) {
	unified := Accrual{Consecutive: 100, Backoff: Backoff{Min: time.Second, Max: time.Minute}, Rate: RatePolicy{Threshold: 0.8, Window: 10 * time.Second, MinRequests: 5}}
	p := newPatient(t, unified)
	for range 4 {
		p.end(bad, Keep) // too few to mean anything
	}
	p.end(bad, Rest)

	p = newPatient(t, unified)
	for range 80 {
		p.end(good, Keep)
	}
	for range 20 {
		p.end(limited, Keep) // four of five are good: not below
		p.now += 10 * time.Millisecond
	}
	p.end(limited, Rest)

	p = newPatient(t, unified) // what is long ago does not count
	for range 1000 {
		p.end(good, Keep)
	}
	p.now += 11 * time.Second
	for range 4 {
		p.end(bad, Keep)
	}
	p.end(bad, Rest)
	p.now += time.Second
	p.trial(limited, Rest)
	p.now += 2 * time.Second
	p.trial(good, Serve)
	for range 4 {
		p.end(bad, Keep) // begins anew
	}
	p.end(bad, Rest)

	p = newPatient(t, Accrual{Rate: unified.Rate, Backoff: unified.Backoff}) // the rate alone
	for range 4 {
		p.end(bad, Keep)
	}
	p.end(bad, Rest)
	p = newPatient(t, consecutive(3)) // no rate
	for range 1000 {
		p.end(limited, Keep)
	}
}

func TestRestsThatAreAskedFor(t *testing.T) {
	a := consecutive(1)
	long := Sign{Failed: true, RetryAfter: 30 * time.Second}
	if d := newPatient(t, a).end(long, Rest); d != time.Second {
		t.Errorf("not asked to honour it, and rests %v", d)
	}
	a.HonorRetryAfter = true
	if d := newPatient(t, a).end(long, Rest); d != 30*time.Second {
		t.Errorf("rests %v, want what was asked for", d)
	}
	if d := newPatient(t, a).end(Sign{Failed: true, RetryAfter: time.Millisecond}, Rest); d != time.Second {
		t.Errorf("rests %v, want the least", d)
	}
	if d := newPatient(t, a).end(Sign{Failed: true, RetryAfter: Never}, Rest); d != MaxRetryAfter {
		t.Errorf("rests %v, want the most", d)
	}
}
