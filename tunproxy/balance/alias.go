package balance

import "math/bits"

// aliasTable draws an index with probability proportional to its weight in O(1)
// (Walker's alias method, built as Vose does).
type aliasTable struct {
	keep  []uint64 // of 2^64: below it the column's own index
	other []uint32
}

func newAliasTable(weights []float64) *aliasTable {
	n := len(weights)
	t := &aliasTable{keep: make([]uint64, n), other: make([]uint32, n)}
	total := 0.0
	for _, w := range weights {
		total += w
	}
	share := make([]float64, n)
	var small, large []int
	for i, w := range weights {
		share[i] = w * float64(n) / total
		if share[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		t.keep[s], t.other[s] = uint64(share[s]*(1<<63))*2, uint32(l)
		share[l] -= 1 - share[s]
		if share[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // rounding left these: whole columns
		t.keep[i], t.other[i] = ^uint64(0), uint32(i)
	}
	return t
}

func (t *aliasTable) draw(rand func() uint64) int {
	i := below(rand(), uint64(len(t.keep)))
	if rand() < t.keep[i] {
		return int(i)
	}
	return int(t.other[i])
}

func below(r, n uint64) uint64 {
	hi, _ := bits.Mul64(r, n)
	return hi
}
