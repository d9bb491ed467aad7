package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// Reasons for which a query has no answer; errors of queries wrap one of them.
var (
	// ErrBad is a query that is none, or that would cost too much whatever the data.
	ErrBad = errors.New("bad query")
	// ErrCost is a query that would have cost too much.
	ErrCost = metrics.ErrCost
	// ErrBusy: too many queries run and wait.
	ErrBusy = errors.New("too many queries at once")
	// ErrTimeout is a query that took too long.
	ErrTimeout = errors.New("the query took too long")
)

func newEngine(cfg Config) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		Logger: cfg.Logger, MaxSamples: cfg.Limits.Samples, Timeout: cfg.Limits.Timeout, LookbackDelta: lookback,
		NoStepSubqueryIntervalFn: func(int64) int64 { return subqueryStep.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, Parser: newParser(),
	})
}

// newParser reads PromQL with "anchored": an increase that is not extrapolated.
func newParser() parser.Parser {
	return parser.NewParser(parser.Options{EnableExtendedRangeSelectors: true})
}

// asked is one query.
type asked struct {
	query      string
	start, end time.Time
	step       time.Duration // 0: at start
}

// run evaluates a query and has use read its result, which is gone afterwards.
func (s *Store) run(ctx context.Context, q asked, use func(*promql.Result) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.Timeout)
	defer cancel()
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var query promql.Query
	from := limited{s.db, s.cfg.Limits.Series}
	if q.step == 0 {
		query, err = s.engine.NewInstantQuery(ctx, from, nil, q.query, q.start)
	} else {
		query, err = s.engine.NewRangeQuery(ctx, from, nil, q.query, q.start, q.end, q.step)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	defer query.Close()
	result := query.Exec(ctx)
	if result.Err != nil {
		return classify(result.Err)
	}
	return use(result)
}

// enter waits for a query's turn.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	select {
	case s.admitted <- struct{}{}:
	default:
		return nil, fmt.Errorf("%w: %d run or wait: try again later", ErrBusy, cap(s.admitted))
	}
	select {
	case s.running <- struct{}{}:
		return func() { <-s.running; <-s.admitted }, nil
	case <-ctx.Done():
		<-s.admitted
		return nil, fmt.Errorf("%w: it waited for its turn", ErrTimeout)
	}
}

func classify(err error) error {
	var samples promql.ErrTooManySamples
	var timeout promql.ErrQueryTimeout
	switch {
	case errors.As(err, &samples):
		return fmt.Errorf("%w: %w", ErrCost, err)
	case errors.Is(err, ErrCost):
		return err
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

// limited is the database as one query sees it.
type limited struct {
	storage.Queryable
	max int
}

// Querier implements storage.Queryable.
func (l limited) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := l.Queryable.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return &limitedQuerier{Querier: q, left: l.max, max: l.max}, nil
}

// limitedQuerier counts the series that a query reads, of all its selectors together.
type limitedQuerier struct {
	storage.Querier
	left, max int
}

// Select implements storage.Querier.
func (q *limitedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return &limitedSet{SeriesSet: q.Querier.Select(ctx, sorted, hints, ms...), q: q}
}

type limitedSet struct {
	storage.SeriesSet
	q    *limitedQuerier
	full bool
}

// Next implements storage.SeriesSet.
func (s *limitedSet) Next() bool {
	if s.full || !s.SeriesSet.Next() {
		return false
	}
	s.q.left--
	s.full = s.q.left < 0
	return !s.full
}

// Err implements storage.SeriesSet.
func (s *limitedSet) Err() error {
	if s.full {
		return fmt.Errorf("%w: it reads more than %d series: select fewer", ErrCost, s.q.max)
	}
	return s.SeriesSet.Err()
}

// Instant implements metrics.PromQL.
func (s *Store) Instant(ctx context.Context, query string, at time.Time) (list model.Vector, err error) {
	err = s.run(ctx, asked{query: query, start: at}, func(r *promql.Result) error {
		v, err := r.Vector()
		if err != nil {
			return err
		}
		for _, x := range v {
			list = append(list, &model.Sample{Metric: metric(x.Metric), Value: model.SampleValue(x.F), Timestamp: model.Time(x.T)})
		}
		return nil
	})
	return list, err
}

// Range implements metrics.PromQL.
func (s *Store) Range(ctx context.Context, query string, over metrics.Range) (m model.Matrix, err error) {
	err = s.run(ctx, asked{query, over.Start, over.End, over.Step}, func(r *promql.Result) error {
		all, err := r.Matrix()
		if err != nil {
			return err
		}
		for _, x := range all {
			values := make([]model.SamplePair, len(x.Floats))
			for i, p := range x.Floats {
				values[i] = model.SamplePair{Timestamp: model.Time(p.T), Value: model.SampleValue(p.F)}
			}
			m = append(m, &model.SampleStream{Metric: metric(x.Metric), Values: values})
		}
		return nil
	})
	return m, err
}

// metric is a copy of labels that outlives the query.
func metric(l labels.Labels) model.Metric {
	m := make(model.Metric, l.Len())
	l.Range(func(l labels.Label) { m[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
	return m
}
