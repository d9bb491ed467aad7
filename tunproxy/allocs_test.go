//go:build !race

// Under the race detector sync.Pool drops items at random, so that crypto/tls's
// buffers are allocated anew.

package tunproxy

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// TestAllocations: what a request through two sidecars allocates in steady state,
// with both its ends, mTLS, balancing, policy, metrics and a tap that nobody
// watches. HTTP/1: the text of each head, once on either side.
//
// The same holds with every timeout armed, retries and breakers, and of requests
// that are not sampled where others are.
func TestAllocations(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testAllocations(t, nil, func(*Proxy) {}) })
	t.Run("untraced", func(t *testing.T) { testAllocations(t, nil, trace(0)) })
	t.Run("armed", func(t *testing.T) {
		testAllocations(t, &resilience.Policy{
			Timeouts: resilience.Timeouts{Request: time.Hour, Response: time.Hour, Idle: time.Hour},
			Retry: &resilience.Retry{
				Statuses: []resilience.StatusRange{{First: 500, Last: 599}}, Codes: 1 << 14, Limit: 2, Timeout: time.Hour,
				Backoff: resilience.Backoff{Min: time.Millisecond, Max: time.Second}, Budget: resilience.BudgetPolicy{Ratio: 0.2, PerSecond: 10, Window: 10 * time.Second},
			},
			Accrual: &resilience.Accrual{Consecutive: 7, Backoff: resilience.Backoff{Min: time.Second, Max: time.Minute}},
		}, func(*Proxy) {})
	})
}

func testAllocations(t *testing.T, traffic *resilience.Policy, change func(*Proxy)) {
	for _, k := range []struct {
		name   string
		load   func(testing.TB, int) (*pair, load)
		conns  int
		atOnce int
		limit  float64
	}{
		{"grpc/1x1", grpcLoad, 1, 1, 0},
		{"grpc/8x16", grpcLoad, 8, 128, 0},
		{"http2/8x16", http2Load, 8, 128, 0},
		{"http1/1", http1Load, 1, 1, 2},
		{"http1/16", http1Load, 16, 16, 2},
	} {
		t.Run(k.name, func(t *testing.T) {
			p, l := k.load(t, k.conns)
			p.ask(traffic)
			change(p.a.p)
			change(p.b.p)
			warm(p, l, k.atOnce)
			const calls = 1280
			per := testing.AllocsPerRun(20, func() {
				l.start(calls, k.atOnce)
				for p.loop.Pass() {
				}
			}) / calls
			if l.done() != calls {
				t.Fatalf("%d calls of %d", l.done(), calls)
			}
			// A collection in between empties sync.Pools: a few allocations.
			if per > k.limit+0.05 {
				t.Errorf("%.3f allocations per request, at most %v are allowed", per, k.limit)
			}
		})
	}
}
