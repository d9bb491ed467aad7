package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// Record evaluates queries at a moment and keeps what they say as series of their
// names, as Prometheus' recording rules do. One that fails keeps nothing, and none
// of the others from being kept.
func (s *Store) Record(ctx context.Context, at time.Time, list []metrics.Recording) error {
	var errs []error
	for _, r := range list {
		err := s.run(ctx, asked{query: r.Query, start: at}, func(result *promql.Result) error {
			v, err := result.Vector()
			if err != nil {
				return err
			}
			return s.keep(r.Name, at.UnixMilli(), v)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("record %s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// keep writes a vector as the samples of one recording; its series that are no longer
// there end.
func (s *Store) keep(name string, now int64, v promql.Vector) error {
	t := s.target("recording " + name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.disk.room(); err != nil {
		s.failed(err)
		return err
	}
	app := s.db.Appender(context.Background()) //nolint:contextcheck // it uses none
	t.turn++
	var key []byte
	for _, x := range v {
		key = x.Metric.Bytes(key[:0])
		l := t.lines[string(key)]
		if l == nil {
			if s.db.Head().NumSeries() >= uint64(s.cfg.MaxSeries) {
				s.dropped.Add(1)
				continue
			}
			l = &line{labels: labels.NewBuilder(x.Metric).Set(model.MetricNameLabel, name).Labels()}
			t.lines[string(key)] = l
		}
		l.turn = t.turn
		if err := s.append(app, l, now, x.F); err != nil {
			return errors.Join(err, app.Rollback())
		}
	}
	s.end(app, t, now, func(l *line) bool { return l.turn != t.turn })
	if err := app.Commit(); err != nil {
		clear(t.lines)
		s.failed(err)
		return err
	}
	return nil
}
