package mtls

// LayoutKnown reports whether buffers can be lent.
func LayoutKnown() bool { return findLayout().known }

// Fresh is a Store with the same state and no memory of sessions and chains.
func Fresh(s *Store) *Store {
	n := NewStore(s.cfg)
	o := s.current.Load()
	n.current.Store(n.build(o.anchorsDER, o.anchors, o.cert))
	return n
}

// Running is how many handshakes have a place.
func Running(s *Store) (n int) {
	for i := range s.gates {
		g := &s.gates[i]
		g.mu.Lock()
		n += g.running
		g.mu.Unlock()
	}
	return n
}
