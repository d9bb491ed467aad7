package telemetry

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Answer is how a request ended, as the families of routes tell it.
type Answer struct {
	// Status is the response's; 0: there was none, or it is the sidecar's own.
	Status int
	// Error is one of Linkerd's values of the label: "FAIL_FAST", "LOAD_SHED",
	// "REQUEST_TIMEOUT", …; "": none.
	Error string
	Took  time.Duration
	// Frames are those of the response's body, where nobody else counts them.
	Frames Frames
}

// Frames are the pieces of bodies, by size: up to 128 bytes, 1 KB, 10 KB, and
// larger ones.
type Frames struct {
	Sizes [4]uint32
	Bytes uint64
}

// pieces observes the frames of a body.
func (h *Histogram) pieces(f *Frames) {
	if f.Bytes == 0 {
		return
	}
	for i, n := range f.Sizes {
		if n > 0 {
			h.buckets[i].Add(uint64(n))
		}
	}
	h.sum.Add(f.Bytes)
}

// answers are durations by how requests ended: counts of ends are the sums of
// their buckets, so that a request costs two additions for both families.
type answers struct {
	seen atomic.Pointer[[]*answer] // read only but for growth
	mu   sync.Mutex                // for growth
}

type answer struct {
	status int
	err    string
	took   Histogram
}

// maxAnswers bounds the kinds of one set; those that come after share one.
const maxAnswers = 64

func (a *answers) observe(s *scale, x *Answer) { a.kind(x.Status, x.Error).took.took(s, x.Took) }

func (a *answers) kind(status int, err string) *answer {
	if p := a.seen.Load(); p != nil {
		for _, k := range *p {
			if k.status == status && k.err == err {
				return k
			}
		}
	}
	return a.grow(status, err)
}

func (a *answers) grow(status int, err string) *answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	var old []*answer
	if p := a.seen.Load(); p != nil {
		old = *p
	}
	if len(old) >= maxAnswers-1 {
		status, err = 0, "UNKNOWN"
	}
	for _, k := range old {
		if k.status == status && k.err == err {
			return k
		}
	}
	k := &answer{status: status, err: err}
	grown := append(append(make([]*answer, 0, len(old)+1), old...), k)
	a.seen.Store(&grown)
	return k
}

// durations prints all of them as one histogram.
func (a *answers) durations(t *text, name, labels string, s *scale) {
	p := a.seen.Load()
	if p == nil {
		return
	}
	var stack [maxAnswers]*Histogram
	all := stack[:0]
	for _, k := range *p {
		all = append(all, &k.took)
	}
	t.histogram(name, labels, "", s, all...)
}

// statuses prints how many ended so, with the status under the given label.
func (a *answers) statuses(t *text, name, labels, label string, errs bool) {
	p := a.seen.Load()
	if p == nil {
		return
	}
	for _, k := range *p {
		var n uint64
		for i := range k.took.buckets {
			n += k.took.buckets[i].Load()
		}
		status := ""
		if k.status != 0 {
			status = strconv.Itoa(k.status)
		}
		more := appendLabel(nil, label, status)
		if errs {
			more = appendLabel(more, "error", k.err)
		}
		t.sample(name, labels, string(more), n)
	}
}
