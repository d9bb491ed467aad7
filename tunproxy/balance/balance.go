// Package balance chooses an endpoint for each request or connection: power of
// two choices over a peak-sensitive moving average of response times, in which
// requests under way count (Linkerd's load = rtt × (pending + 1)). It owns the
// statistics of endpoints and the choice; it refuses to know connections,
// protocols, discovery, and what makes an endpoint unusable.
//
// It is made for one event loop: nothing locks, nothing waits, a pick is O(1)
// and allocates nothing.
//
// What is done beyond the textbook, and why:
//
//   - Differences that mean nothing decide nothing. Costs within a quarter of
//     each other, after 5 ms were added to both response times, are equal, and
//     then the endpoint that had less than its share (by weight) is taken. So
//     endpoints of like speed get even shares, not whatever noise says.
//   - A peak is believed whole, but only when three requests in a row say so, each
//     begun after the one before had ended: one pause of an endpoint, seen by all
//     requests in flight, is one event. While it lasts, the requests that it holds
//     keep new ones away. With two, a machine on which one call in 200 is slow by
//     chance (1,000 calls a second) starves a good endpoint every minute.
//   - It is forgotten with time (Decay), or with evidence (about 16 good answers),
//     whichever is sooner.
//   - An endpoint nobody has heard from is taken for an average one, so that it
//     gets a request at once; while that is under way it counts as one with
//     DefaultRTT, so that it does not get a thousand.
//   - A failure is never a fast answer: it counts as DefaultRTT at least.
//   - Of very many endpoints only some are in the choice at a time (Config.Active),
//     chosen at random and changed one by one, as each costs a connection. More
//     come in at once when those have work to do.
package balance

import (
	"net/netip"
	"slices"
	"time"
)

// DefaultWeight is the weight of an endpoint that names none (as in Linkerd's API).
const DefaultWeight = 10_000

const (
	defaultRTT   = 30 * time.Millisecond
	defaultDecay = 10 * time.Second
	// smoothing is added to response times before they are compared: below some
	// milliseconds a difference is the machine's noise more than the endpoint's.
	smoothing = float64(5 * time.Millisecond)
	// tolerance is the ratio up to which costs are equal.
	tolerance = 1.25
	// evidence is the weight of one answer against the average so far.
	evidence = 1.0 / 8
	// peakEvents is how many slow answers in a row are a peak.
	peakEvents = 3
	// slack bounds how far an endpoint's turn may lag or lead, in picks, so that
	// one that was slow for a while is not flooded when it is back.
	slack = 16
	// tries bounds the search for a usable endpoint by sampling.
	tries = 8
	// busy is how many requests an endpoint has under way when another one is taken
	// into the choice rather than giving it one more.
	busy = 2
)

// Config of a Set. The zero value of a field is its default.
type Config struct {
	// DefaultRTT is assumed of an endpoint with nothing but unanswered requests,
	// and the least that a failure counts as; 30 ms.
	DefaultRTT time.Duration
	// Decay is the time in which a peak loses all but 1/e of its height; 10 s.
	Decay time.Duration
	// Active is how many ready members are in the choice when they have little to
	// do; 0: all.
	Active int
	// Rand is a source of uniform 64-bit numbers; required. Sets of one loop may
	// share it.
	Rand func() uint64
}

// Endpoint is what a Set needs to know.
type Endpoint struct {
	Addr netip.AddrPort
	// Weight is relative to the other endpoints'; 0 means DefaultWeight.
	Weight uint32
}

// Outcome is how a request ended, as far as it tells about the endpoint.
type Outcome uint8

// The outcomes.
const (
	// Success: an answer, of whatever kind the endpoint meant to give.
	Success Outcome = iota
	// Failure: an error of the endpoint's, or no answer at all.
	Failure
	// Canceled: the client gave up. How long it had waited is a lower bound.
	Canceled
)

