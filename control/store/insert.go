package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
)

// target is one scraped process.
type target struct {
	mu     sync.Mutex
	labels map[string]string
	lines  map[string]*line // by the text of the series
	up     storage.SeriesRef
	turn   uint64
	last   int64 // when its last page was inserted, ms; 0: never
}

// line is a series of a target.
type line struct {
	ref    storage.SeriesRef
	labels labels.Labels
	turn   uint64 // of the last page that had it
}

func (s *Store) target(id string) *target {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.targets[id]
	if t == nil {
		t = &target{lines: map[string]*line{}}
		s.targets[id] = t
	}
	return t
}

// Insert adds a page in the text format, which a target with these labels showed. A
// page that cannot be read, or kept, adds nothing.
func (s *Store) Insert(id string, base map[string]string, at time.Time, page []byte) error {
	t := s.target(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.disk.room(); err != nil {
		s.failed(err)
		t.last = 0 // what comes next was counted meanwhile
		return fmt.Errorf("keep the page of %s: %w", id, err)
	}
	now := at.UnixMilli()
	app := s.db.Appender(context.Background()) //nolint:contextcheck // it uses none
	if !maps.Equal(t.labels, base) {
		// Its series are others from now on.
		s.end(app, t, now-1, func(*line) bool { return true })
		t.labels, t.up = maps.Clone(base), 0
	}
	t.turn++
	if err := s.page(app, t, now, page); err != nil {
		return errors.Join(fmt.Errorf("read the page of %s: %w", id, err), app.Rollback())
	}
	s.end(app, t, now, func(l *line) bool { return l.turn != t.turn })
	s.isUp(app, t, now, 1)
	if err := app.Commit(); err != nil {
		clear(t.lines) // their references may have come to nothing
		t.up = 0
		s.failed(err)
		return fmt.Errorf("keep the page of %s: %w", id, err)
	}
	t.last = now
	s.failed(nil)
	return nil
}

func (s *Store) page(app storage.Appender, t *target, now int64, page []byte) error {
	p := textparse.NewPromParser(page, labels.NewSymbolTable(), false)
	var family []byte
	counts := false
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch entry {
		case textparse.EntryType:
			var typ model.MetricType
			family, typ = p.Type()
			counts = typ == model.MetricTypeCounter || typ == model.MetricTypeHistogram || typ == model.MetricTypeSummary
			s.metadata.kind(family, typ)
		case textparse.EntryHelp:
			s.metadata.help(p.Help())
		case textparse.EntrySeries:
			text, _, v := p.Series()
			l := t.lines[string(text)]
			if l == nil {
				if l = s.begin(app, t, p, text, counts && bytes.HasPrefix(text, family)); l == nil {
					continue
				}
			}
			l.turn = t.turn
			if err := s.append(app, l, now, v); err != nil {
				return err
			}
		}
	}
}

// begin makes a series; nil: there are too many.
func (s *Store) begin(app storage.Appender, t *target, p textparse.Parser, text []byte, counter bool) *line {
	if s.db.Head().NumSeries() >= uint64(s.cfg.MaxSeries) {
		s.dropped.Add(1)
		return nil
	}
	var own labels.Labels
	p.Labels(&own)
	l := &line{labels: withBase(labels.NewBuilder(own), t.labels)}
	t.lines[string(text)] = l
	if counter && t.last > 0 && t.turn > 1 {
		// Where it is refused, such as for a series that comes back, nothing is lost.
		if ref, err := app.Append(0, l.labels, t.last, 0); err == nil {
			l.ref = ref
		}
	}
	return l
}

// append adds a sample. What the database does not take because of its time is
// counted; every other error ends the page.
func (s *Store) append(app storage.Appender, l *line, at int64, v float64) error {
	ref, err := app.Append(l.ref, l.labels, at, v)
	switch {
	case err == nil:
		l.ref = ref
	case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrDuplicateSampleForTimestamp), errors.Is(err, storage.ErrTooOldSample):
		s.refused.Add(1)
	default:
		return err
	}
	return nil
}

// end marks the end of a target's series.
func (s *Store) end(app storage.Appender, t *target, at int64, which func(*line) bool) {
	for text, l := range t.lines {
		if !which(l) {
			continue
		}
		delete(t.lines, text)
		if l.ref != 0 {
			_ = s.append(app, l, at, math.Float64frombits(value.StaleNaN)) // an end that is missing lasts for lookback
		}
	}
}

// isUp tells whether the target answered, as Prometheus does.
func (s *Store) isUp(app storage.Appender, t *target, at int64, v float64) {
	b := labels.NewBuilder(labels.FromStrings(model.MetricNameLabel, "up"))
	if ref, err := app.Append(t.up, withBase(b, t.labels), at, v); err == nil {
		t.up = ref
	}
}

// Lost says that a target did not answer: its series have no value now.
func (s *Store) Lost(id string, base map[string]string, at time.Time) {
	t := s.target(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.labels == nil {
		t.labels = maps.Clone(base)
	}
	s.silence(t, at, 0)
}

// Forget says that a target is gone.
func (s *Store) Forget(id string, at time.Time) {
	s.mu.Lock()
	t := s.targets[id]
	delete(s.targets, id)
	s.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.silence(t, at, math.Float64frombits(value.StaleNaN))
}

func (s *Store) silence(t *target, at time.Time, up float64) {
	app := s.db.Appender(context.Background()) //nolint:contextcheck // it uses none
	s.end(app, t, at.UnixMilli(), func(*line) bool { return true })
	s.isUp(app, t, at.UnixMilli(), up)
	t.last = 0 // what comes back may have counted meanwhile
	if err := app.Commit(); err != nil {
		t.up = 0
		s.failed(err)
	}
}
