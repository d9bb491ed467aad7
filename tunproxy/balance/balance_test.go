package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
}

func endpoints(n int) []Endpoint {
	eps := make([]Endpoint, n)
	for i := range eps {
		eps[i] = Endpoint{Addr: addr(i), Weight: DefaultWeight}
	}
	return eps
}

func source(seed uint64) func() uint64 { return rand.New(rand.NewPCG(seed, 1)).Uint64 }

func newSet(seed uint64, eps []Endpoint) *Set[int] {
	s := New[int](Config{Rand: source(seed)})
	update(s, eps)
	return s
}

// update makes the members those of eps.
func update[T any](s *Set[T], eps []Endpoint) (added, removed []*Member[T]) {
	old := map[*Member[T]]bool{}
	s.All(func(m *Member[T]) bool {
		old[m] = true
		return true
	})
	removed = s.Update(len(eps), func(i int) Endpoint { return eps[i] })
	for i := range eps {
		if m := s.Get(eps[i].Addr); !old[m] {
			old[m] = true
			added = append(added, m)
		}
	}
	return added, removed
}

// Answers that all take as long are no rise, however long that is.
func TestSteadyAnswersAreNoRise(t *testing.T) {
	for _, rtt := range []time.Duration{16_777_217, 33_333_333, 999_999_999} {
		s := newSet(1, endpoints(1))
		m, now := s.Get(addr(0)), time.Second
		for i := range 10 {
			m.Begin()
			m.End(now, Success, rtt)
			now += rtt
			if i >= peakEvents && m.rises > 0 { // the first may be above what is assumed
				t.Fatalf("answers of %v are rises", rtt)
			}
		}
		if got := m.RTT(m.at); (got - rtt).Abs() > rtt/1_000_000 {
			t.Errorf("%v, want %v", got, rtt)
		}
	}
}

func TestUpdate(t *testing.T) {
	s := New[int](Config{Rand: source(1)})
	if s.Pick(0, nil) != nil {
		t.Fatal("picked from nothing")
	}
	added, removed := update(s, endpoints(3))
	if len(added) != 3 || len(removed) != 0 || s.Len() != 3 || s.Ready() != 3 {
		t.Fatalf("%d added, %d removed", len(added), len(removed))
	}
	m := s.Get(addr(1))
	m.Value = 7
	m.Begin()
	m.End(time.Second, Success, 4*time.Millisecond)
	m.Begin()

	added, removed = update(s, []Endpoint{{Addr: addr(1), Weight: 5}, {Addr: addr(4)}, {Addr: addr(4), Weight: 9}})
	if len(added) != 1 || len(removed) != 2 || s.Len() != 2 || s.Ready() != 2 {
		t.Fatalf("%d added, %d removed, %d members", len(added), len(removed), s.Len())
	}
	if got := s.Get(addr(1)); got != m || m.Value != 7 || m.Pending() != 1 || m.Weight() != 5 || m.RTT(time.Second) != 4*time.Millisecond {
		t.Errorf("statistics lost: %+v", got)
	}
	if w := s.Get(addr(4)).Weight(); w != 9 {
		t.Errorf("weight %d of an address named twice, want the last", w)
	}
	for _, r := range removed {
		if !r.Removed() || r.Ready() || s.Get(r.Addr()) != nil {
			t.Errorf("%v is still there", r.Addr())
		}
		r.Begin() // a request that was under way ends as usual
		r.End(0, Failure, 0)
		r.SetReady(true)
		if r.Ready() {
			t.Error("a removed member is ready")
		}
	}
	update(s, nil)
	if s.Len() != 0 || s.Pick(0, nil) != nil || !m.Removed() {
		t.Error("an empty update left members")
	}
}

func TestSetReady(t *testing.T) {
	s := newSet(1, endpoints(10))
	for i := range 9 {
		s.Get(addr(i)).SetReady(false)
		s.Get(addr(i)).SetReady(false)
	}
	if s.Ready() != 1 {
		t.Fatalf("%d ready", s.Ready())
	}
	for range 100 {
		if m := s.Pick(0, nil); m != s.Get(addr(9)) {
			t.Fatalf("picked %v", m.Addr())
		}
	}
	s.Get(addr(9)).SetReady(false)
	if m := s.Pick(0, nil); m != nil {
		t.Fatalf("picked %v of none", m.Addr())
	}
	for i := range 10 {
		s.Get(addr(i)).SetReady(true)
	}
	seen := map[netip.AddrPort]bool{}
	for range 1000 {
		m := s.Pick(0, nil)
		m.Begin()
		seen[m.Addr()] = true
	}
	if len(seen) != 10 {
		t.Errorf("only %d of 10 are picked", len(seen))
	}
}

