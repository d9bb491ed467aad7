package metrics

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stale is how old a gauge's last sample may be: a sidecar that has not answered
// for this long, and three times as long as it usually takes, has no present.
const stale = 10 * time.Second

// maxSeries bounds what is kept of one sidecar. What is more is counted.
const maxSeries = 20000

// Window keeps the last samples of every series of every sidecar, and answers
// questions about them. It implements Querier.
type Window struct {
	length time.Duration
	now    func() time.Time

	mu      sync.RWMutex
	sources map[string]*source
	dropped uint64
}

// source is one scraped sidecar.
type source struct {
	labels   map[string]string
	first    time.Time // when it was first scraped
	last     time.Time
	gap      time.Duration      // between the last two scrapes
	series   map[string]*series // by name and labels as its page has them
	byName   map[string][]*series
	labelled map[string]*labelled // by labels but the bucket's bound
}

// series is one counter or gauge. A large mesh has half a million.
type series struct {
	name string
	*labelled
	le float64 // of a histogram's bucket
	// born: the sidecar was scraped before without this series, or has just
	// begun, so the counter was 0 then.
	born bool
	// points are in order of time. Of a run of equal values the first and the last
	// are kept, so that an idle series costs two.
	points []point
}

// labelled are the labels of series: those of a histogram's buckets are the same but
// for their bound, which is none of them, and are decided about once for all.
type labelled struct {
	labels []pair // parts of one string
	used   int    // by how many series
}

type pair struct{ name, value string }

type point struct {
	at    int64 // nanoseconds since 1970
	value float64
}

// Scraped is one sample of a scrape.
type Scraped struct {
	// Series is the name and the labels as the page has them, borrowed no longer than
	// Insert.
	Series []byte
	Value  float64
}

// NewWindow returns an empty window of that length, at least a second.
func NewWindow(length time.Duration) (*Window, error) {
	if length < time.Second {
		return nil, fmt.Errorf("new metrics window: %v is shorter than a second", length)
	}
	return &Window{length: length, now: time.Now, sources: map[string]*source{}}, nil
}

// Length is how far back questions may go.
func (w *Window) Length() time.Duration { return w.length }

// Insert adds one scrape of a source, which labels says more of: they are part
// of each of its series. began is when the scraped process started; zero if it
// did not say.
func (w *Window) Insert(id string, labels map[string]string, at, began time.Time, samples []Scraped) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sources[id]
	if s == nil {
		s = newSource()
		s.first = at
		w.sources[id] = s
	}
	fresh := s.first.Equal(at)
	if !maps.Equal(s.labels, labels) {
		s.labels = maps.Clone(labels)
	}
	s.gap, s.last = at.Sub(s.last), at
	if fresh {
		s.gap = 0
	}
	// A process that began after the window did had counted nothing before.
	young := !began.IsZero() && at.Sub(began) < w.length
	if fresh && young {
		s.first = began
	}
	for _, x := range samples {
		r := s.series[string(x.Series)]
		if r == nil {
			if len(s.series) >= maxSeries {
				w.dropped++
				continue
			}
			text := string(x.Series)
			if r = s.newSeries(text); r == nil {
				w.dropped++
				continue
			}
			r.born = !fresh || young
			s.series[text] = r
			s.byName[r.name] = append(s.byName[r.name], r)
		}
		r.add(point{at.UnixNano(), x.Value}, at.Add(-w.length).UnixNano())
	}
}

func newSource() *source {
	return &source{series: map[string]*series{}, byName: map[string][]*series{}, labelled: map[string]*labelled{}}
}

