package resilience

import "time"

// Backoff is a pause that doubles from Min to Max. Each is spread at random over
// Jitter times its length, so that those who failed together do not come back
// together: above it, and near Max, which is never passed, below.
type Backoff struct {
	Min, Max time.Duration
	Jitter   float64
}

// Pause is the nth one, from 0; random is any 64 bits.
func (b Backoff) Pause(n int, random uint64) time.Duration {
	d := b.Min
	for ; n > 0 && d < b.Max; n-- {
		d *= 2
	}
	d = min(d, b.Max)
	span := b.Jitter * float64(d)
	room := float64(b.Max - d)
	first := d
	if room < span {
		first = max(b.Min, d-time.Duration(min(span-room, float64(d)/2)))
		span = float64(b.Max - first)
	}
	return first + time.Duration(span*float64(random>>11)/(1<<53))
}
