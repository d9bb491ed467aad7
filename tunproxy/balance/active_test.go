package balance

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

func newActive(seed uint64, n, active int) *Set[int] {
	s := New[int](Config{Rand: source(seed), Active: active})
	update(s, endpoints(n))
	return s
}

// sound checks that the regions of the set's list are what they are said to be.
func sound(t *testing.T, s *Set[int], ready map[*Member[int]]bool) {
	t.Helper()
	if s.active > s.ready || s.ready > len(s.members) || s.active < min(s.cfg.Active, s.ready) {
		t.Fatalf("%d active of %d ready of %d", s.active, s.ready, len(s.members))
	}
	for i, m := range s.members {
		if int(m.index) != i || m.Ready() != (i < s.ready) || m.Active() != (i < s.active) || m.Ready() != ready[m] {
			t.Fatalf("member %d: index %d, ready %v, active %v", i, m.index, m.Ready(), m.Active())
		}
	}
}

func TestActiveStaysSound(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		s := New[int](Config{Rand: source(seed), Active: 5})
		ready := map[*Member[int]]bool{}
		for range 400 {
			switch rnd.IntN(5) {
			case 0:
				eps := endpoints(rnd.IntN(12))
				for i := range eps {
					eps[i].Weight = uint32(1 + rnd.IntN(2)*9)
				}
				added, removed := update(s, eps)
				for _, m := range added {
					ready[m] = true
				}
				for _, m := range removed {
					delete(ready, m)
				}
			case 1:
				if len(s.members) > 0 {
					m := s.members[rnd.IntN(len(s.members))]
					ready[m] = !ready[m]
					m.SetReady(ready[m])
				}
			case 2:
				if m := s.Rotate(); m != nil && (m.Active() || m.Pending() > 0) {
					t.Fatal("rotated out, and still there")
				}
			default:
				if m := s.Pick(0, nil); m != nil {
					m.Begin()
					if !m.Active() {
						t.Fatal("picked one that is not in the choice")
					}
					if rnd.IntN(3) > 0 {
						m.End(0, Success, time.Millisecond)
					}
				} else if s.Ready() > 0 {
					t.Fatal("nobody picked of some")
				}
			}
			sound(t, s, ready)
		}
	}
}

func TestFewOfManyAreInTheChoice(t *testing.T) {
	s, other := newActive(1, 1000, 20), newActive(2, 1000, 20)
	counts := map[*Member[int]]int{}
	for i := range 20_000 {
		m := s.Pick(time.Duration(i)*time.Millisecond, nil)
		m.Begin()
		m.End(time.Duration(i)*time.Millisecond, Success, time.Millisecond)
		counts[m]++
	}
	if len(counts) != 20 {
		t.Errorf("%d endpoints were picked, want 20", len(counts))
	}
	same := 0
	for m, n := range counts {
		if n < 900 || n > 1100 {
			t.Errorf("one got %d of 20,000", n)
		}
		if other.Get(m.Addr()).Active() {
			same++
		}
	}
	if same > 5 {
		t.Errorf("%d of 20 are another caller's choice too", same)
	}
	// Each has its turn.
	for range 20_000 {
		if m := s.Rotate(); m == nil || m.Active() {
			t.Fatal("did not rotate")
		}
		if s.Active() != 20 {
			t.Fatalf("%d in the choice", s.Active())
		}
		s.All(func(m *Member[int]) bool {
			if m.Active() {
				counts[m]++
			}
			return true
		})
	}
	if len(counts) != 1000 {
		t.Errorf("only %d of 1000 ever had a turn", len(counts))
	}
}

func TestBusyEndpointsGetHelp(t *testing.T) {
	s := newActive(1, 1000, 10)
	var under []*Member[int]
	for range 500 {
		m := s.Pick(0, nil)
		m.Begin()
		under = append(under, m)
	}
	if s.Active() < 200 || s.Active() > 500 {
		t.Errorf("%d in the choice for 500 requests at once", s.Active())
	}
	most := 0
	for _, m := range under {
		most = max(most, m.Pending())
	}
	if most > busy+1 {
		t.Errorf("one has %d requests under way while others have none", most)
	}
	for _, m := range under {
		m.End(time.Second, Success, time.Second)
	}
	for range 1000 {
		s.Rotate()
	}
	if s.Active() != 10 {
		t.Errorf("%d in the choice when there is little to do", s.Active())
	}
}

func TestWeightsOfThoseInTheChoice(t *testing.T) {
	eps := endpoints(1000)
	for i := range eps {
		eps[i].Weight = uint32(1 + i%2*3)
	}
	s := New[int](Config{Rand: source(1), Active: 50})
	update(s, eps)
	for range 200 { // the tables follow
		s.Rotate()
	}
	light, heavy, lights := 0, 0, 0
	s.All(func(m *Member[int]) bool {
		if m.Active() && m.Weight() == 1 {
			lights++
		}
		return true
	})
	for i := range 40_000 {
		m := s.Pick(time.Duration(i), nil)
		m.Begin()
		m.End(time.Duration(i), Success, time.Millisecond)
		if m.Weight() == 1 {
			light++
		} else {
			heavy++
		}
	}
	want := float64(lights) / float64(lights+4*(50-lights))
	if got := float64(light) / 40_000; got < want*.9 || got > want*1.1 {
		t.Errorf("light ones get %.3f, want %.3f", got, want)
	}
}

// TestMemory: what is known of 10,000 endpoints is small.
func TestMemory(t *testing.T) {
	eps := endpoints(10_000)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := New[int](Config{Rand: source(1), Active: 256})
	update(s, eps)
	each := (int64(heap()) - int64(before)) / 10_000
	t.Logf("%d bytes an endpoint", each)
	if each > 500 {
		t.Errorf("%d bytes an endpoint", each)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(eps)
}
