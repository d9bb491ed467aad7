package tap

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Request says what to watch.
type Request struct {
	// Pods lists the pods whose sidecars watch; those that are not meshed, or
	// that forbid it by annotation, are left out. It is asked again whenever the cluster changes, under no lock.
	Pods func() []*catalog.Pod
	// Peers lists the addresses that the other end may have; nil function: any.
	// No address = nothing matches.
	Peers   func() []netip.Addr
	Match   *api.Match // without peers; nil: everything
	MaxRPS  uint32     // 0 = DefaultRPS
	Headers bool
	// Capture asks for packets instead of requests; nil: requests.
	Capture *api.Capture
}

// Watch is a running tap.
type Watch struct {
	hub    *Hub
	id     uint64
	req    Request
	events chan *api.Event
	packs  chan *api.Packets // of a capture
	lost   atomic.Uint64

	mu       sync.Mutex
	selected map[catalog.Key]bool
	peers    []string // nil: any; empty: nothing matches
	gate     *Gate[catalog.Key]
	closed   bool
	held     int64 // bytes that wait, which are part of the hub's
}

// Watch starts a tap. The caller closes it.
func (h *Hub) Watch(req Request) (*Watch, error) {
	if req.MaxRPS == 0 {
		req.MaxRPS = DefaultRPS
	}
	if req.MaxRPS > maxRPS {
		return nil, fmt.Errorf("tap: %d requests per second is more than %d", req.MaxRPS, maxRPS)
	}
	if req.Match == nil {
		req.Match = &api.Match{}
	}
	w := &Watch{
		hub: h, req: req, events: make(chan *api.Event, maxQueue),
		gate: NewGate[catalog.Key](req.MaxRPS),
	}
	if req.Capture != nil {
		w.packs = make(chan *api.Packets, maxPacks)
	}
	w.refresh()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watches) >= maxWatches || h.busy(w) {
		return nil, ErrBusy
	}
	h.last++
	w.id = h.last
	h.watches[w.id] = w
	h.nudgeAll()
	return w, nil
}

// Events delivers what is seen. It is never closed. Each event that was received is
// told to Took.
func (w *Watch) Events() <-chan *api.Event { return w.events }

// Packets delivers what a capture sees. It is never closed. Each message that was
// received is told to Took.
func (w *Watch) Packets() <-chan *api.Packets { return w.packs }

// Took says that a message of Events or Packets, unchanged, waits no more.
func (w *Watch) Took(m proto.Message) {
	if e, ok := m.(*api.Event); ok {
		w.give(cost(e))
		return
	}
	w.give(int64(proto.Size(m)))
}

// take takes room for what is to wait; false: there is none.
func (w *Watch) take(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.held+n > maxHeld-w.hub.held.Load() {
		return false
	}
	w.held += n
	w.hub.held.Add(n)
	return true
}

// give gives room back.
func (w *Watch) give(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n = min(n, w.held) // what was closed has given all
	w.held -= n
	w.hub.held.Add(-n)
}

// TakeLost is the number of events that did not reach Events since it was last
// asked: the limit, a full queue here or in a sidecar.
func (w *Watch) TakeLost() uint64 { return w.lost.Swap(0) }

// Selected is the number of pods that the watch selects now, and how many of
// their sidecars are attached.
func (w *Watch) Selected() (pods, attached int) {
	w.mu.Lock()
	selected := w.selected
	w.mu.Unlock()
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	for k := range selected {
		if w.hub.proxies[k] != nil {
			attached++
		}
	}
	return len(selected), attached
}

// Close ends the tap. It may be called again.
func (w *Watch) Close() {
	w.mu.Lock()
	w.closed = true
	w.hub.held.Add(-w.held)
	w.held = 0
	w.mu.Unlock()
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	delete(w.hub.watches, w.id)
	w.hub.nudgeAll()
}

// refresh asks again which pods and peers the watch is about; the sets are
// replaced, never written to.
func (w *Watch) refresh() {
	selected := map[catalog.Key]bool{}
	for _, p := range w.req.Pods() {
		if p.Meshed && p.Annotations[annotation.DisableTap] != "true" {
			selected[p.Key] = true
		}
	}
	var peers []string
	if w.req.Peers != nil {
		peers = []string{}
		for _, ip := range w.req.Peers() {
			peers = append(peers, ip.String())
		}
		slices.Sort(peers)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.selected, w.peers = selected, peers
}

// command is what a pod's sidecar is to do for the watch; nil: nothing.
func (w *Watch) command(pod catalog.Key) *api.Command {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.selected[pod] || w.peers != nil && len(w.peers) == 0 {
		return nil
	}
	if w.req.Capture != nil {
		return &api.Command{Tap: w.id, Capture: w.req.Capture}
	}
	m := proto.CloneOf(w.req.Match)
	m.Peers = w.peers
	return &api.Command{Tap: w.id, Match: m, MaxRps: w.req.MaxRPS, Headers: w.req.Headers}
}

// admit counts an event against the watch: whole requests are let through or
// left out, never parts of them.
func (w *Watch) admit(pod catalog.Key, e *api.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || !w.selected[pod] {
		return false
	}
	ok, lost := w.gate.Admit(pod, e)
	if lost {
		w.lost.Add(1)
	}
	return ok
}

// forget drops the open requests of a pod whose sidecar has left.
func (w *Watch) forget(pod catalog.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gate.Forget(pod)
}

// selects reports whether a pod is one of the watch's.
func (w *Watch) selects(pod catalog.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.closed && w.selected[pod]
}
