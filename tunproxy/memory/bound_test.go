package memory

import "testing"

// Whatever others hold, a newcomer may hold something.
func TestNobodyHoldsMoreThanIsFree(t *testing.T) {
	b := NewBound(1200)
	var held []int
	for range 5 {
		own := 0
		for ; !b.Over(own + 1); own++ {
			b.Hold(1)
		}
		held = append(held, own)
	}
	for i, want := range []int{600, 300, 150, 75, 37} {
		if held[i] < want-1 || held[i] > want+1 {
			t.Errorf("holder %d got %d, want about %d", i, held[i], want)
		}
	}
	if b.Roomy() {
		t.Error("nearly everything is held, and there is room")
	}
	for _, n := range held {
		b.Hold(-n)
	}
	if b.Held() != 0 || b.Free() != 1200 || !b.Roomy() {
		t.Errorf("%d held in the end", b.Held())
	}
	if NewBound(0).Limit() != DefaultLimit {
		t.Error("no default")
	}
}
