package tracing

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultRatio is which share of the requests without a parent is traced where
// nobody says.
const DefaultRatio = 0.01

// Config of a Tracer. Fields without a default are required.
type Config struct {
	// Ratio is which share, 0 to 1, of the requests is traced of which nobody has
	// decided. Of others the decision is respected.
	Ratio float64
	// Authority is the collector's name with its port.
	Authority string
	// Dial connects to the collector.
	Dial func(ctx context.Context) (net.Conn, error)
	// Resource describes the pod; it is asked before each export.
	Resource func() []Attribute
	// Version is the sidecar's.
	Version string
	Logger  *slog.Logger
}

// Attribute of a resource.
type Attribute struct{ Key, Value string }

// A Span that is under way.
type Span struct {
	Trace      TraceID
	ID, Parent SpanID

	random, debug bool
	state         string
}

// Tracer makes spans. Its methods may be called from several loops.
type Tracer struct {
	cfg       Config
	threshold uint64 // of 2^63
	hurried   atomic.Bool
	wake      chan struct{} // spans wait; has room for one
	full      chan struct{} // enough of them; has room for one

	counts

	mu      sync.Mutex
	pending []byte
	spans   int
}

// counts are what became of spans.
type counts struct {
	exported, requests, streams          atomic.Uint64
	overflowed, unreachable, notAccepted atomic.Uint64
}

// Counts are what became of spans since the start.
type Counts struct {
	// Exported spans were taken by the collector, in Requests; Connections were
	// made to it.
	Exported, Requests, Connections uint64
	// Overflowed spans found too many others waiting, Unreachable ones no collector
	// in time, Rejected ones one that did not want them.
	Overflowed, Unreachable, Rejected uint64
	// Waiting spans are in memory.
	Waiting int
}

// Counts reports.
func (t *Tracer) Counts() Counts {
	t.mu.Lock()
	waiting := t.spans
	t.mu.Unlock()
	return Counts{
		Exported: t.exported.Load(), Requests: t.requests.Load(), Connections: t.streams.Load(),
		Overflowed: t.overflowed.Load(), Unreachable: t.unreachable.Load(), Rejected: t.notAccepted.Load(),
		Waiting: waiting,
	}
}

const (
	// maxPending is how many bytes of spans wait for the collector: a second of
	// a thousand sampled requests per second.
	maxPending = 512 << 10
	// batch is how many are worth an export at once; gather is how long fewer are
	// collected, hurry the same while the sidecar is about to end.
	batch  = 64 << 10
	gather = time.Second
	hurry  = 50 * time.Millisecond
)

// New makes a tracer. Spans leave while Run runs.
func New(cfg Config) *Tracer {
	return &Tracer{
		cfg: cfg, threshold: uint64(math.Min(math.Max(cfg.Ratio, 0), 1) * (1 << 63)),
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

// Sample decides of a request, as its parent did, or else by ratio.
func (t *Tracer) Sample(p *Parent) bool {
	switch p.Decision {
	case Sampled:
		return true
	case Dropped:
		return false
	}
	return rand.Uint64()>>1 < t.threshold
}

// Begin makes a span of a request that is sampled.
func (t *Tracer) Begin(p *Parent) *Span {
	s := &Span{Trace: p.Trace, Parent: p.Span, random: p.random, debug: p.debug, state: p.state}
	for s.Trace == (TraceID{}) {
		binary.BigEndian.PutUint64(s.Trace[:8], rand.Uint64())
		binary.BigEndian.PutUint64(s.Trace[8:], rand.Uint64())
	}
	for s.ID == (SpanID{}) {
		binary.BigEndian.PutUint64(s.ID[:], rand.Uint64())
	}
	return s
}

// End takes a span that is over, or drops it when too much waits already. It never
// waits for the collector, and keeps nothing of its arguments.
func (t *Tracer) End(s *Span, e *Entry) {
	t.mu.Lock()
	before := len(t.pending)
	t.pending = s.append(t.pending, e)
	after := len(t.pending)
	if before > 0 && after > maxPending {
		t.pending = t.pending[:before]
		t.overflowed.Add(1)
	} else {
		t.spans++
	}
	t.mu.Unlock()
	if before == 0 {
		signal(t.wake)
	}
	if after >= batch {
		signal(t.full)
	}
}

// Hurry has what is left exported soon: the sidecar is about to end.
func (t *Tracer) Hurry() {
	t.hurried.Store(true)
	signal(t.full)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it knows
	}
}

// take exchanges what waits for an empty buffer.
func (t *Tracer) take(empty []byte) (spans []byte, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	spans, n = t.pending, t.spans
	t.pending, t.spans = empty[:0], 0
	return spans, n
}
