// Package memory bounds the bytes that the HTTP connections of one loop hold
// because somebody is slow: bodies that a receiver has not taken yet, heads of
// requests under way, bodies kept for a retry. It owns one number and the rule
// who has to give way; it refuses to know connections and messages.
//
// The rule: nobody may hold more than is free. Alone a connection gets half of
// the bound, two get a third each, and whoever comes next always finds some.
// What to do about one that holds more is its own affair: HTTP/1 stops reading,
// HTTP/2 resets the stream that holds most.
package memory

import "sync/atomic"

// DefaultLimit is a Bound's limit in bytes unless another is given: two thousand
// streams whose first window is full.
const DefaultLimit = 128 << 20

// A Bound belongs to one loop; Held and Hits may be read from any goroutine.
type Bound struct {
	limit int
	held  atomic.Int64
	hits  atomic.Uint64
}

// NewBound makes a bound of so many bytes; 0: DefaultLimit.
func NewBound(limit int) *Bound {
	if limit <= 0 {
		limit = DefaultLimit
	}
	return &Bound{limit: limit}
}

// Hold adds n bytes to what is held; a negative n gives them back.
func (b *Bound) Hold(n int) { b.held.Store(b.held.Load() + int64(n)) }

// Free is how much more may be held; it can be below zero.
func (b *Bound) Free() int { return b.limit - int(b.held.Load()) }

// Over reports whether somebody who holds own bytes has to give way.
func (b *Bound) Over(own int) bool { return own > b.Free() }

// Roomy reports that at least half of the bound is free: time to be generous.
func (b *Bound) Roomy() bool { return b.Free() >= b.limit/2 }

// Hit counts somebody who had to give way.
func (b *Bound) Hit() { b.hits.Add(1) }

// Held is how many bytes are held now.
func (b *Bound) Held() int64 { return b.held.Load() }

// Hits is how often somebody had to give way.
func (b *Bound) Hits() uint64 { return b.hits.Load() }

// Limit is the bound in bytes.
func (b *Bound) Limit() int { return b.limit }
