//go:build !race

// Under the race detector sync.Pool drops items at random, so that crypto/tls's
// buffers are allocated anew.

package tunproxy

import "testing"

// TestAllocations: what a request through two sidecars allocates in steady state,
// with both its ends, mTLS, balancing, policy, metrics and a tap that nobody
// watches. HTTP/1: the text of each head, once on either side.
func TestAllocations(t *testing.T) {
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
