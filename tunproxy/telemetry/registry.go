package telemetry

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// Config is a Registry's; the zero Config is good.
type Config struct {
	// MaxSets bounds the label sets of all families together; an HTTP set costs
	// about 1 KB, a TCP set half of that. 0: 4096.
	MaxSets int
	// Retain is how long a set that nobody holds is still printed. 0: 10 min.
	Retain time.Duration
	// Now is the wall clock. nil: time.Now.
	Now func() time.Time
}

// A Registry holds label sets and prints all families. All methods are safe
// from any goroutine.
type Registry struct {
	cfg Config

	mu        sync.Mutex
	sets      int
	overflows Counter
	families  []printer
}

// printer is one or more families that are printed together.
type printer interface {
	// print writes the families; the registry's lock is held.
	print(t *text)
	// retire drops sets released before a time and reports how many. The
	// registry's lock is held.
	retire(before time.Time) int
}

// NewRegistry makes an empty Registry.
func NewRegistry(c Config) *Registry {
	if c.MaxSets <= 0 {
		c.MaxSets = 4096
	}
	if c.Retain <= 0 {
		c.Retain = 10 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Registry{cfg: c}
}

func (r *Registry) register(p printer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.families = append(r.families, p)
}

// Collect adds figures that are read when somebody asks: f is called for each
// print and writes whole families.
func (r *Registry) Collect(f func(w *Writer)) { r.register(collector(f)) }

type collector func(w *Writer)

func (c collector) print(t *text)        { c(&Writer{t}) }
func (c collector) retire(time.Time) int { return 0 }

// WriteTo prints what Pieces returns. It implements io.WriterTo.
func (r *Registry) WriteTo(w io.Writer) (int64, error) {
	written := int64(0)
	for _, p := range r.Pieces() {
		n, err := w.Write(p)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Text is what Pieces returns, in one.
func (r *Registry) Text() []byte { return bytes.Join(r.Pieces(), nil) }

// Pieces are every family in the Prometheus text format, version 0.0.4, cut
// between lines. They are the caller's, who may let go of each when it is used.
func (r *Registry) Pieces() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep()
	t := &text{b: make([]byte, 0, pieceSize)}
	for _, f := range r.families {
		f.print(t)
	}
	t.family("telemetry_label_sets", "Number of label sets held.", gauge)
	t.sample("telemetry_label_sets", "", "", uint64(r.sets))
	t.family("telemetry_overflow_total", "Total count of handles that share a set because too many exist.", counter)
	t.sample("telemetry_overflow_total", "", "", r.overflows.Value())
	return t.pieces()
}

// ContentType is that of what WriteTo writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// sweep retires what nobody held for long; r.mu is held.
func (r *Registry) sweep() {
	before := r.cfg.Now().Add(-r.cfg.Retain)
	for _, f := range r.families {
		r.sets -= f.retire(before)
	}
}

// sets are the label sets of families that share their labels.
type sets[M any] struct {
	r        *Registry
	by       map[string]*set[M]
	order    []*set[M] // as they came; printed so
	overflow *set[M]
	show     func(t *text, all []*set[M])
}

type set[M any] struct {
	labels   string // rendered, without braces
	metrics  M
	refs     int       // of the registry's lock
	released time.Time // when refs became 0
}

func newSets[M any](r *Registry, show func(t *text, all []*set[M])) *sets[M] {
	s := &sets[M]{r: r, by: map[string]*set[M]{}, show: show}
	r.register(s)
	return s
}

// acquire finds or makes the set with those labels, and holds it.
func (s *sets[M]) acquire(labels []byte) *set[M] {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	e, ok := s.by[string(labels)]
	if !ok {
		if e = s.add(labels); e == nil {
			return s.shared()
		}
	}
	e.refs++
	return e
}

func (s *sets[M]) add(labels []byte) *set[M] {
	if s.r.sets >= s.r.cfg.MaxSets {
		if s.r.sweep(); s.r.sets >= s.r.cfg.MaxSets {
			return nil
		}
	}
	e := &set[M]{labels: string(labels)}
	s.by[e.labels] = e
	s.order = append(s.order, e)
	s.r.sets++
	return e
}

// shared is the set of those that came too late. It never retires.
func (s *sets[M]) shared() *set[M] {
	s.r.overflows.Inc()
	if s.overflow == nil {
		s.overflow = &set[M]{labels: `overflow="true"`}
		s.order = append(s.order, s.overflow)
	}
	s.overflow.refs++
	return s.overflow
}

// release lets go of a set once.
func (s *sets[M]) release(e *set[M]) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if e.refs--; e.refs == 0 {
		e.released = s.r.cfg.Now()
	}
}

func (s *sets[M]) print(t *text) {
	if len(s.order) > 0 {
		s.show(t, s.order)
	}
}

func (s *sets[M]) retire(before time.Time) int {
	kept := s.order[:0]
	for _, e := range s.order {
		if e.refs == 0 && e != s.overflow && e.released.Before(before) {
			delete(s.by, e.labels)
			continue
		}
		kept = append(kept, e)
	}
	n := len(s.order) - len(kept)
	clear(s.order[len(kept):])
	s.order = kept
	return n
}
