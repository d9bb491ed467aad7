package resilience

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestConditions(t *testing.T) {
	r := &Retry{Statuses: []StatusRange{{429, 429}, {502, 504}}, Codes: 1<<1 | 1<<14}
	for code, want := range map[int]bool{0: false, 200: false, 428: false, 429: true, 430: false, 501: false, 502: true, 503: true, 504: true, 505: false} {
		if r.Status(code) != want {
			t.Errorf("status %d: %v", code, !want)
		}
	}
	for code, want := range map[int]bool{-1: false, 0: false, 1: true, 2: false, 14: true, 31: false, 32: false, 33: false, 46: false, 1 << 40: false} {
		if r.Code(code) != want {
			t.Errorf("code %d: %v", code, !want)
		}
	}
}

func TestPolicyEqual(t *testing.T) {
	var none *Policy
	a := &Policy{Retry: &Retry{Statuses: []StatusRange{{500, 599}}, Limit: 1}}
	b := &Policy{Retry: &Retry{Statuses: []StatusRange{{500, 599}}, Limit: 1}}
	if !none.Equal(nil) || none.Equal(a) || a.Equal(nil) || !a.Equal(b) || a.Equal(&Policy{}) {
		t.Error("equal is not equal")
	}
	b.Retry.Statuses[0].Last = 501
	if a.Equal(b) {
		t.Error("another range is equal")
	}
}

func TestBackoff(t *testing.T) {
	const ms = time.Millisecond
	b := Backoff{Min: 25 * ms, Max: 250 * ms, Jitter: 1}
	rnd := rand.New(rand.NewPCG(1, 2))
	for n, want := range []struct{ least, most time.Duration }{
		{25 * ms, 50 * ms}, {50 * ms, 100 * ms}, {100 * ms, 200 * ms}, {100 * ms, 250 * ms}, {125 * ms, 250 * ms}, {125 * ms, 250 * ms},
	} {
		spread := map[time.Duration]bool{}
		for range 1000 {
			d := b.Pause(n, rnd.Uint64())
			if d < want.least || d > want.most {
				t.Fatalf("pause %d is %v, want %v to %v", n, d, want.least, want.most)
			}
			spread[d] = true
		}
		if len(spread) < 500 {
			t.Errorf("pause %d has %d values of 1000", n, len(spread))
		}
	}
	if d := (Backoff{Min: time.Second, Max: time.Hour}).Pause(1<<30, ^uint64(0)); d != time.Hour {
		t.Errorf("without jitter, far out: %v", d)
	}
	if d := (Backoff{}).Pause(3, 1); d != 0 {
		t.Errorf("none: %v", d)
	}
}

func TestBudget(t *testing.T) {
	taken := func(b *Budget, now time.Duration) (n int) {
		for b.Take(now) && n < 10_000 {
			n++
		}
		return n
	}
	b := NewBudget(BudgetPolicy{Ratio: 0.2, PerSecond: 10, Window: 10 * time.Second})
	now := time.Hour
	if n := taken(b, now); n != 100 {
		t.Errorf("%d retries without requests, want 10 a second for 10 s", n)
	}
	for range 1000 {
		b.Request(now)
	}
	if n := taken(b, now); n != 200 {
		t.Errorf("%d retries that 1,000 requests paid for, want 200", n)
	}
	now += 5 * time.Second
	for range 50 {
		b.Request(now)
	}
	if n := taken(b, now); n != 10 {
		t.Errorf("%d retries that 50 more paid for, want 10", n)
	}
	now += 6 * time.Second // what happened first is forgotten, payments and retries
	if n := taken(b, now); n != 100 {
		t.Errorf("%d retries after most of a window, want 100", n)
	}
	now += time.Hour
	if n := taken(b, now); n != 100 {
		t.Errorf("%d retries after an hour, want 100", n)
	}
	if n := taken(NewBudget(BudgetPolicy{}), now); n != 10_000 {
		t.Errorf("no budget is a bound of %d", n)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, " 120\t": 2 * time.Minute, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0,
	} {
		if got, ok := RetryAfter(value, now); !ok || got != want {
			t.Errorf("%q: %v %v, want %v", value, got, ok, want)
		}
	}
	for _, value := range []string{"", " ", "-1", "+1", "1.5", "1s", "soon", "99999999999", "02 Jan 2026 03:05:05 GMT"} {
		if got, ok := RetryAfter(value, now); ok {
			t.Errorf("%q: %v", value, got)
		}
	}
	if Pushback("20") != 20*time.Millisecond || Pushback("0") != 0 || Pushback("-1") != Never || Pushback("") != Never || Pushback("x") != Never {
		t.Error("pushback")
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Fri, 02 Jan 2026 03:05:05 GMT")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		if d, ok := RetryAfter(value, now); d < 0 || !ok && d != 0 {
			t.Errorf("%q: %v %v", value, d, ok)
		}
		if d := Pushback(value); d < 0 {
			t.Errorf("%q: pushback %v", value, d)
		}
	})
}

func TestPenalty(t *testing.T) {
	p := &Penalty{Time: 5 * time.Second, MaxRetryAfter: time.Minute}
	for after, want := range map[time.Duration]time.Duration{0: 5, time.Second: 5, 30 * time.Second: 30, time.Hour: 60, Never: 60} {
		if got := p.Of(after); got != want*time.Second {
			t.Errorf("asked for %v: %v", after, got)
		}
	}
}
