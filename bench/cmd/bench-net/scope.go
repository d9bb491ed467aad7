package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// scope is what a test would be to package nettest: it ends the measurement at
// the first failure and undoes what was made, last first.
type scope struct {
	dir string

	mu   sync.Mutex
	n    int
	undo []func()
	err  error
}

var _ nettest.TB = (*scope)(nil)

var errInterrupted = errors.New("interrupted")

// within runs f in a goroutine that Fatal can end, and cleans up after it.
func (s *scope) within(f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	s.clean()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *scope) clean() {
	for {
		s.mu.Lock()
		if len(s.undo) == 0 {
			s.mu.Unlock()
			return
		}
		f := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		s.mu.Unlock()
		f()
	}
}

// watch cleans up when the program is interrupted.
func (s *scope) watch(c <-chan os.Signal) {
	<-c
	s.clean()
	_ = os.RemoveAll(s.dir)
	fmt.Fprintln(os.Stderr, "bench-net: error:", errInterrupted)
	os.Exit(130)
}

func (s *scope) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	runtime.Goexit()
}

// Helper implements nettest.TB.
func (*scope) Helper() {}

// Fatal implements nettest.TB.
func (s *scope) Fatal(args ...any) { s.fail(errors.New(fmt.Sprint(args...))) }

// Fatalf implements nettest.TB.
func (s *scope) Fatalf(format string, args ...any) { s.fail(fmt.Errorf(format, args...)) }

// Skip implements nettest.TB.
func (s *scope) Skip(args ...any) { s.Fatal(args...) }

// Skipf implements nettest.TB.
func (s *scope) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

// Cleanup implements nettest.TB.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, f)
}

// TempDir implements nettest.TB.
func (s *scope) TempDir() string {
	s.mu.Lock()
	s.n++
	dir := filepath.Join(s.dir, fmt.Sprintf("t%d", s.n))
	s.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.fail(err)
	}
	return dir
}
