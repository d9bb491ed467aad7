package resilience

import (
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	var g Gate
	if !g.Open() || g.Failing(time.Hour) {
		t.Error("a new gate is not open")
	}
	if g.Set(time.Second, true) || !g.Set(2*time.Second, false) || g.Set(3*time.Second, false) {
		t.Error("waiting begins once, when the last endpoint goes")
	}
	for at, want := range map[time.Duration]bool{2 * time.Second: false, 2*time.Second + Grace - 1: false, 2*time.Second + Grace: true, time.Hour: true} {
		if g.Failing(at) != want {
			t.Errorf("failing at %v: %v", at, !want)
		}
	}
	g.Set(time.Hour, true)
	if !g.Open() || g.Failing(2*time.Hour) {
		t.Error("does not open again")
	}
	var empty Gate
	if empty.Never(0); !empty.Failing(0) || empty.Set(0, false) || !empty.Failing(1) {
		t.Error("waits for what never was")
	}
	if !g.Set(3*time.Hour, false) || g.Failing(3*time.Hour+Grace-1) || !g.Failing(3*time.Hour+Grace) {
		t.Error("the second time has no grace of its own")
	}
}