func TestExclude(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1, 1, 1}, {1, 1, 1, 1_000_000}} {
		eps := endpoints(4)
		for i := range eps {
			eps[i].Weight = weights[i]
		}
		s := newSet(3, eps)
		tried := map[*Member[int]]bool{}
		exclude := func(m *Member[int]) bool { return tried[m] }
		for range 4 {
			m := s.Pick(0, exclude)
			if m == nil || tried[m] {
				t.Fatalf("weights %v: picked %v after %d tries", weights, m, len(tried))
			}
			tried[m] = true
		}
		if m := s.Pick(0, exclude); m != nil {
			t.Fatalf("picked %v though all are excluded", m.Addr())
		}
	}
}

func TestDeterministic(t *testing.T) {
	a, b := newSet(5, endpoints(20)), newSet(5, endpoints(20))
	for range 1000 {
		x, y := a.Pick(0, nil), b.Pick(0, nil)
		if x.Addr() != y.Addr() {
			t.Fatal("the same source gives other picks")
		}
		x.Begin()
		y.Begin()
	}
}

func TestLessLoadedWins(t *testing.T) {
	s := newSet(1, endpoints(2))
	a, b := s.Get(addr(0)), s.Get(addr(1))
	for range 3 {
		a.Begin()
	}
	b.Begin()
	for range 20 {
		if s.Pick(0, nil) != b {
			t.Fatal("picked the one with more requests under way")
		}
	}
}

func TestWeights(t *testing.T) {
	eps := endpoints(3)
	eps[0].Weight, eps[1].Weight, eps[2].Weight = 1000, 2000, 7000
	s := newSet(1, eps)
	counts := map[netip.AddrPort]int{}
	const n = 10_000
	for i := range n {
		m := s.Pick(time.Duration(i), nil)
		m.Begin()
		m.End(time.Duration(i), Success, time.Millisecond)
		counts[m.Addr()]++
	}
	for i, want := range []float64{.1, .2, .7} {
		if got := float64(counts[addr(i)]) / n; got < want*.9 || got > want*1.1 {
			t.Errorf("endpoint %d: share %.3f, want %.1f", i, got, want)
		}
	}
}

func TestPeak(t *testing.T) {
	const ms = time.Millisecond
	s := newSet(1, endpoints(2))
	m := s.Get(addr(0))
	now := time.Duration(0)
	answer := func(rtt time.Duration) {
		m.Begin()
		now += rtt
		m.End(now, Success, rtt)
	}
	for range 50 {
		answer(ms)
	}
	answer(100 * ms)
	if got := m.RTT(now); got > 3*ms {
		t.Errorf("one slow answer: %v", got)
	}
	// The pause of one moment, seen by ten requests at once, is one event.
	for range 10 {
		m.Begin()
		m.End(now, Success, 100*ms)
	}
	if got := m.RTT(now); got > 3*ms {
		t.Errorf("one pause: %v", got)
	}
	answer(90 * ms)
	answer(80 * ms)
	if got := m.RTT(now); got != 80*ms {
		t.Errorf("three slow answers in a row: %v, want the peak, whole", got)
	}
	if got := m.RTT(now + 10*time.Second); got < 29*ms || got > 30*ms {
		t.Errorf("after the decay time: %v, want 1/e", got)
	}
	for range 30 {
		answer(ms)
	}
	if got := m.RTT(now); got > 4*ms {
		t.Errorf("after 30 good answers: %v", got)
	}
}

func TestFailuresAreNotFast(t *testing.T) {
	s := newSet(1, endpoints(3))
	bad, counts := s.Get(addr(0)), map[*Member[int]]int{}
	now := time.Duration(0)
	for range 3000 {
		m := s.Pick(now, nil)
		m.Begin()
		rtt, o := 2*time.Millisecond, Success
		if m == bad {
			rtt, o = 10*time.Microsecond, Failure
		}
		now += rtt
		m.End(now, o, rtt)
		counts[m]++
	}
	if counts[bad] > 200 {
		t.Errorf("an endpoint that fails at once got %d of 3000", counts[bad])
	}
}

func TestCanceled(t *testing.T) {
	s := newSet(1, endpoints(1))
	m := s.Get(addr(0))
	m.Begin()
	m.End(time.Second, Canceled, time.Millisecond)
	if m.RTT(time.Second) != 0 || m.Pending() != 0 {
		t.Errorf("a request canceled early taught %v, %d pending", m.RTT(time.Second), m.Pending())
	}
	for i := range 5 { // clients that give up after 10 s say: at least that
		m.Begin()
		now := time.Duration(i+1) * 11 * time.Second
		m.End(now, Canceled, 10*time.Second)
		if got := m.RTT(now); i >= peakEvents-1 && got != 10*time.Second {
			t.Errorf("a hung endpoint, after %d: %v", i+1, got)
		}
	}
}

