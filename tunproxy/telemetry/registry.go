package telemetry

import (
	"slices"
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
	// Off: nothing is counted by labels, every handle is the zero one, and there is
	// nothing to print but what is collected. It shows what counting costs.
	Off bool
}

// A Registry holds label sets and prints all families. All methods are safe
// from any goroutine.
type Registry struct {
	cfg Config

	mu        sync.Mutex
	sets      int
	overflows Counter
	families  []printer

	collecting sync.Mutex
}

// printer is one or more families that are printed together.
type printer interface {
	// begin is what there is to print now. The registry's lock is held.
	begin() section
	// retire drops sets released before a time and reports how many. The
	// registry's lock is held.
	retire(before time.Time) int
}

// section is what one printer has for one page.
type section interface {
	// step prints a little, and reports whether there is more. No lock is held.
	step(t *text) bool
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
	r := &Registry{cfg: c}
	r.Collect(r.describe)
	return r
}

// describe prints the registry's own families.
func (r *Registry) describe(w *Writer) {
	r.mu.Lock()
	n := r.sets
	r.mu.Unlock()
	w.Gauge("telemetry_label_sets", "Number of label sets held.")
	w.Sample("telemetry_label_sets", float64(n))
	w.Counter("telemetry_overflow_total", "Total count of handles that share a set because too many exist.")
	w.Sample("telemetry_overflow_total", float64(r.overflows.Value()))
}

func (r *Registry) register(p printer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.families = append(r.families, p)
}

// Collect adds figures that are read when somebody asks: f is called for each
// print and writes whole families.
func (r *Registry) Collect(f func(w *Writer)) { r.register(collector{r, f}) }

type collector struct {
	r *Registry
	f func(w *Writer)
}

func (c collector) begin() section       { return c }
func (c collector) retire(time.Time) int { return 0 }

func (c collector) step(t *text) bool {
	c.r.collecting.Lock() // a collector may keep a buffer
	defer c.r.collecting.Unlock()
	c.f(&Writer{t})
	return false
}

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
	max      int // of them; 0: as many as the registry has
	by       map[string]*set[M]
	order    []*set[M] // as they came; printed so
	overflow *set[M]
	columns  []column[M]
}

type set[M any] struct {
	labels   string // rendered, without braces
	metrics  M
	refs     int       // of the registry's lock
	released time.Time // when refs became 0
}

// column is one family: row prints what a set has of it.
type column[M any] struct {
	name, help string
	kind       Kind
	row        func(t *text, s *set[M])
}

func newSets[M any](r *Registry, columns ...column[M]) *sets[M] {
	s := &sets[M]{r: r, by: map[string]*set[M]{}, columns: columns}
	r.register(s)
	return s
}

// counts is a family of counters.
func counts[M any](name, help string, get func(m *M) *Counter) column[M] {
	return column[M]{name, help, counter, func(t *text, s *set[M]) { t.sample(name, s.labels, "", get(&s.metrics).Value()) }}
}

// rare is a family of counters of which those that are 0 are not printed.
func rare[M any](name, help string, get func(m *M) *Counter) column[M] {
	return column[M]{name, help, counter, func(t *text, s *set[M]) {
		if n := get(&s.metrics).Value(); n > 0 {
			t.sample(name, s.labels, "", n)
		}
	}}
}

// gauges is a family of gauges.
func gauges[M any](name, help string, get func(m *M) *Gauge) column[M] {
	return column[M]{name, help, gauge, func(t *text, s *set[M]) { t.signed(name, s.labels, "", get(&s.metrics).Value()) }}
}

// acquire finds or makes the set with those labels, and holds it; nil: nothing is
// counted.
func (s *sets[M]) acquire(labels []byte) *set[M] {
	if s.r.cfg.Off {
		return nil
	}
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
	if s.full() {
		if s.r.sweep(); s.full() {
			return nil
		}
	}
	e := &set[M]{labels: string(labels)}
	s.by[e.labels] = e
	s.order = append(s.order, e)
	s.r.sets++
	return e
}

func (s *sets[M]) full() bool {
	return s.r.sets >= s.r.cfg.MaxSets || s.max > 0 && len(s.by) >= s.max
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
	if e == nil {
		return
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if e.refs--; e.refs == 0 {
		e.released = s.r.cfg.Now()
	}
}

// begin implements printer.
func (s *sets[M]) begin() section { return &rows[M]{columns: s.columns, sets: slices.Clone(s.order)} }

// rows is a walk over all columns, and in each over all sets.
type rows[M any] struct {
	columns []column[M]
	sets    []*set[M]
	next    int // set
}

// step implements section.
func (r *rows[M]) step(t *text) bool {
	if len(r.sets) == 0 || len(r.columns) == 0 {
		return false
	}
	c := &r.columns[0]
	if r.next == 0 {
		t.family(c.name, c.help, c.kind)
	}
	c.row(t, r.sets[r.next])
	if r.next++; r.next == len(r.sets) {
		r.columns, r.next = r.columns[1:], 0
	}
	return len(r.columns) > 0
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
