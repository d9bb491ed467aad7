package tap

import (
	"slices"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Queues of taps that are emptied one after the other share nothing: an event of one
// was another's, or nobody's, which the control plane ended the stream for.
func TestQueuesShareNothing(t *testing.T) {
	h := &Hub{}
	taps := []*tap{{id: 1, queue: &queue{max: 8}}, {id: 2, queue: &queue{max: 8}}}
	for round := range 4 {
		for i, tp := range taps {
			for n := range round + 1 {
				h.push(tp, &wire.Event{Tap: tp.id, Stream: uint64(round*100 + i*10 + n)}) //nolint:gosec // few
			}
		}
		for i, tp := range taps {
			var got, want []uint64
			for n := range round + 1 {
				want = append(want, uint64(round*100+i*10+n)) //nolint:gosec // few
			}
			_ = tp.queue.each(func(e *wire.Event) error {
				if e == nil || e.Tap != tp.id {
					t.Fatalf("round %d, tap %d has %+v", round, tp.id, e)
				}
				got = append(got, e.Stream)
				return nil
			})
			if !slices.Equal(got, want) {
				t.Errorf("round %d, tap %d has %v, want %v", round, tp.id, got, want)
			}
		}
	}
}