// newSeries is an empty series of that name and labels; nil: it is none.
func (s *source) newSeries(text string) *series {
	r := &series{}
	l := &labelled{labels: make([]pair, 0, strings.Count(text, `="`)), used: 1}
	var key []byte
	end, err := readSeries(text, func(name, value string) {
		if name == "le" {
			r.le, _ = strconv.ParseFloat(unescape(value), 64)
			return
		}
		key = append(append(append(append(key, name...), '='), value...), '"')
		l.labels = append(l.labels, pair{name, unescape(value)})
	})
	if err != nil || end != len(text) {
		return nil
	}
	r.name = text[:nameEnd(text)]
	if old := s.labelled[string(key)]; old != nil {
		old.used++
		l = old
	} else {
		s.labelled[string(key)] = l
	}
	r.labelled = l
	return r
}

// add appends a point and lets go of those before horizon but the last.
func (r *series) add(p point, horizon int64) {
	n := len(r.points)
	if n >= 2 && r.points[n-1].value == p.value && r.points[n-2].value == p.value {
		r.points[n-1].at = p.at
	} else {
		r.points = append(r.points, p)
	}
	drop := 0
	for drop+1 < len(r.points) && r.points[drop+1].at <= horizon {
		drop++
	}
	if drop > 0 {
		r.points = append(r.points[:0], r.points[drop:]...)
		r.born = false // its beginning is out of sight
	}
}

// increase is how much the counter grew after from. A value below the one
// before it says that the counter began again at 0.
func (r *series) increase(from int64) float64 {
	i := 0
	for i+1 < len(r.points) && r.points[i+1].at <= from {
		i++
	}
	points := r.points[i:]
	if len(points) == 0 {
		return 0
	}
	sum := 0.0
	if r.born && i == 0 && points[0].at > from {
		sum = points[0].value
	}
	for j := 1; j < len(points); j++ {
		d := points[j].value - points[j-1].value
		if d < 0 {
			d = points[j].value
		}
		sum += d
	}
	return sum
}

// Forget lets go of sources that have not been scraped for the window's length.
func (w *Window) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	horizon := w.now().Add(-w.length)
	for id, s := range w.sources {
		if s.last.Before(horizon) {
			delete(w.sources, id)
			continue
		}
		gone := func(r *series) bool { return r.points[len(r.points)-1].at < horizon.UnixNano() }
		for name, named := range s.byName {
			if s.byName[name] = slices.DeleteFunc(named, gone); len(s.byName[name]) == 0 {
				delete(s.byName, name)
			}
		}
		maps.DeleteFunc(s.series, func(_ string, r *series) bool {
			if !gone(r) {
				return false
			}
			r.used--
			return true
		})
		maps.DeleteFunc(s.labelled, func(_ string, l *labelled) bool { return l.used == 0 })
	}
}

// Size is the number of sources and series that are kept, and of samples that
// were not.
func (w *Window) Size() (sources, series int, dropped uint64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for _, s := range w.sources {
		series += len(s.series)
	}
	return len(w.sources), series, w.dropped
}

// label finds a label, "" where there is none.
func (l *labelled) label(name string) string {
	for i := range l.labels {
		if l.labels[i].name == name {
			return l.labels[i].value
		}
	}
	return ""
}

func (l *labelled) match(ms []Matcher) bool {
	for _, m := range ms {
		if slices.Contains(m.Values, l.label(m.Name)) == m.Not {
			return false
		}
	}
	return true
}

// undecided are the matchers that the source's labels, which win, do not decide; ok is
// false where they decide that nothing matches.
func (s *source) undecided(ms, into []Matcher) (rest []Matcher, ok bool) {
	for _, m := range ms {
		v, has := s.labels[m.Name]
		if !has {
			into = append(into, m)
		} else if slices.Contains(m.Values, v) == m.Not {
			return nil, false
		}
	}
	return into, true
}

// group collects values by labels.
type group struct {
	labels  map[string]string
	value   float64
	first   time.Time // of the source that is watched for longest
	buckets []bucket  // by their bounds
}

// count adds to a bucket.
func (g *group) count(le, n float64) {
	i, found := slices.BinarySearchFunc(g.buckets, le, func(b bucket, le float64) int { return cmp.Compare(b.le, le) })
	if !found {
		g.buckets = slices.Insert(g.buckets, i, bucket{le: le})
	}
	g.buckets[i].count += n
}

