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

var boundNames = [...]string{ //nolint:gochecknoglobals // the same, as printed
	"1", "2", "3", "4", "5", "10", "20", "30", "40", "50", "100", "200", "300", "400", "500", "1000", "2000", "3000", "4000", "5000",
	"10000", "20000", "30000", "40000", "50000",
}

// Latency is a histogram of durations.
type Latency struct {
	buckets [len(bounds) + 1]atomic.Uint64 // not cumulative; the last is +Inf
	sum     atomic.Uint64                  // microseconds
	shown   atomic.Pointer[exemplars]      // nil: no traced request yet
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

// scale is the buckets of a Histogram: upper limits in its smallest unit, and how
// they are printed; unit is how many of the smallest make what the sum is in.
type scale struct {
	limits []uint64
	names  []string
	unit   float64
}

// maxBuckets is how many a Histogram has room for, +Inf included.
const maxBuckets = 9

// Histogram counts observations by a scale, which is always the same.
type Histogram struct {
	buckets [maxBuckets]atomic.Uint64 // not cumulative
	sum     atomic.Uint64             // in the smallest unit
}

func (h *Histogram) observe(s *scale, v uint64) {
	i := 0
	for i < len(s.limits) && v > s.limits[i] {
		i++
	}
	h.buckets[i].Add(1)
	if v > 0 {
		h.sum.Add(v)
	}
}

func (h *Histogram) empty() bool {
	for i := range h.buckets {
		if h.buckets[i].Load() > 0 {
			return false
		}
	}
	return true
}

// took observes a duration by a scale of microseconds.
func (h *Histogram) took(s *scale, d time.Duration) { h.observe(s, uint64(max(0, d/time.Microsecond))) }

// The scales; those of Linkerd's families are Linkerd's.
var ( //nolint:gochecknoglobals // tables
	routeScale    = scale{[]uint64{50e3, 500e3, 1e6, 10e6}, []string{"0.05", "0.5", "1", "10"}, 1e6}
	backendScale  = scale{[]uint64{25e3, 50e3, 100e3, 250e3, 500e3, 1e6, 10e6}, []string{"0.025", "0.05", "0.1", "0.25", "0.5", "1", "10"}, 1e6}
	frameScale    = scale{[]uint64{128, 1024, 10240}, []string{"128", "1024", "10240"}, 1}
	queueScale    = scale{[]uint64{500, 5e3, 50e3, 500e3, 1e6, 3e6}, []string{"0.0005", "0.005", "0.05", "0.5", "1", "3"}, 1e6}
	detectScale   = scale{[]uint64{1e3, 100e3}, []string{"0.001", "0.1"}, 1e6}
	dnsScale      = scale{[]uint64{500, 1e3, 5e3, 10e3, 50e3, 100e3, 500e3, 1e6}, []string{"0.0005", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1"}, 1e6}
	distanceScale = scale{[]uint64{100, 500, 1e3, 5e3, 10e3, 50e3, 100e3, 500e3}, []string{"0.0001", "0.0005", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5"}, 1e6}
)
