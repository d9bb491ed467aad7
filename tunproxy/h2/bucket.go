package h2

import "time"

// bucket is a token bucket.
type bucket struct {
	spent float64
	at    time.Duration
}

// take spends a token; false: there is none.
func (b *bucket) take(r Rate, now time.Duration) bool {
	b.spent = max(0, b.spent-(now-b.at).Seconds()*float64(r.PerSecond))
	b.at = now
	b.spent++
	return b.spent <= float64(r.Burst)
}
