package tap

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Config is a Hub's. Pod and Logger are required.
type Config struct {
	// Pod is our namespace/name.
	Pod    string
	Logger *slog.Logger
	// MaxTaps bounds the taps at once. 0: 64.
	MaxTaps int
	// MaxRPS bounds the requests a second that all taps together follow, whatever
	// they ask for: what they cost is what traffic does not have. 0: 1000.
	MaxRPS uint32
	// Queue bounds, for each tap, the events that wait to be sent. 0: 256.
	Queue int
	// Now is the clock. nil: time.Now.
	Now func() time.Time
	// Connections lists the sidecar's connections, and says how many there are, when
	// the control plane asks; nil: there are none to tell of.
	Connections func(ctx context.Context, limit int) ([]wire.Connection, int)
	// Own is the control plane's address. What goes there and comes from there is
	// in no capture, which would be of itself.
	Own netip.AddrPort
}

// A Hub is what all requests of a sidecar pass. Its methods are safe from any
// goroutine.
type Hub struct {
	cfg  Config
	base uint32                 // of this process's request ids
	last atomic.Uint64          // of the streams' ids
	taps atomic.Pointer[[]*tap] // nil while nobody watches
	all  limit                  // of what is followed, whoever watches

	mu   sync.Mutex    // of changes to taps and captures
	wake chan struct{} // 1 slot: some queue is not empty
	full chan struct{} // 1 slot: some queue is half full

	captures atomic.Pointer[[]*capture] // nil while nobody captures
	packets  Packets                    // set before anything runs
}

// New makes a Hub that nobody watches.
func New(c Config) (*Hub, error) {
	if c.Pod == "" || c.Logger == nil {
		return nil, errors.New("tap: the pod's name and a logger are needed")
	}
	if c.MaxTaps <= 0 {
		c.MaxTaps = 64
	}
	if c.Queue <= 0 {
		c.Queue = 256
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxRPS == 0 {
		c.MaxRPS = 1000
	}
	h := &Hub{cfg: c, base: rand.Uint32(), wake: make(chan struct{}, 1), full: make(chan struct{}, 1)} //nolint:gosec // an id, not a secret
	h.all.set(c.MaxRPS, c.Now())
	return h, nil
}

// Active reports whether anybody watches: whether calling Begin is worth
// gathering its arguments.
func (h *Hub) Active() bool { return h.taps.Load() != nil }

// tap is one watcher's. It is immutable but for what queue and limit hold,
// which a tap that is replaced hands on: spans under way go on to use them.
type tap struct {
	id      uint64
	match   match
	headers bool
	limit   *limit
	queue   *queue
}

// queue is what waits for the stream.
type queue struct {
	max int

	mu     sync.Mutex
	events []*wire.Event
	lost   uint64
}

// match is a wire.Match made ready.
type match struct {
	method, scheme, authority, prefix string
	peers                             []netip.Addr
	in, out                           bool
}

func newMatch(m *wire.Match) (match, error) {
	r := match{method: m.Method, scheme: m.Scheme, authority: m.Authority, prefix: m.PathPrefix}
	switch m.Direction {
	case "":
		r.in, r.out = true, true
	case "in":
		r.in = true
	case "out":
		r.out = true
	default:
		return r, errors.New(`tap: direction is neither "in" nor "out"`)
	}
	for _, p := range m.Peers {
		a, err := netip.ParseAddr(p)
		if err != nil {
			return r, errors.New("tap: a peer is no IP address")
		}
		r.peers = append(r.peers, a.Unmap())
	}
	return r, nil
}

// set obeys a command: it adds, replaces or ends a tap.
func (h *Hub) set(c *wire.Command) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var old []*tap
	if p := h.taps.Load(); p != nil {
		old = *p
	}
	if done, err := h.capture(c); done {
		return err
	}
	t := &tap{id: c.Tap, headers: c.Headers, limit: &limit{}, queue: &queue{max: h.cfg.Queue}}
	next := slices.DeleteFunc(slices.Clone(old), func(was *tap) bool {
		if was.id == c.Tap {
			t.limit, t.queue = was.limit, was.queue
		}
		return was.id == c.Tap
	})
	if c.Match != nil && c.MaxRPS > 0 {
		var err error
		if t.match, err = newMatch(c.Match); err != nil {
			return err
		}
		if len(next) >= h.cfg.MaxTaps {
			return errors.New("tap: too many at once")
		}
		t.limit.set(c.MaxRPS, h.cfg.Now())
		next = append(next, t)
	}
	if len(next) == 0 {
		h.taps.Store(nil)
		return nil
	}
	h.taps.Store(&next)
	return nil
}

// reset ends all taps: the control plane is gone, and tells anew when it is back.
func (h *Hub) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taps.Store(nil)
	h.uncapture()
}

// push queues an event for t, or counts it as lost.
func (h *Hub) push(t *tap, e *wire.Event) {
	q := t.queue
	q.mu.Lock()
	if len(q.events) >= q.max {
		q.lost++
	} else {
		q.events = append(q.events, e)
	}
	n := len(q.events)
	q.mu.Unlock()
	switch n { // of the others somebody knows
	case 1:
		signal(h.wake)
	case q.max / 2:
		signal(h.full)
	}
}

// missed counts an event that the limit did not admit. Somebody is woken for the
// first of many: how many there were is told now and then.
func (h *Hub) missed(t *tap) {
	q := t.queue
	q.mu.Lock()
	q.lost++
	first := q.lost == 1
	q.mu.Unlock()
	if first {
		signal(h.wake)
	}
}

// signal says once what somebody may know.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain takes the events that wait; spare is room for those to come.
func (q *queue) drain(spare []*wire.Event) (events []*wire.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, q.events = q.events, spare
	return events
}

// each takes the events that wait, in order, until none does or f fails. The queue
// keeps the room of those that were taken: no other may have it.
func (q *queue) each(f func(*wire.Event) error) error {
	var spare []*wire.Event
	for {
		events := q.drain(spare)
		if len(events) == 0 {
			return nil
		}
		for _, e := range events {
			if err := f(e); err != nil {
				return err
			}
		}
		clear(events)
		spare = events[:0]
	}
}

// missing takes the count of what was lost.
func (q *queue) missing() (lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost, q.lost = q.lost, 0
	return lost
}

// limit admits so many requests a second, and a second's worth at once.
type limit struct {
	mu     sync.Mutex
	rate   float64
	tokens float64
	at     time.Time
}

func (l *limit) set(rps uint32, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at.IsZero() {
		l.tokens, l.at = float64(rps), now
	}
	l.rate = float64(rps)
	l.tokens = min(l.tokens, l.rate)
}

func (l *limit) admit(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = min(l.rate, l.tokens+l.rate*now.Sub(l.at).Seconds())
	l.at = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
