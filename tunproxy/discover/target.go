package discover

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Why a Lookup fails. Its caller refuses; none of these means "not meshed".
var (
	// ErrNoAnswer: the control plane did not say anything in time.
	ErrNoAnswer = errors.New("no answer from the control plane yet")
	// ErrTooMany: too many targets in use, or callers waiting.
	ErrTooMany = errors.New("too many targets at once")
)

// maxWaiting bounds the callers that wait for one target's first answer.
const maxWaiting = 1024

// A Target is a watched address. It is shared by all who look it up; its
// methods are safe from any goroutine.
type Target struct {
	addr    netip.AddrPort
	client  *Client
	watch   *watch
	snap    atomic.Pointer[Snapshot]
	used    atomic.Int64 // Unix nanoseconds
	dropped atomic.Bool

	version uint64 // of the stream; of the watch's goroutine
	reader  reader // of that goroutine, too

	mu      sync.Mutex
	waiting []*waiter
	subs    map[*sub]struct{}
}

// waiter is a Lookup under way. over is its loop's.
type waiter struct {
	loop  aio.Loop
	done  func(*Target, error)
	timer aio.Timer
	over  bool
}

// sub is a subscription.
type sub struct {
	loop    aio.Loop
	f       func()
	posted  atomic.Bool
	stopped atomic.Bool
}

// Addr is the address that was looked up.
func (t *Target) Addr() netip.AddrPort { return t.addr }

// Load is the last good snapshot; never nil for a Target that Lookup gave out.
func (t *Target) Load() *Snapshot { return t.snap.Load() }

// Dropped reports that nobody used the target for a while and it is no longer
// watched: its snapshot does not change any more. Look it up again.
func (t *Target) Dropped() bool { return t.dropped.Load() }

// Subscribe calls f on loop soon, so that no change before it is missed, and
// then after each change, several at once if they come fast, until cancel is
// called on loop. A target with subscribers is not dropped.
func (t *Target) Subscribe(loop aio.Loop, f func()) (cancel func()) {
	s := &sub{loop: loop, f: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.subs == nil {
		t.subs = map[*sub]struct{}{}
	}
	t.subs[s] = struct{}{}
	s.notify()
	return func() {
		s.stopped.Store(true)
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subs, s)
		t.touch()
	}
}

func (s *sub) notify() {
	if s.posted.CompareAndSwap(false, true) {
		s.loop.Post(func() {
			s.posted.Store(false)
			if !s.stopped.Load() {
				s.f()
			}
		})
	}
}

func (t *Target) touch() { t.used.Store(t.client.cfg.Now().UnixNano()) }

// take is the watch's.
func (t *Target) take(p []byte, first bool) error {
	var u wire.Update
	if err := u.Decode(p); err != nil {
		return err
	}
	old := t.snap.Load()
	var next *Snapshot
	var err error
	switch {
	case u.Target != nil:
		if !first && u.Version <= t.version {
			return fmt.Errorf("version %d after %d", u.Version, t.version)
		}
		next, err = t.reader.snapshot(t.addr, u.Target)
	case u.Delta != nil && first:
		return errors.New("the stream began with a delta")
	case u.Delta != nil && u.Version != t.version+1:
		return fmt.Errorf("a gap: version %d after %d", u.Version, t.version)
	case u.Delta != nil:
		next, err = t.reader.apply(old, t.addr, u.Delta)
	default:
		return errors.New("an update without content")
	}
	if err != nil {
		return err
	}
	t.version = u.Version
	if old != nil && old.equal(next) {
		return nil
	}
	next.Version = 1
	if old != nil {
		next.Version = old.Version + 1
	}
	t.publish(next)
	return nil
}

func (t *Target) publish(s *Snapshot) {
	t.mu.Lock()
	t.snap.Store(s)
	waiting := t.waiting
	t.waiting = nil
	subs := slices.Collect(maps.Keys(t.subs))
	t.mu.Unlock()
	for _, w := range waiting {
		w.loop.Post(func() { w.finish(t, nil) })
	}
	for _, s := range subs {
		s.notify()
	}
}

// wait adds a waiter; nil: too many wait already. It runs on loop.
func (t *Target) wait(loop aio.Loop, limit time.Duration, done func(*Target, error)) *waiter {
	w := &waiter{loop: loop, done: done}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.snap.Load() != nil { // just now
		loop.Post(func() { w.finish(t, nil) })
		return w
	}
	if len(t.waiting) >= maxWaiting {
		return nil
	}
	t.waiting = append(t.waiting, w)
	w.timer = loop.AfterFunc(limit, func() {
		t.forget(w)
		w.finish(nil, fmt.Errorf("look up %s: %w", t.addr, ErrNoAnswer))
	})
	return w
}

func (t *Target) forget(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(x *waiter) bool { return x == w })
}

// finish runs on the waiter's loop.
func (w *waiter) finish(t *Target, err error) {
	if w.over {
		return
	}
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.done(t, err)
}

// idle reports whether the target may be dropped.
func (t *Target) idle(before int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) == 0 && len(t.subs) == 0 && t.used.Load() < before
}

// equal compares all but the version.
func (s *Snapshot) equal(o *Snapshot) bool {
	return s.Kind == o.Kind && s.Protocol == o.Protocol && s.Ref == o.Ref && s.Authority == o.Authority &&
		maps.Equal(s.Labels, o.Labels) && s.Traffic.Equal(o.Traffic) && slices.Equal(s.Endpoints, o.Endpoints)
}
