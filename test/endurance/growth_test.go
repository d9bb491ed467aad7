package endurance_test

import (
	"math"
	"slices"
	"testing"
	"time"
)

// series are values over time, oldest first.
type series struct {
	at []time.Duration
	v  []float64
}

func (s *series) add(at time.Duration, v float64) {
	s.at, s.v = append(s.at, at), append(s.v, v)
}

// since is what comes after a warm-up.
func (s series) since(warm time.Duration) series {
	i := 0
	for i < len(s.at) && s.at[i] < warm {
		i++
	}
	return series{s.at[i:], s.v[i:]}
}

// growth is by how much the values grew from the first to the last: the median
// of the slopes between all pairs (Theil and Sen), which a few odd values, as a
// collector of garbage makes them, do not move, times the whole time.
func (s series) growth() float64 {
	var slopes []float64
	for i := range s.v {
		for j := i + 1; j < len(s.v); j++ {
			if dt := s.at[j] - s.at[i]; dt > 0 {
				slopes = append(slopes, (s.v[j]-s.v[i])/dt.Seconds())
			}
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	return median(slopes) * (s.at[len(s.at)-1] - s.at[0]).Seconds()
}

// step is by how much the median of the second half is above that of the first.
func (s series) step() float64 {
	n := len(s.v) / 2
	if n == 0 {
		return 0
	}
	return median(slices.Clone(s.v[len(s.v)-n:])) - median(slices.Clone(s.v[:n]))
}

// parted reports whether the last third is above the first as a whole.
func (s series) parted() bool {
	n := len(s.v) / 3
	return n > 0 && slices.Min(s.v[len(s.v)-n:]) > slices.Max(s.v[:n])
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func TestGrowth(t *testing.T) {
	const n = 100
	for name, c := range map[string]struct {
		v            func(i int) float64
		growth, step float64
		parted       bool
	}{
		"a leak":          {func(i int) float64 { return 10 + float64(i)/(n-1) }, 1, 0.5, true},
		"a saw":           {func(i int) float64 { return float64(i % 5) }, 0, 0, false},
		"some odd ones":   {func(i int) float64 { return map[bool]float64{true: 1000}[i%9 == 8] }, 0, 0, false},
		"a leak in a saw": {func(i int) float64 { return 3*float64(i%5) + float64(i)/(n-1) }, 1, 0.5, false},
		"a step":          {func(i int) float64 { return map[bool]float64{true: 4}[i >= n/2] }, 4, 4, true},
		"a pool":          {func(i int) float64 { return []float64{38, 19, 25, 30}[i/(n/4)] }, 0, 0, false},
	} {
		var s series
		for i := range n {
			s.add(time.Duration(i)*time.Second, c.v(i))
		}
		if s.parted() != c.parted {
			t.Errorf("%s: parted %v", name, !c.parted)
		}
		if name == "a pool" {
			continue
		}
		if g := s.growth(); math.Abs(g-c.growth) > 0.2 && name != "a step" {
			t.Errorf("%s grew by %.2f, want %.2f", name, g, c.growth)
		}
		if d := s.step(); math.Abs(d-c.step) > 0.2 {
			t.Errorf("%s: the second half is %.2f higher, want %.2f", name, d, c.step)
		}
	}
	var s series
	if s.growth() != 0 || s.step() != 0 {
		t.Error("nothing grows")
	}
	s.add(time.Second, 1)
	s.add(3*time.Second, 2)
	if late := s.since(2 * time.Second); len(late.v) != 1 || late.v[0] != 2 {
		t.Errorf("after the warm-up: %v", late)
	}
}
