package mtls

import (
	"net/netip"
	"sync"
)

// gate bounds the handshakes of one role: so many run, so many wait in order.
//
// No peer may run more of them than are free. Alone it gets half; who begins
// handshakes and lets them lie leaves as many to others as it holds, and these
// do not wait behind it.
type gate struct {
	max, maxWaiting int

	mu      sync.Mutex
	running int
	by      map[netip.Addr]int // of running, by peer
	waiting []*handshake
	waited  uint64 // who ever came into waiting
}

// take gives h a place if it may have one. g.mu is held.
func (g *gate) take(h *handshake) bool {
	if free := g.max - g.running; free <= 0 || g.by[h.peer] > 0 && g.by[h.peer] >= free {
		return false
	}
	if g.by == nil {
		g.by = map[netip.Addr]int{}
	}
	g.running++
	g.by[h.peer]++
	return true
}

// enter reports whether h may run now; if not, whether it waits (else there is
// no room even for that).
func (g *gate) enter(h *handshake) (run, waits bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.take(h) {
		return true, false
	}
	if len(g.waiting) >= g.maxWaiting {
		return false, false
	}
	g.waiting = append(g.waiting, h)
	g.waited++
	return false, true
}

// next gives h's place back, and a place to the first in the queue who may have
// one; nil: there is none. A
// place more that is free may let in two: ask another for the second.
func (g *gate) next(h *handshake) (one *handshake) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.by[h.peer]--; g.by[h.peer] == 0 {
		delete(g.by, h.peer)
	}
	return g.pick()
}

// another is next without a place to give back.
func (g *gate) another() *handshake {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pick()
}

// pick is the first in the queue who may run. g.mu is held.
func (g *gate) pick() *handshake {
	for i, w := range g.waiting {
		if !g.take(w) {
			continue
		}
		copy(g.waiting[1:], g.waiting[:i]) // the front is short, as a rule
		g.waiting[0] = nil
		if g.waiting = g.waiting[1:]; len(g.waiting) == 0 {
			g.waiting = nil
		}
		return w
	}
	return nil
}

// leave takes h out of the queue; it reports false when h's turn had come.
func (g *gate) leave(h *handshake) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting {
		if w == h {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}
