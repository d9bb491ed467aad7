package tap

import (
	"golang.org/x/time/rate"

	api "github.com/tunmesh/tunmesh/api/tap"
)

// maxOpen bounds the requests of one gate that have begun and not ended.
const maxOpen = 10000

// Gate holds a stream of events to so many requests a second. It lets whole
// requests through or leaves them out, never parts of them. K names who saw an
// event. A Gate is used by one goroutine at a time.
type Gate[K comparable] struct {
	limit *rate.Limiter
	open  map[exchange[K]]struct{} // requests that were let through
}

// exchange names a request among those of all sidecars.
type exchange[K comparable] struct {
	observer K
	base     uint32
	stream   uint64
}

// NewGate returns one that lets perSecond requests through, DefaultRPS for 0.
func NewGate[K comparable](perSecond uint32) *Gate[K] {
	if perSecond == 0 {
		perSecond = DefaultRPS
	}
	return &Gate[K]{limit: rate.NewLimiter(rate.Limit(perSecond), int(perSecond)), open: map[exchange[K]]struct{}{}}
}

// Admit says whether an event passes, and whether with it a request is lost.
func (g *Gate[K]) Admit(observer K, e *api.Event) (ok, lost bool) {
	x := exchange[K]{observer, e.GetBase(), e.GetStream()}
	if e.GetRequest() != nil {
		if len(g.open) >= maxOpen || !g.limit.Allow() {
			return false, true
		}
		g.open[x] = struct{}{}
		return true, false
	}
	_, ok = g.open[x] // else it began before the tap, or was left out
	if e.GetEnd() != nil {
		delete(g.open, x)
	}
	return ok, false
}

// Forget drops the open requests of an observer that has left.
func (g *Gate[K]) Forget(observer K) {
	for x := range g.open {
		if x.observer == observer {
			delete(g.open, x)
		}
	}
}
