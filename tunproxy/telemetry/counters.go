package telemetry

// Counters is one family of counters.
type Counters struct{ sets *sets[Counter] }

// NewCounters registers a family.
func NewCounters(r *Registry, name, help string) *Counters {
	return &Counters{newSets(r, counts(name, help, func(m *Counter) *Counter { return m }))}
}

// Count is a handle for one counter of a family.
type Count struct {
	sets *sets[Counter]
	set  *set[Counter]
}

// Handle finds the counter for a connection's labels and more of its own.
// Release gives it back.
func (c *Counters) Handle(l *Labels, more ...Label) Count {
	var stack [768]byte
	b := l.append(stack[:0], "")
	for _, m := range more {
		b = appendLabel(b, labelName(m.Name), m.Value)
	}
	return Count{c.sets, c.sets.acquire(b)}
}

// With finds the counter for labels alone.
func (c *Counters) With(labels ...Label) Count {
	var stack [256]byte
	b := stack[:0]
	for _, m := range labels {
		b = appendLabel(b, labelName(m.Name), m.Value)
	}
	return Count{c.sets, c.sets.acquire(b)}
}

// Inc adds 1.
func (c Count) Inc() {
	if c.set != nil {
		c.set.metrics.Inc()
	}
}

// Release gives the handle back. It must not be used afterwards.
func (c Count) Release() {
	if c.set != nil {
		c.sets.release(c.set)
	}
}

// Once counts one event of labels that need no handle: a rare one.
func (c *Counters) Once(labels ...Label) {
	h := c.With(labels...)
	h.Inc()
	h.Release()
}
