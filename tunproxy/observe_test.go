package tunproxy

import (
	"testing"
	"time"
)

func TestSometimes(t *testing.T) {
	var s sometimes
	now := time.Unix(1000, 0)
	logged := 0
	for range 100 {
		if _, ok := s.admit(now); ok {
			logged++
		}
	}
	if logged != 1 {
		t.Errorf("%d of 100 lines in a second, want 1", logged)
	}
	if n, ok := s.admit(now.Add(time.Second)); !ok || n != 99 {
		t.Errorf("a second later: %v, %d dropped", ok, n)
	}
}
