// Package scope is what a test would be to package nettest, for a program that
// measures: it ends the measurement at the first failure and undoes what was
// made, last first. It knows nothing of what is made.
package scope

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// Scope implements nettest.TB.
type Scope struct {
	// Dir is where temporary folders are made; whoever made it removes it.
	Dir string

	mu   sync.Mutex
	n    int
	undo []func()
	err  error
	end  chan struct{}
	stop sync.Once
	over bool // everything was undone
}

var _ nettest.TB = (*Scope)(nil)

// ErrInterrupted is how a measurement ends that was interrupted.
var ErrInterrupted = errors.New("interrupted")

// Within runs f in a goroutine that Fail can end, and cleans up after it.
func (s *Scope) Within(f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-s.stopped(): // f is left behind: what it made goes away under it
	}
	s.clean()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Scope) clean() {
	for {
		s.mu.Lock()
		if len(s.undo) == 0 {
			s.over = true
			s.mu.Unlock()
			return
		}
		f := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		s.mu.Unlock()
		f()
	}
}

// stopped is closed by Interrupt.
func (s *Scope) stopped() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.end = make(chan struct{})
	}
	return s.end
}

// Interrupt makes Within clean up and return ErrInterrupted, at once if what it
// runs is in the way.
func (s *Scope) Interrupt() {
	s.mu.Lock()
	if s.err == nil {
		s.err = ErrInterrupted
	}
	s.mu.Unlock()
	s.stop.Do(func() { close(s.stopped()) })
}

// Fail ends what Within runs; it may be called from there only.
func (s *Scope) Fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	runtime.Goexit()
}

// Helper implements nettest.TB.
func (*Scope) Helper() {}

// Fatal implements nettest.TB.
func (s *Scope) Fatal(args ...any) { s.Fail(errors.New(fmt.Sprint(args...))) }

// Fatalf implements nettest.TB.
func (s *Scope) Fatalf(format string, args ...any) { s.Fail(fmt.Errorf(format, args...)) }

// Skip implements nettest.TB.
func (s *Scope) Skip(args ...any) { s.Fatal(args...) }

// Skipf implements nettest.TB.
func (s *Scope) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

// Cleanup implements nettest.TB. What is made after the end, by what was left
// behind, is undone at once.
func (s *Scope) Cleanup(f func()) {
	s.mu.Lock()
	over := s.over
	if !over {
		s.undo = append(s.undo, f)
	}
	s.mu.Unlock()
	if over {
		f()
	}
}

// TempDir implements nettest.TB.
func (s *Scope) TempDir() string {
	s.mu.Lock()
	s.n++
	dir := filepath.Join(s.Dir, fmt.Sprintf("t%d", s.n))
	s.mu.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.Fail(err)
	}
	return dir
}
