package balance

import (
	"math"
	"net/netip"
	"time"
)

// Member is one endpoint of a Set and what is known of it.
type Member[T any] struct {
	// Value is the owner's.
	Value T

	// There may be very many members: mind the order and the sizes.
	addr   netip.AddrPort
	set    *Set[T] // nil once removed
	index  int32   // in set.members
	weight uint32

	pending int32
	avg     float32       // peak-sensitive average, in ns: rtt and setRTT
	low     float32       // the least of the answers above rtt in a row, in ns
	known   bool          // has answered
	answers uint8         // counted up to peakEvents
	rises   uint8         // answers above rtt in a row, one per event
	named   bool          // as set.named: by the last update
	at      time.Duration // of the last answer that counted
	turn    float64       // virtual time: picks, by weight
}

func (m *Member[T]) rtt() float64      { return float64(m.avg) }
func (m *Member[T]) setRTT(ns float64) { m.avg = float32(ns) }

// Addr is the endpoint's address.
func (m *Member[T]) Addr() netip.AddrPort { return m.addr }

// Weight is the endpoint's weight.
func (m *Member[T]) Weight() uint32 { return m.weight }

// Pending is the number of requests under way.
func (m *Member[T]) Pending() int { return int(m.pending) }

// Removed reports that an update took the member out of its set.
func (m *Member[T]) Removed() bool { return m.set == nil }

// Ready reports that Pick may return the member.
func (m *Member[T]) Ready() bool { return m.set != nil && int(m.index) < m.set.ready }

// Active reports that Pick chooses from the member and others like it.
func (m *Member[T]) Active() bool { return m.set != nil && int(m.index) < m.set.active }

// SetReady takes the member out of the choice, or back in; it is the owner's way
// to say that an endpoint can't be connected to, or is given a rest. O(1), unless
// weights differ and only some members are in the choice.
func (m *Member[T]) SetReady(ready bool) {
	s := m.set
	if s == nil || ready == m.Ready() {
		return
	}
	if ready {
		s.swap(int(m.index), s.ready)
		s.ready++
		if s.cfg.Active <= 0 || s.active < s.cfg.Active {
			s.activate(m)
		}
		return
	}
	if m.Active() {
		s.deactivate(m)
		if s.active < min(s.cfg.Active, s.ready-1) { // there are others; m is one of them yet
			s.activate(s.idler(m))
		}
	}
	s.ready--
	s.swap(int(m.index), s.ready)
}

// Penalize makes the member count as one that takes so long, from now on, until it
// decays or better answers outweigh it.
func (m *Member[T]) Penalize(now, d time.Duration) {
	if s := m.set; s != nil {
		rtt := float64(d)
		if m.known {
			rtt = max(rtt, s.decayed(m.rtt(), now-m.at))
		}
		m.setRTT(rtt)
		m.known, m.answers, m.rises, m.at = true, peakEvents, 0, now
	}
}

// Forget drops what is known of the member's answers: it is like a new one.
func (m *Member[T]) Forget() {
	m.known, m.answers, m.avg, m.rises, m.low = false, 0, 0, 0, 0
}

// RTT is the current estimate of the response time; 0 before the first answer.
func (m *Member[T]) RTT(now time.Duration) time.Duration {
	if !m.known || m.set == nil {
		return 0
	}
	return time.Duration(m.set.decayed(m.rtt(), now-m.at))
}

// Begin says that a request or connection goes to the member.
func (m *Member[T]) Begin() {
	m.pending++
	if s := m.set; s != nil {
		m.turn = m.place() + s.unit/float64(m.weight)
		s.passed()
	}
}

// End says how one that Begin announced ended: rtt is the time to the first byte of
// the answer, or for how long there was none.
func (m *Member[T]) End(now time.Duration, o Outcome, rtt time.Duration) {
	m.pending = max(m.pending-1, 0)
	s := m.set
	if s == nil {
		return
	}
	ns := float64(max(rtt, 0))
	switch o {
	case Failure:
		ns = max(ns, float64(s.cfg.DefaultRTT))
	case Canceled:
		if m.known && ns <= s.decayed(m.rtt(), now-m.at) || !m.known && ns <= s.typical {
			return // it had not waited long enough to say anything
		}
	}
	m.learn(now, ns)
	s.answered(ns)
}

// learn takes an answer into the average.
func (m *Member[T]) learn(now time.Duration, ns float64) {
	s := m.set
	elapsed, began := now-m.at, now-time.Duration(ns)
	ns = float64(float32(ns)) // as it is kept: an answer like the average is none above it
	switch {
	case !m.known:
		m.known = true
		m.setRTT(ns)
		if ns > s.typical { // one answer is no peak yet
			m.setRTT(s.typical)
			m.rises, m.low = 1, float32(ns)
		}
	case ns <= m.rtt() && m.answers < peakEvents:
		m.rises = 0
		m.setRTT(ns) // the first answers of a process are often slow: the best of them counts
	case ns <= m.rtt():
		m.rises = 0
		weight := evidence
		if elapsed > s.cfg.Decay/8 { // below that, evidence is the larger
			weight = max(weight, 1-math.Exp(-float64(elapsed)/float64(s.cfg.Decay)))
		}
		m.setRTT(m.rtt() + (ns-m.rtt())*weight)
	case m.rises > 0 && began < m.at:
		return // was under way when the last one ended: the same event
	default:
		m.rise(ns)
	}
	m.at = now
	m.answers = min(m.answers+1, peakEvents)
}

// rise takes an answer above the average: a hint, until there were enough of them.
func (m *Member[T]) rise(ns float64) {
	if m.rises == 0 || ns < float64(m.low) {
		m.low = float32(ns)
	}
	if m.rises++; m.rises < peakEvents {
		m.setRTT(m.rtt() + (min(ns, 2*m.rtt()+smoothing)-m.rtt())*evidence)
		return
	}
	m.avg, m.rises = max(m.avg, m.low), 0
}

// cost is what Pick compares.
func (m *Member[T]) cost(now time.Duration) float64 {
	s := m.set
	rtt := s.typical
	switch {
	case m.known:
		rtt = s.decayed(m.rtt(), now-m.at)
		if m.answers < peakEvents && rtt > s.typical {
			rtt = s.typical
		}
	case m.pending > 0:
		rtt = max(rtt, float64(s.cfg.DefaultRTT))
	}
	return (rtt + smoothing) * float64(m.pending+1)
}

// place is the member's turn, kept within bounds of the set's time; a light member's
// turns are longer, and so are its bounds.
func (m *Member[T]) place() float64 {
	s, bound := m.set, float64(slack)
	if w := float64(m.weight); w < s.unit {
		bound *= s.unit / w
	}
	switch { // min and max of floats mind what is no number, which takes longer than all of this
	case m.turn < s.clock-bound:
		return s.clock - bound
	case m.turn > s.clock+bound:
		return s.clock + bound
	}
	return m.turn
}
