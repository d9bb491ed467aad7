package mtls

import "sync"

// gate bounds the handshakes of one role: so many run, so many wait in order.
type gate struct {
	max, maxWaiting int

	mu      sync.Mutex
	running int
	waiting []*handshake
}

// enter reports whether h may run now; if not, whether it waits (else there is
// no room even for that).
func (g *gate) enter(h *handshake) (run, waits bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running < g.max {
		g.running++
		return true, false
	}
	if len(g.waiting) >= g.maxWaiting {
		return false, false
	}
	g.waiting = append(g.waiting, h)
	return false, true
}

// next gives the caller's place to the first in the queue; nil: nobody waits
// and the place is free.
func (g *gate) next() *handshake {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.waiting = nil
		g.running--
		return nil
	}
	h := g.waiting[0]
	g.waiting[0] = nil
	g.waiting = g.waiting[1:]
	return h
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