// TestPenalize: an endpoint with a penalty gets next to nothing until it decays.
func TestPenalize(t *testing.T) {
	s := newSet(1, endpoints(3))
	now := time.Duration(0)
	run := func() (picks int) {
		for range 300 {
			m := s.Pick(now, nil)
			m.Begin()
			if m.Addr() == addr(0) {
				picks++
			}
			now += time.Millisecond
			m.End(now, Success, time.Millisecond)
		}
		return picks
	}
	run()
	s.Get(addr(0)).Penalize(now, 5*time.Second)
	if got := s.Get(addr(0)).RTT(now); got != 5*time.Second {
		t.Errorf("it counts as %v", got)
	}
	s.Get(addr(0)).Penalize(now, time.Second) // a smaller one does not undo it
	if n := run(); n > 0 {
		t.Errorf("it got %d of 300", n)
	}
	now += 2 * time.Minute
	if n := run(); n < 80 {
		t.Errorf("after the decay it got %d of 300", n)
	}
}

// TestForget: an endpoint of which the worst was known is tried soon.
func TestForget(t *testing.T) {
	s := newSet(1, endpoints(3))
	now := time.Duration(0)
	run := func(n int) (picks int) {
		for range n {
			m := s.Pick(now, nil)
			m.Begin()
			rtt := time.Millisecond
			if m.Addr() == addr(0) {
				picks++
				rtt = time.Second
			}
			now += rtt
			m.End(now, Success, rtt)
		}
		return picks
	}
	run(300)
	if n := run(100); n > 5 {
		t.Fatalf("the slow one got %d of 100: this proves nothing", n)
	}
	s.Get(addr(0)).Forget()
	if s.Get(addr(0)).RTT(now) != 0 {
		t.Error("not forgotten")
	}
	if n := run(10); n == 0 {
		t.Error("not tried within 10 requests")
	}
}

// TestColdEndpoint: a new one gets a call at once, but not many before it answered.
func TestColdEndpoint(t *testing.T) {
	s := newSet(1, endpoints(3))
	now := time.Duration(0)
	for range 1000 {
		m := s.Pick(now, nil)
		m.Begin()
		now += time.Millisecond
		m.End(now, Success, time.Millisecond)
	}
	added, _ := update(s, endpoints(4))
	first := -1
	for i := range 100 {
		m := s.Pick(now, nil)
		m.Begin()
		if m == added[0] {
			if first < 0 {
				first = i
			}
			continue // it does not answer
		}
		now += time.Millisecond
		m.End(now, Success, time.Millisecond)
	}
	if first < 0 || first > 8 {
		t.Errorf("its first call was number %d", first)
	}
	if added[0].Pending() > 2 {
		t.Errorf("%d calls to an endpoint that never answered", added[0].Pending())
	}
}

// simulation runs calls against endpoints with given service times, in closed loop.
type simulation struct {
	set     *Set[int]
	rnd     *rand.Rand
	service func(i int) time.Duration // of endpoint i, for one call
	now     time.Duration
	busy    []call
	counts  []int
}

type call struct {
	end, began time.Duration
	m          *Member[int]
}

// run makes n calls, width at a time.
func (s *simulation) run(n, width int) {
	for done := 0; done < n; {
		for len(s.busy) < width && done+len(s.busy) < n {
			m := s.set.Pick(s.now, nil)
			m.Begin()
			s.counts[m.Value]++
			s.busy = append(s.busy, call{s.now + s.service(m.Value), s.now, m})
		}
		next := 0
		for i := range s.busy {
			if s.busy[i].end < s.busy[next].end {
				next = i
			}
		}
		c := s.busy[next]
		s.busy = append(s.busy[:next], s.busy[next+1:]...)
		s.now = max(s.now, c.end)
		c.m.End(s.now, Success, s.now-c.began)
		done++
	}
}

func simulate(seed uint64, n int, service func(r *rand.Rand, i int) time.Duration) *simulation {
	s := &simulation{set: newSet(seed, endpoints(n)), rnd: rand.New(rand.NewPCG(seed, 2)), counts: make([]int, n)}
	for i := range n {
		s.set.Get(addr(i)).Value = i
	}
	s.service = func(i int) time.Duration { return service(s.rnd, i) }
	return s
}

// noisy is around 0.6 ms, and one call in 200 takes 30 ms: a machine with other
// things to do.
func noisy(r *rand.Rand) time.Duration {
	if r.IntN(200) == 0 {
		return 30 * time.Millisecond
	}
	return 300*time.Microsecond + time.Duration(r.ExpFloat64()*float64(300*time.Microsecond))
}

