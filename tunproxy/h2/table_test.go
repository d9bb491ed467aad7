package h2

import (
	"math/rand/v2"
	"testing"
)

// TestTable holds a table against a map, with streams that stay long enough for
// newer ones to find their slots taken.
func TestTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var tab table
	open := map[uint32]*stream{}
	next := uint32(1)
	for range 50_000 {
		switch {
		case len(open) < 5 || r.IntN(2) == 0 && len(open) < 100:
			s := &stream{id: next}
			next += 2 * uint32(1+r.IntN(3))
			open[s.id] = s
			tab.add(s)
		default:
			for id := range open {
				if r.IntN(20) > 0 && id < next-40 {
					continue // the old ones mostly stay
				}
				delete(open, id)
				tab.remove(id)
				tab.remove(id) // no harm
				break
			}
		}
		moved := 0
		for i, s := range tab.slots {
			if s != nil && tab.slot(s.id) != i {
				moved++
			}
		}
		if tab.n != len(open) || tab.moved != moved {
			t.Fatalf("%d streams of %d, %d moved, in fact %d", tab.n, len(open), tab.moved, moved)
		}
		for id, s := range open {
			if tab.get(id) != s {
				t.Fatalf("stream %d is not found", id)
			}
		}
		if tab.get(next) != nil {
			t.Fatal("a stream that was never there")
		}
	}
}

func BenchmarkTable(b *testing.B) {
	var tab table
	streams := make([]stream, 128)
	for i := range streams {
		streams[i].id = uint32(2*i + 1)
		tab.add(&streams[i])
	}
	next, k := uint32(257), 0
	for b.Loop() {
		s := &streams[k]
		k = (k + 1) % len(streams)
		tab.remove(s.id)
		s.id = next
		next += 2
		tab.add(s)
	}
}
