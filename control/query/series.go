package query

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/metrics"
)

const (
	// defaultSeriesWindow and defaultStep are an hour, a minute a point.
	defaultSeriesWindow = time.Hour
	defaultStep         = time.Minute
	// minStep is how often figures are kept at most; maxSteps bounds an answer.
	minStep  = 10 * time.Second
	maxSteps = 1500
	// minRate is what a rate is at least of, so that there are two samples in it.
	minRate = 30 * time.Second
)

// Series are the figures of a table's rows over time.
type Series struct {
	Start int64       `json:"start"` // of the first step, seconds since 1970
	Step  int64       `json:"step"`  // seconds
	Steps int         `json:"steps"`
	Rows  []SeriesRow `json:"rows"`
}

// SeriesRow is one row of stat over time; each list has one value for each step,
// which is null where there is nothing to say.
type SeriesRow struct {
	Namespace   string   `json:"namespace"`
	Kind        string   `json:"kind"`
	Name        string   `json:"name"`
	RPS         []Number `json:"rps"`
	SuccessRate []Number `json:"successRate"`
	LatencyP50  []Number `json:"latencyMsP50"`
	LatencyP95  []Number `json:"latencyMsP95"`
	LatencyP99  []Number `json:"latencyMsP99"`
}

// Number is a number in JSON, null for NaN.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if f := float64(n); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, "%.6g", float64(n)), nil
}

// Series answers with the figures of a StatRequest at each step of its window. Rows
// are those that stat has.
func (s *Server) Series(ctx context.Context, req *api.StatRequest, step time.Duration) (*Series, error) {
	if s.series == nil {
		return nil, status.Error(codes.Unimplemented, "series: figures of the past are not kept here")
	}
	sel, err := choose(s.catalog, req.GetResource())
	if err != nil {
		return nil, err
	}
	q, err := s.question(sel, req)
	if err != nil {
		return nil, err
	}
	window := time.Duration(req.GetWindowSeconds()) * time.Second
	if window == 0 {
		window = defaultSeriesWindow
	}
	if step == 0 {
		step = defaultStep
	}
	switch {
	case step < minStep || step > window:
		return nil, status.Errorf(codes.InvalidArgument, "series: a step of %v: want %v to %v", step, minStep, window)
	case window/step >= maxSteps:
		return nil, status.Errorf(codes.InvalidArgument, "series: %v in steps of %v are more than %d points: make the step longer", window, step, maxSteps)
	}
	// Steps are the same whenever somebody asks, so that a screen does not tremble.
	end := time.Now().Truncate(step)
	over := metrics.Range{Start: end.Add(-window.Truncate(step)), End: end, Step: step}
	answer := &Series{Start: over.Start.Unix(), Step: int64(step / time.Second), Steps: int(over.End.Sub(over.Start)/step) + 1, Rows: []SeriesRow{}}
	rows := map[rowKey]*SeriesRow{}
	for _, r := range sel.resources {
		answer.Rows = append(answer.Rows, newSeriesRow(r, answer.Steps))
	}
	for i, r := range sel.resources {
		rows[r.row()] = &answer.Rows[i]
	}
	from, some := overTime(q, step)
	if s.recorded && step == RecordStep && sel.kind.workload() != "" && req.GetTo() == nil && req.GetFrom() == nil {
		from, some = recorded(sel)
	}
	if !some || len(rows) == 0 {
		return answer, nil
	}
	if err := s.fillSeries(ctx, from, q.by, over, rows); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return answer, nil
}

func newSeriesRow(r resource, n int) SeriesRow {
	nothing := func() []Number { return slices.Repeat([]Number{Number(math.NaN())}, n) }
	return SeriesRow{
		Namespace: r.key.Namespace, Kind: string(r.kind), Name: r.key.Name,
		RPS: nothing(), SuccessRate: nothing(), LatencyP50: nothing(), LatencyP95: nothing(), LatencyP99: nothing(),
	}
}

// rates are what series are made of: PromQL of requests a second, and of their
// histogram's buckets.
type rates struct{ requests, buckets string }

// overTime are the rates of a question's series; some is false where there are none.
func overTime(q question, step time.Duration) (r rates, some bool) {
	selector, some := metrics.Selector(q.match)
	over := model.Duration(max(step, minRate)).String()
	return rates{
		requests: fmt.Sprintf("rate(%s%s[%s])", metrics.ResponseTotal, selector, over),
		buckets:  fmt.Sprintf("rate(%s_bucket%s[%s])", metrics.ResponseLatency, selector, over),
	}, some
}

// fillSeries asks everything, each thing for all rows at once.
func (s *Server) fillSeries(ctx context.Context, from rates, labels []string, over metrics.Range, rows map[rowKey]*SeriesRow) error {
	by := metrics.StoredList(labels)
	label := func(m model.Metric, i int) string { return string(m[model.LabelName(metrics.Stored(labels[i]))]) }
	ask := func(query string, put func(r *SeriesRow, m model.Metric, i int, v float64)) error {
		all, err := s.series.Range(ctx, query, over)
		if err != nil {
			return fmt.Errorf("series: %w", err)
		}
		for _, x := range all {
			r := rows[rowKey{label(x.Metric, 0), label(x.Metric, len(labels)-1)}]
			if r == nil {
				continue
			}
			for _, p := range x.Values {
				if i := int(p.Timestamp.Time().Sub(over.Start) / over.Step); i >= 0 && i < len(r.RPS) {
					put(r, x.Metric, i, float64(p.Value))
				}
			}
		}
		return nil
	}
	// Successes are added up in SuccessRate first.
	err := ask(fmt.Sprintf("sum(%s) by (%s,classification)", from.requests, by), func(r *SeriesRow, m model.Metric, i int, v float64) {
		if math.IsNaN(float64(r.RPS[i])) {
			r.RPS[i], r.SuccessRate[i] = 0, 0
		}
		r.RPS[i] += Number(v)
		if m["classification"] == "success" {
			r.SuccessRate[i] += Number(v)
		}
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		for i := range r.SuccessRate {
			r.SuccessRate[i] /= r.RPS[i] // 0 of 0: nothing to say
		}
	}
	for p, list := range map[string]func(*SeriesRow) []Number{
		"0.5":  func(r *SeriesRow) []Number { return r.LatencyP50 },
		"0.95": func(r *SeriesRow) []Number { return r.LatencyP95 },
		"0.99": func(r *SeriesRow) []Number { return r.LatencyP99 },
	} {
		query := fmt.Sprintf("histogram_quantile(%s, sum(%s) by (le,%s))", p, from.buckets, by)
		err := ask(query, func(r *SeriesRow, _ model.Metric, i int, v float64) { list(r)[i] = Number(v) })
		if errors.Is(err, metrics.ErrCost) {
			return nil // a large mesh has no latencies of all over a long time, and the rest all the same
		}
		if err != nil {
			return err
		}
	}
	return nil
}
