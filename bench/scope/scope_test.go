package scope_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/tunmesh/tunmesh/bench/scope"
)

var errTest = errors.New("it broke")

func TestUndoesLastFirst(t *testing.T) {
	s := &scope.Scope{Dir: t.TempDir()}
	var did []int
	err := s.Within(func() {
		for i := range 3 {
			s.Cleanup(func() { did = append(did, i) })
		}
		s.Fail(errTest)
		t.Error("it goes on after a failure")
	})
	if !errors.Is(err, errTest) || !slices.Equal(did, []int{2, 1, 0}) {
		t.Errorf("%v, undone %v", err, did)
	}
}

// TestInterrupt: what is left behind is not waited for, and what it makes
// afterwards is undone at once.
func TestInterrupt(t *testing.T) {
	s := &scope.Scope{Dir: t.TempDir()}
	before, late := make(chan struct{}), make(chan struct{})
	began, goOn := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- s.Within(func() {
			s.Cleanup(func() { close(before) })
			close(began)
			<-goOn
			s.Cleanup(func() { close(late) })
		})
	}()
	<-began
	s.Interrupt()
	if err := <-ended; !errors.Is(err, scope.ErrInterrupted) {
		t.Errorf("%v", err)
	}
	<-before
	close(goOn)
	<-late
}