// Set is the endpoints of one target, for one loop. T is what the owner keeps with
// each endpoint, such as its connections.
type Set[T any] struct {
	cfg     Config
	members []*Member[T] // the first ready ones are ready, the first active of them in the choice
	ready   int
	active  int
	byAddr  index[T]
	named   bool        // what members of the last update have for named
	alias   *aliasTable // nil while weights are equal
	sampled []*Member[T]
	stale   bool // alias is of those that were in the choice before

	perDecay float64 // 1 / Config.Decay, in ns

	unit    float64 // mean weight: one turn of an average member
	clock   float64 // virtual time: a member that got its share is at it
	typical float64 // moving average of all answers, in ns
	heard   bool    // typical means something
}

// New makes an empty set.
func New[T any](cfg Config) *Set[T] {
	if cfg.DefaultRTT <= 0 {
		cfg.DefaultRTT = defaultRTT
	}
	if cfg.Decay <= 0 {
		cfg.Decay = defaultDecay
	}
	return &Set[T]{cfg: cfg, byAddr: newIndex[T](), perDecay: 1 / float64(cfg.Decay), typical: float64(cfg.DefaultRTT), unit: DefaultWeight}
}

// Len is the number of members.
func (s *Set[T]) Len() int { return len(s.members) }

// Ready is the number of members that Pick may return.
func (s *Set[T]) Ready() int { return s.ready }

// Active is the number of members that Pick chooses from.
func (s *Set[T]) Active() int { return s.active }

// All calls f for each member, in no particular order, until it returns false.
func (s *Set[T]) All(f func(*Member[T]) bool) {
	for _, m := range s.members {
		if !f(m) {
			return
		}
	}
}

// Get is the member with an address, or nil.
func (s *Set[T]) Get(addr netip.AddrPort) *Member[T] { return s.byAddr.get(addr) }

// Update makes the members those n that at names. Members that stay keep their
// statistics, readiness and Value; new ones are ready and their Value is T's zero;
// removed ones are never picked again, but their Begin and End still work. Of an
// address named twice the last counts.
func (s *Set[T]) Update(n int, at func(i int) Endpoint) (removed []*Member[T]) {
	first := s.ready == 0
	s.named = !s.named // all members have the other now
	s.members = slices.Grow(s.members, max(n-len(s.members), 0))
	count := 0
	for i := range n {
		e := at(i)
		weight := e.Weight
		if weight == 0 {
			weight = DefaultWeight
		}
		if m := s.byAddr.get(e.Addr); m != nil {
			m.weight = weight
			if m.named != s.named {
				m.named = s.named
				count++
			}
			continue
		}
		count++
		m := &Member[T]{addr: e.Addr, weight: weight, set: s, turn: s.clock, named: s.named}
		s.byAddr.add(m)
		m.index = int32(len(s.members)) //nolint:gosec // a list of that many does not fit into memory
		s.members = append(s.members, m)
		m.SetReady(true)
	}
	if count < len(s.members) {
		for _, m := range s.members {
			if m.named != s.named {
				removed = append(removed, m)
			}
		}
		for _, m := range removed {
			s.remove(m)
		}
	}
	if first && s.active < s.ready {
		s.shuffle()
	}
	s.reweigh()
	return removed
}

func (s *Set[T]) remove(m *Member[T]) {
	m.SetReady(false)
	s.byAddr.remove(m)
	last := len(s.members) - 1
	s.swap(int(m.index), last)
	s.members[last] = nil
	s.members = s.members[:last]
	m.set = nil
}

func (s *Set[T]) swap(i, j int) {
	s.members[i], s.members[j] = s.members[j], s.members[i]
	s.members[i].index, s.members[j].index = int32(i), int32(j) //nolint:gosec // as they were
}

// reweigh prepares sampling by weight.
func (s *Set[T]) reweigh() {
	s.alias, s.sampled, s.stale = nil, nil, false
	if len(s.members) == 0 {
		return
	}
	total, equal := 0.0, true
	for _, m := range s.members {
		total += float64(m.weight)
		equal = equal && m.weight == s.members[0].weight
	}
	s.unit = total / float64(len(s.members))
	if equal {
		return
	}
	of := s.members
	if s.limited() {
		of = s.members[:s.active]
	}
	weights := make([]float64, len(of))
	for i, m := range of {
		weights[i] = float64(m.weight)
	}
	s.alias = newAliasTable(weights)
	s.sampled = append([]*Member[T](nil), of...) // readiness moves members, not these
}

