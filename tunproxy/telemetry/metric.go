package telemetry

import (
	"sync/atomic"
	"time"
)

// A Counter only grows.
type Counter struct{ v atomic.Uint64 }

// Inc adds 1.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value is the count so far.
func (c *Counter) Value() uint64 { return c.v.Load() }

// A Gauge goes up and down.
type Gauge struct{ v atomic.Int64 }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.v.Add(n) }

// Set replaces the value.
func (g *Gauge) Set(n int64) { g.v.Store(n) }

// Value is the value now.
func (g *Gauge) Value() int64 { return g.v.Load() }

// bounds are the upper limits of Latency's buckets in milliseconds: Linkerd's,
// so that its quantile queries mean the same.
var bounds = [...]uint32{ //nolint:gochecknoglobals // a table
	1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000,
	10000, 20000, 30000, 40000, 50000,
}

// Latency is a histogram of durations.
type Latency struct {
	buckets [len(bounds) + 1]atomic.Uint64 // not cumulative; the last is +Inf
	sum     atomic.Uint64                  // microseconds
}

// Observe counts d.
func (h *Latency) Observe(d time.Duration) {
	if d < 0 {
		d = 0
	}
	h.buckets[bucket(d)].Add(1)
	h.sum.Add(uint64(d / time.Microsecond))
}

// bucket is the first whose bound is not below d.
func bucket(d time.Duration) int {
	lo, hi := 0, len(bounds)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if d <= time.Duration(bounds[mid])*time.Millisecond {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}