// collect calls f for each series that matches, with its group.
func (w *Window) collect(metric string, ms []Matcher, by []string, f func(*group, *source, *series)) []*group {
	groups := map[string]*group{}
	var rest []Matcher
	var key []byte
	values := make([]string, len(by))
	for _, s := range w.sources {
		list := s.byName[metric]
		if len(list) == 0 {
			continue
		}
		var ok bool
		if rest, ok = s.undecided(ms, rest[:0]); !ok {
			continue
		}
		whole := true // the source alone says which group it is
		for _, name := range by {
			_, has := s.labels[name]
			whole = whole && has
		}
		var g *group
		var before *labelled // of a histogram's buckets the labels stand in a row
		var matched bool
		for _, r := range list {
			same := r.labelled == before
			if !same {
				before, matched = r.labelled, r.match(rest)
			}
			if !matched {
				continue
			}
			if g == nil || !whole && !same {
				key = key[:0]
				for i, name := range by {
					v, has := s.labels[name]
					if !has {
						v = r.label(name)
					}
					values[i] = v
					key = append(append(key, v...), 0)
				}
				if g = groups[string(key)]; g == nil {
					g = &group{labels: map[string]string{}, first: s.first}
					for i, name := range by {
						if values[i] != "" {
							g.labels[name] = values[i]
						}
					}
					groups[string(key)] = g
				}
				if s.first.Before(g.first) {
					g.first = s.first
				}
			}
			f(g, s, r)
		}
	}
	list := make([]*group, 0, len(groups))
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		list = append(list, groups[k])
	}
	return list
}

// Increase implements Querier.
func (w *Window) Increase(_ context.Context, metric string, ms []Matcher, by []string, window time.Duration) ([]Sample, error) {
	from, err := w.from(window)
	if err != nil {
		return nil, err
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := w.now()
	groups := w.collect(metric, ms, by, func(g *group, _ *source, r *series) { g.value += r.increase(from.UnixNano()) })
	list := make([]Sample, 0, len(groups))
	for _, g := range groups {
		list = append(list, Sample{Labels: g.labels, Value: g.value, Covered: min(window, now.Sub(g.first))})
	}
	return list, nil
}

// Sum implements Querier.
func (w *Window) Sum(_ context.Context, metric string, ms []Matcher, by []string) ([]Sample, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	now := w.now()
	groups := w.collect(metric, ms, by, func(g *group, s *source, r *series) {
		if p := r.points[len(r.points)-1]; time.Duration(now.UnixNano()-p.at) < max(stale, 3*s.gap) {
			g.value += p.value
		}
	})
	list := make([]Sample, 0, len(groups))
	for _, g := range groups {
		list = append(list, Sample{Labels: g.labels, Value: g.value})
	}
	return list, nil
}

// Quantiles implements Querier.
func (w *Window) Quantiles(_ context.Context, metric string, qs []float64, ms []Matcher, by []string, window time.Duration) ([][]Sample, error) {
	from, err := w.from(window)
	if err != nil {
		return nil, err
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	groups := w.collect(metric+"_bucket", ms, by, func(g *group, _ *source, r *series) {
		g.count(r.le, r.increase(from.UnixNano()))
	})
	out := make([][]Sample, len(qs))
	for i, q := range qs {
		for _, g := range groups {
			if v := quantile(q, g.buckets); !math.IsNaN(v) {
				out[i] = append(out[i], Sample{Labels: g.labels, Value: v})
			}
		}
	}
	return out, nil
}

// from is the beginning of a window that ends now.
func (w *Window) from(window time.Duration) (time.Time, error) {
	if window <= 0 || window > w.length {
		return time.Time{}, fmt.Errorf("a window of %v: this store keeps %v", window, w.length)
	}
	return w.now().Add(-window), nil
}
