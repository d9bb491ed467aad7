package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Times of a Watcher.
const (
	// poll is for what no event tells of: a folder that was removed and made again,
	// a program that was removed, a network file system.
	poll = 5 * time.Second
	// pollOften is for a node whose inotify instances are used up.
	pollOften = 500 * time.Millisecond
	// quarrel: an edit so soon after the last one is a sign that somebody else
	// insists on another content; then each waits twice as long as the one before,
	// up to quarrelMost, so that two installers do not wear the disk out.
	quarrel     = 2 * time.Second
	quarrelFree = 3
	quarrelMost = 30 * time.Second
)

// Watcher keeps the chain as Reconcile makes it.
type Watcher struct {
	install *Installer
	log     *slog.Logger
	net     string
	status  atomic.Pointer[watched]

	said   string // the last problem logged
	edited time.Time
	quick  int // edits soon after each other
}

type watched struct {
	Status
	err error
}

// NewWatcher makes a Watcher that has not begun.
func NewWatcher(cfg Config) *Watcher {
	w := &Watcher{install: New(cfg), log: cfg.Log, net: cfg.NetDir}
	w.status.Store(&watched{err: errors.New("nobody has looked at the CNI chain yet")})
	return w
}

// Status is the last look's. The error says what is wrong, or what is awaited.
func (w *Watcher) Status() (Status, error) {
	s := w.status.Load()
	return s.Status, s.err
}

// Run looks and repairs until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	if err := w.install.net.sweep(); err != nil {
		w.log.Warn("remove what was left half written", "error", err)
	}
	events, err := fsnotify.NewWatcher()
	every := poll
	if err != nil {
		w.log.Warn("nobody tells of changes of the CNI folder: look at it often", "error", err)
		events, every = &fsnotify.Watcher{}, pollOften // nobody sends
	} else {
		defer events.Close()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err == nil {
			_ = events.Add(w.net) // again and again: the folder may be a new one
		}
		wait := w.look(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !w.next(ctx, events, tick.C) {
			return
		}
	}
}

// next waits for a reason to look again.
func (w *Watcher) next(ctx context.Context, events *fsnotify.Watcher, tick <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case e := <-events.Events:
			if name := filepath.Base(e.Name); strings.HasPrefix(name, tempPrefix) || name == JournalName || e.Op == fsnotify.Chmod {
				continue
			}
			return true
		case err := <-events.Errors:
			w.log.Warn("watch the CNI folder", "error", err)
			return true
		}
	}
}

// look reconciles once and says how long to leave the folder alone.
func (w *Watcher) look(now time.Time) time.Duration {
	st, err := w.install.Reconcile()
	if err == nil && st.File == "" {
		err = fmt.Errorf("no CNI has written its configuration to %s yet", w.net)
	}
	w.status.Store(&watched{st, err})
	w.say(err)
	if !st.Edited {
		return 0
	}
	if now.Sub(w.edited) > quarrel<<min(w.quick, 5) {
		w.quick = 0
	}
	w.edited = now
	w.quick++
	if w.quick <= quarrelFree {
		return 0
	}
	wait := min(100*time.Millisecond<<min(w.quick-quarrelFree, 10), quarrelMost)
	w.log.Warn("somebody else writes the CNI chain again and again: wait", "file", filepath.Join(w.net, st.File), "wait", wait)
	return wait
}

// say logs a problem once.
func (w *Watcher) say(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == w.said {
		return
	}
	w.said = text
	if err != nil {
		w.log.Warn("the mesh is not in the CNI chain: pods that start now are outside of it", "error", err)
	}
}