// Remove takes a member out, as an Update does that does not name it.
func (s *Set[T]) Remove(m *Member[T]) {
	if m.set != nil {
		s.remove(m)
		s.reweigh()
	}
}

// Pick chooses a ready member for which exclude, if not nil, does not hold; nil
// when there is none. It is O(1) unless nearly all are excluded.
func (s *Set[T]) Pick(now time.Duration, exclude func(*Member[T]) bool) *Member[T] {
	a := s.sample(exclude, nil)
	if a == nil {
		return nil
	}
	b := s.sample(exclude, a)
	if b != nil {
		a = better(a, b, now)
	}
	if a.pending >= busy && s.active < s.ready {
		if n := s.grow(exclude); n != nil {
			return n
		}
	}
	return a
}

// better is the choice between two.
func better[T any](a, b *Member[T], now time.Duration) *Member[T] {
	ca, cb := a.cost(now), b.cost(now)
	switch {
	case ca > cb*tolerance:
		return b
	case cb > ca*tolerance:
		return a
	case b.place() < a.place():
		return b
	}
	return a
}

// sample draws a ready member by weight, other than not.
func (s *Set[T]) sample(exclude func(*Member[T]) bool, not *Member[T]) *Member[T] {
	usable := s.active
	if not != nil {
		usable--
	}
	if usable <= 0 {
		return nil
	}
	for range tries {
		m := s.draw()
		if m != nil && m != not && (exclude == nil || !exclude(m)) {
			return m
		}
	}
	// Few are usable, or one weighs nearly everything: look at all, from a random
	// place on.
	start := int(s.below(uint64(s.active)))
	for i := range s.active {
		m := s.members[(start+i)%s.active]
		if m != not && (exclude == nil || !exclude(m)) {
			return m
		}
	}
	return nil
}

// draw is one member at random; nil when it drew one that is not ready.
func (s *Set[T]) draw() *Member[T] {
	if s.stale {
		s.reweigh()
	}
	if s.alias == nil {
		return s.members[s.below(uint64(s.active))]
	}
	m := s.sampled[s.alias.draw(s.cfg.Rand)]
	if !m.Active() {
		return nil
	}
	return m
}

// below is a uniform number below n. The bias of multiply-and-shift is below
// 2^-40 for any number of endpoints.
func (s *Set[T]) below(n uint64) uint64 { return below(s.cfg.Rand(), n) }

// passed moves virtual time on by one pick.
func (s *Set[T]) passed() { s.clock += 1 / float64(max(s.active, 1)) }

// answered takes an answer into the average of all.
func (s *Set[T]) answered(ns float64) {
	if !s.heard {
		s.heard = true
		s.typical = ns
		return
	}
	s.typical += (ns - s.typical) / 32
}

// decayed is what is left of v after d.
func (s *Set[T]) decayed(v float64, d time.Duration) float64 {
	if d <= 0 {
		return v
	}
	x := float64(d) * s.perDecay
	if x < 1.0/64 { // what is busy; wrong by less than a millionth
		return v * (1 - x + x*x/2)
	}
	return v * faded(x)
}

// faded is e to the power of -x, for x from 0: wrong by a thousandth at most while more
// than a two-hundredth is left, by a tenth down to a hundred-thousandth, and then 0.
// math.Exp would take a third of a pick among endpoints that are seldom heard of.
func faded(x float64) float64 {
	if x > 12 {
		return 0
	}
	z := x / 16
	zz := z * z
	y := 1 - z + zz*(0.5-z*(1.0/6)+zz*(1.0/24)) // to the power of 16:
	y *= y
	y *= y
	y *= y
	return y * y
}
