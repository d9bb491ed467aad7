package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// PromQL evaluates queries.
type PromQL interface {
	// Instant evaluates a query whose value is a vector.
	Instant(ctx context.Context, query string, at time.Time) (model.Vector, error)
	// Range evaluates a query at each step.
	Range(ctx context.Context, query string, over Range) (model.Matrix, error)
	// Since is the time of the oldest sample; zero where that is not known.
	Since() time.Time
}

// ErrCost is a query that would cost too much; errors of PromQL wrap it.
var ErrCost = errors.New("the query costs too much")

// Range is a span of time, both ends included.
type Range struct {
	Start, End time.Time
	Step       time.Duration
}

// Recording is a query whose answers are kept as series of a name, so that nobody
// has to wait for them.
type Recording struct{ Name, Query string }

// Asker asks by PromQL. It implements Querier.
type Asker struct {
	PromQL PromQL
	// Anchored increases are not extrapolated to the window's ends. A stock Prometheus
	// does not know the word.
	Anchored bool
	// Now is the clock; nil = time.Now.
	Now func() time.Time
}

func (a Asker) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// Stored is a pod's label in what is kept. There job says what was scraped, as
// Prometheus has it; the Job that owns a pod is job_name, as in kube-state-metrics.
func Stored(label string) string {
	if label == "job" {
		return "job_name"
	}
	return label
}

// StoredList is the labels in what is kept, as by () takes them.
func StoredList(labels []string) string {
	names := make([]string, len(labels))
	for i, l := range labels {
		names[i] = Stored(l)
	}
	return strings.Join(names, ",")
}

// Increase implements Querier.
func (a Asker) Increase(ctx context.Context, metric string, match []Matcher, by []string, window time.Duration) ([]Sample, error) {
	now := a.now()
	list, err := a.ask(ctx, match, by, func(sel string) string {
		return fmt.Sprintf("sum(increase(%s%s%s)) by (%s)", metric, sel, a.over(window), StoredList(by))
	}, now)
	if err != nil {
		return nil, err
	}
	covered := window
	if since := a.PromQL.Since(); !since.IsZero() {
		covered = min(window, max(now.Sub(since), time.Second))
	}
	for i := range list {
		list[i].Covered = covered
	}
	return list, nil
}

// Sum implements Querier.
func (a Asker) Sum(ctx context.Context, metric string, match []Matcher, by []string) ([]Sample, error) {
	return a.ask(ctx, match, by, func(sel string) string {
		return fmt.Sprintf("sum(%s%s) by (%s)", metric, sel, StoredList(by))
	}, a.now())
}

// Quantiles implements Querier.
func (a Asker) Quantiles(ctx context.Context, metric string, qs []float64, match []Matcher, by []string, window time.Duration) ([][]Sample, error) {
	now := a.now()
	out := make([][]Sample, len(qs))
	for i, q := range qs {
		list, err := a.ask(ctx, match, by, func(sel string) string {
			return fmt.Sprintf("histogram_quantile(%s, sum(increase(%s_bucket%s%s)) by (%s))",
				strconv.FormatFloat(q, 'g', -1, 64), metric, sel, a.over(window), StoredList(append([]string{"le"}, by...)))
		}, now)
		if err != nil {
			return nil, err
		}
		for _, x := range list {
			if !math.IsNaN(x.Value) {
				out[i] = append(out[i], x)
			}
		}
	}
	return out, nil
}

// over is a range of that length in a query.
func (a Asker) over(window time.Duration) string {
	text := "[" + model.Duration(window).String() + "]"
	if a.Anchored {
		text += " anchored"
	}
	return text
}

func (a Asker) ask(ctx context.Context, match []Matcher, by []string, query func(selector string) string, at time.Time) ([]Sample, error) {
	sel, some := Selector(match)
	if !some {
		return nil, nil
	}
	v, err := a.PromQL.Instant(ctx, query(sel), at)
	if err != nil {
		return nil, fmt.Errorf("ask the metrics store: %w", err)
	}
	list := make([]Sample, 0, len(v))
	for _, x := range v {
		s := Sample{Labels: make(map[string]string, len(by)), Value: float64(x.Value)}
		for _, name := range by {
			if value := string(x.Metric[model.LabelName(Stored(name))]); value != "" {
				s.Labels[name] = value
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// Selector writes matchers of a pod's labels as PromQL of what is kept does, in
// braces; some is false where nothing can match.
func Selector(match []Matcher) (text string, some bool) {
	var parts []string
	for _, m := range match {
		op := "="
		if m.Not {
			op = "!="
		}
		switch {
		case len(m.Values) == 0 && m.Not:
			continue
		case len(m.Values) == 0:
			return "", false
		case len(m.Values) == 1:
			parts = append(parts, Stored(m.Name)+op+strconv.Quote(m.Values[0]))
			continue
		}
		op = "=~"
		if m.Not {
			op = "!~"
		}
		quoted := make([]string, len(m.Values))
		for i, v := range m.Values {
			quoted[i] = regexp.QuoteMeta(v)
		}
		parts = append(parts, Stored(m.Name)+op+strconv.Quote(strings.Join(quoted, "|")))
	}
	return "{" + strings.Join(parts, ",") + "}", true
}

// Layered answers of the last moments from a window that knows them to the second,
// and of more from what has more.
type Layered struct {
	*Window
	Long Querier
}

// Increase implements Querier.
func (l Layered) Increase(ctx context.Context, metric string, match []Matcher, by []string, window time.Duration) ([]Sample, error) {
	if window > l.Length() {
		return l.Long.Increase(ctx, metric, match, by, window)
	}
	return l.Window.Increase(ctx, metric, match, by, window)
}

// Quantiles implements Querier.
func (l Layered) Quantiles(ctx context.Context, metric string, q []float64, match []Matcher, by []string, window time.Duration) ([][]Sample, error) {
	if window > l.Length() {
		return l.Long.Quantiles(ctx, metric, q, match, by, window)
	}
	return l.Window.Quantiles(ctx, metric, q, match, by, window)
}
