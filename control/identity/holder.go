package identity

import (
	"log/slog"
	"sync"
	"sync/atomic"
)

// holder is the authority in force, and who waits for another one.
type holder struct {
	log     *slog.Logger
	current atomic.Pointer[Authority]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when current is
	broken  string        // the last error that was reported
}

func newHolder(log *slog.Logger) holder {
	return holder{log: log, changed: make(chan struct{})}
}

// Current is the authority in force.
func (h *holder) Current() *Authority { return h.current.Load() }

// Changed is closed when Current next changes; take it before Current.
func (h *holder) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// Problem is why what there is now is not in force, "" when it is.
func (h *holder) Problem() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken
}

// adopt puts an authority in force.
func (h *holder) adopt(a *Authority) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = ""
	if old := h.current.Load(); old != nil && a.generation == old.generation {
		return
	}
	h.current.Store(a)
	close(h.changed)
	h.changed = make(chan struct{})
	h.log.Info("certificate authority changed", "anchors", len(a.anchors), "issuer", a.issuer.Subject.String(),
		"issuer_not_after", a.issuer.NotAfter, "generation", a.generation)
}

// report logs an error once, not at every look.
func (h *holder) report(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err.Error() != h.broken {
		h.broken = err.Error()
		h.log.Error("certificate authority not usable, the last good one stays", "err", err)
	}
}
