// Package aiotest fakes an event loop and its connections in memory, for tests
// of what is written against package aio: time stands still until Advance,
// passes run only when asked for, dials go to functions of the test.
package aiotest

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// Loop is a manual aio.Loop. All methods but Post belong to the test's goroutine.
type Loop struct {
	// OnDial answers Dial; nil refuses. The Conn it returns is the dialler's end.
	OnDial func(aio.DialRequest) (aio.Conn, error)

	now    time.Duration
	timers []*timer
	defers []func()
	ready  []*Conn
	// Emptied lists, to be used again: benchmarks count allocations.
	spareDefers []func()
	spareReady  []*Conn

	mu     sync.Mutex
	posted []func()
	wake   chan struct{}
	ended  bool
}

// NewLoop makes a loop at time zero.
func NewLoop() *Loop { return &Loop{wake: make(chan struct{}, 1)} }

type timer struct {
	l  *Loop
	at time.Duration
	f  func()
}

// Stop implements aio.Timer.
func (t *timer) Stop() bool {
	i := slices.Index(t.l.timers, t)
	if i < 0 {
		return false
	}
	t.l.timers = slices.Delete(t.l.timers, i, i+1)
	return true
}

// Reset implements aio.Timer.
func (t *timer) Reset(d time.Duration) {
	t.Stop()
	t.at = t.l.now + d
	t.l.timers = append(t.l.timers, t)
}

// Post implements aio.Loop.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.posted = append(l.posted, f)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// End makes every later Post fail.
func (l *Loop) End() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
}

// Defer implements aio.Loop.
func (l *Loop) Defer(f func()) { l.defers = append(l.defers, f) }

// AfterFunc implements aio.Loop.
func (l *Loop) AfterFunc(d time.Duration, f func()) aio.Timer {
	t := &timer{l: l, f: f}
	t.Reset(d)
	return t
}

// Now implements aio.Loop.
func (l *Loop) Now() time.Duration { return l.now }

// Dial implements aio.Loop.
func (l *Loop) Dial(r aio.DialRequest) (cancel func()) {
	done := false
	finish := func(c aio.Conn, err error) {
		if !done {
			done = true
			r.Done(c, err)
		} else if c != nil {
			c.Reset()
		}
	}
	l.Post(func() {
		if l.OnDial == nil {
			finish(nil, aio.ErrRefused)
			return
		}
		finish(l.OnDial(r))
	})
	return func() { l.Post(func() { finish(nil, aio.ErrClosed) }) }
}

// Pass runs one pass: posted functions, due timers, ready connections, then
// deferred functions. It reports whether anything ran.
func (l *Loop) Pass() bool {
	ran := false
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		ran = true
		f()
	}
	for {
		i := -1
		for j, t := range l.timers {
			if t.at <= l.now && (i < 0 || t.at < l.timers[i].at) {
				i = j
			}
		}
		if i < 0 {
			break
		}
		t := l.timers[i]
		t.Stop()
		ran = true
		t.f()
	}
	ready := l.ready
	l.ready, l.spareReady = l.spareReady, nil
	for _, c := range ready {
		ran = true
		c.deliver()
	}
	clear(ready)
	l.spareReady = ready[:0]
	defers := l.defers
	l.defers, l.spareDefers = l.spareDefers, nil
	for _, f := range defers {
		ran = true
		f()
	}
	clear(defers)
	l.spareDefers = defers[:0]
	return ran
}

// Run runs passes until nothing is left to do now. It fails the test after
// 100,000 passes: two parties that answer each other for ever.
func (l *Loop) Run(t testing.TB) {
	t.Helper()
	for range 100_000 {
		if !l.Pass() {
			return
		}
	}
	t.Fatal("aiotest: the loop does not come to rest")
}

// Advance moves time by d, firing timers in order, and runs to rest.
func (l *Loop) Advance(t testing.TB, d time.Duration) {
	t.Helper()
	end := l.now + d
	for {
		l.Run(t)
		next := end
		for _, tm := range l.timers {
			if tm.at < next {
				next = tm.at
			}
		}
		l.now = next
		if next == end {
			l.Run(t)
			return
		}
	}
}

// RunUntil runs passes, waiting in real time for other goroutines to Post,
// until cond holds; it fails the test after limit.
func (l *Loop) RunUntil(t testing.TB, limit time.Duration, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		l.Run(t)
		if cond() {
			return
		}
		select {
		case <-l.wake:
		case <-deadline.C:
			t.Fatalf("aiotest: condition not met within %v", limit)
		}
	}
}

var _ aio.Loop = (*Loop)(nil)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
