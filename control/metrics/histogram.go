package metrics

import (
	"cmp"
	"math"
	"slices"
)

// bucket is one cumulative bucket of a histogram.
type bucket struct {
	le    float64
	count float64
}

// quantile is PromQL's histogram_quantile for classic buckets: linear within a
// bucket, the lowest of which begins at 0; a quantile in the +Inf bucket is the
// bound below it. NaN where there is nothing to say: no +Inf bucket, fewer than
// two buckets, or no observation.
func quantile(q float64, buckets []bucket) float64 {
	if math.IsNaN(q) {
		return math.NaN()
	}
	if q < 0 {
		return math.Inf(-1)
	}
	if q > 1 {
		return math.Inf(1)
	}
	buckets = tidy(buckets)
	if len(buckets) < 2 || !math.IsInf(buckets[len(buckets)-1].le, 1) {
		return math.NaN()
	}
	total := buckets[len(buckets)-1].count
	if total == 0 || math.IsNaN(total) {
		return math.NaN()
	}
	rank := q * total
	i, _ := slices.BinarySearchFunc(buckets[:len(buckets)-1], rank, func(b bucket, r float64) int { return cmp.Compare(b.count, r) })
	switch {
	case i == len(buckets)-1:
		return buckets[len(buckets)-2].le
	case i == 0 && buckets[0].le <= 0:
		return buckets[0].le
	}
	start, end, count := 0.0, buckets[i].le, buckets[i].count
	if i > 0 {
		start = buckets[i-1].le
		count -= buckets[i-1].count
		rank -= buckets[i-1].count
	}
	return start + (end-start)*(rank/count)
}

// tidy sorts buckets, joins those of one bound, and raises counts that are
// lower than the one before: scraped at slightly different times they may be.
func tidy(in []bucket) []bucket {
	list := slices.Clone(in)
	slices.SortFunc(list, func(a, b bucket) int { return cmp.Compare(a.le, b.le) })
	out := list[:0]
	for _, b := range list {
		if n := len(out); n > 0 && out[n-1].le == b.le {
			out[n-1].count += b.count
			continue
		}
		out = append(out, b)
	}
	for i := 1; i < len(out); i++ {
		out[i].count = max(out[i].count, out[i-1].count)
	}
	return out
}