// TestEven: 3,000 calls over three like endpoints are within 10 % of even, one at a
// time or many, noise or not.
func TestEven(t *testing.T) {
	for _, width := range []int{1, 4, 16, 64} {
		for seed := range uint64(20) {
			s := simulate(seed, 3, func(r *rand.Rand, _ int) time.Duration { return noisy(r) })
			s.run(3000, width)
			for i, c := range s.counts {
				if c < 900 || c > 1100 {
					t.Errorf("width %d, seed %d: endpoint %d got %d of 3000 (%v)", width, seed, i, c, s.counts)
				}
			}
		}
	}
}

// TestSlow: an endpoint 20 ms slower gets less than half of an even share.
func TestSlow(t *testing.T) {
	for _, width := range []int{1, 4, 16, 64} {
		for seed := range uint64(20) {
			s := simulate(seed, 3, func(r *rand.Rand, i int) time.Duration {
				d := noisy(r)
				if i == 2 {
					d += 20 * time.Millisecond
				}
				return d
			})
			s.run(3000, width)
			if s.counts[2] >= 500 {
				t.Errorf("width %d, seed %d: the slow one got %d of 3000", width, seed, s.counts[2])
			}
			if s.counts[2] == 0 {
				t.Errorf("width %d, seed %d: the slow one is never tried", width, seed)
			}
		}
	}
}

// TestSlowForAWhile: an endpoint that recovers gets its share back, and not more.
func TestSlowForAWhile(t *testing.T) {
	slow := true
	s := simulate(1, 3, func(r *rand.Rand, i int) time.Duration {
		if i == 2 && slow {
			return 50 * time.Millisecond
		}
		return noisy(r)
	})
	s.run(3000, 8)
	slow = false
	s.now += 40 * time.Second // what it takes to forget 50 ms
	s.run(300, 8)
	s.counts = make([]int, 3)
	s.run(3000, 8)
	for i, c := range s.counts {
		if c < 850 || c > 1150 {
			t.Errorf("endpoint %d got %d of 3000 after recovery (%v)", i, c, s.counts)
		}
	}
}

// TestGrow: a fourth endpoint gets its share from the first calls on.
func TestGrow(t *testing.T) {
	for _, width := range []int{1, 16} {
		s := simulate(1, 3, func(r *rand.Rand, _ int) time.Duration { return noisy(r) })
		s.run(3000, width)
		s.counts = make([]int, 4)
		added, _ := update(s.set, endpoints(4))
		added[0].Value = 3
		s.run(100, width)
		if c := s.counts[3]; c < 15 || c > 45 {
			t.Errorf("width %d: the new one got %d of the first 100", width, c)
		}
		s.run(1900, width)
		if c := s.counts[3]; c < 425 || c > 575 {
			t.Errorf("width %d: the new one got %d of 2000", width, c)
		}
	}
}

// What is left after a time is what math.Exp says, nearly, and falls all the time.
func TestFaded(t *testing.T) {
	last := 1.0
	for x := 0.0; x < 20; x += 1.0 / 128 {
		got, want := faded(x), math.Exp(-x)
		most := want / 1000
		if want < 1.0/200 {
			most = want / 10
		}
		if math.Abs(got-want) > most && want > 1e-5 {
			t.Fatalf("after %v: %v, want %v", x, got, want)
		}
		if got < 0 || got > last {
			t.Fatalf("after %v: %v, %v before", x, got, last)
		}
		last = got
	}
	if last != 0 {
		t.Errorf("%v is left in the end", last)
	}
}

// BenchmarkChoice is Pick by itself.
func BenchmarkChoice(b *testing.B) {
	for _, active := range []int{0, 256} {
		for _, weighted := range []bool{false, true} {
			b.Run(fmt.Sprintf("endpoints=10000/active=%d/weighted=%v", active, weighted), func(b *testing.B) {
				eps := endpoints(10_000)
				for i := range eps {
					if weighted {
						eps[i].Weight = uint32(i%7 + 1)
					}
				}
				s := New[int](Config{Rand: source(1), Active: active})
				update(s, eps)
				s.All(func(m *Member[int]) bool {
					m.Begin()
					m.End(0, Success, time.Millisecond)
					return true
				})
				now := time.Second
				b.ReportAllocs()
				for b.Loop() {
					s.Pick(now, nil)
					now += time.Microsecond
				}
			})
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		for _, weighted := range []bool{false, true} {
			eps := endpoints(n)
			if weighted {
				for i := range eps {
					eps[i].Weight = uint32(i%7 + 1)
				}
			}
			b.Run(fmt.Sprintf("endpoints=%d/weighted=%v", n, weighted), func(b *testing.B) {
				s := newSet(1, eps)
				s.All(func(m *Member[int]) bool {
					m.Begin()
					m.End(0, Success, time.Millisecond)
					return true
				})
				now := time.Millisecond
				b.ReportAllocs()
				for b.Loop() {
					m := s.Pick(now, nil)
					m.Begin()
					now += time.Microsecond
					m.End(now, Success, time.Millisecond)
				}
			})
		}
	}
}
