package balance

// shuffle chooses those that are in the choice at random, so that callers who know
// the same endpoints in the same order do not all choose the same.
func (s *Set[T]) shuffle() {
	for i := range s.active {
		s.swap(i, i+int(s.below(uint64(s.ready-i))))
	}
}

// activate takes a ready member into the choice.
func (s *Set[T]) activate(m *Member[T]) {
	s.swap(int(m.index), s.active)
	s.active++
	m.turn = m.place()
	s.changed()
}

func (s *Set[T]) deactivate(m *Member[T]) {
	s.active--
	s.swap(int(m.index), s.active)
	s.changed()
}

// limited reports that some ready members may be outside the choice.
func (s *Set[T]) limited() bool { return s.cfg.Active > 0 && len(s.members) > s.cfg.Active }

// changed: sampling by weight has to be prepared anew before the next pick, where
// it is of those in the choice alone.
func (s *Set[T]) changed() { s.stale = s.stale || s.alias != nil && s.limited() }

// idler is a ready member outside the choice, at random, other than not; the
// caller knows that there is one.
func (s *Set[T]) idler(not *Member[T]) *Member[T] {
	n := uint64(s.ready - s.active)
	i := s.active + int(s.below(n))
	if s.members[i] == not {
		i = s.active + (i-s.active+1)%int(n)
	}
	return s.members[i]
}

// grow takes one more member into the choice, which has work enough.
func (s *Set[T]) grow(exclude func(*Member[T]) bool) *Member[T] {
	m := s.idler(nil)
	if exclude != nil && exclude(m) {
		return nil
	}
	s.activate(m)
	return m
}

// Rotate puts another ready member into the choice for one that has nothing to do,
// or, where more are in it than Config.Active, takes one out. It returns the one
// that left, whose connections are of no use for now; nil: nothing changed. Called
// now and then it gives every endpoint its turn.
func (s *Set[T]) Rotate() *Member[T] {
	if s.active >= s.ready && s.active <= s.cfg.Active || s.cfg.Active <= 0 || s.active == 0 {
		return nil
	}
	for range tries {
		m := s.members[s.below(uint64(s.active))]
		if m.pending > 0 {
			continue
		}
		if s.active <= s.cfg.Active {
			s.activate(s.idler(nil))
		}
		s.deactivate(m)
		return m
	}
	return nil
}
