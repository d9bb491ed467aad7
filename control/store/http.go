package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
)

// Prefix is what the paths of Prometheus' API begin with.
const Prefix = "/api/v1/"

const (
	maxForm = 64 << 10
	// maxListed bounds the answers about labels and series.
	maxListed = 10_000
	// writeTimeout bounds the writing of an answer to somebody who does not read.
	writeTimeout = 30 * time.Second
)

// Known says whether there is something at a path below Prefix.
func Known(path string) bool {
	switch path {
	case "query", "query_range", "series", "labels", "metadata":
		return true
	}
	name, isValues := strings.CutSuffix(strings.TrimPrefix(path, "label/"), "/values")
	return isValues && strings.HasPrefix(path, "label/") && name != "" && !strings.Contains(name, "/")
}

// ServeHTTP answers Prometheus' HTTP API below Prefix, by GET or a form.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, Prefix)
	if !Known(path) {
		refuse(w, http.StatusNotFound, "not_found", fmt.Errorf("there is nothing at %s", r.URL.Path))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		refuse(w, http.StatusMethodNotAllowed, "bad_data", errors.New("want GET or POST"))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "bad_data", fmt.Errorf("read the form: %w", err))
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.Limits.Timeout + writeTimeout)) // a recorder in tests has none
	var err error
	switch {
	case path == "query":
		err = s.serveQuery(r.Context(), w, r.Form)
	case path == "query_range":
		err = s.serveRange(r.Context(), w, r.Form)
	case path == "metadata":
		err = s.serveMetadata(w, r.Form)
	default:
		err = s.serveLabels(r.Context(), w, path, r.Form)
	}
	if err != nil {
		fail(w, err)
	}
}

func (s *Store) serveQuery(ctx context.Context, w http.ResponseWriter, form url.Values) error {
	at, err := moment(form, "time", time.Now())
	if err != nil {
		return err
	}
	return s.evaluate(ctx, w, form, asked{query: form.Get("query"), start: at})
}

func (s *Store) serveRange(ctx context.Context, w http.ResponseWriter, form url.Values) error {
	start, err := moment(form, "start", time.Time{})
	if err != nil {
		return err
	}
	end, err := moment(form, "end", time.Time{})
	if err != nil {
		return err
	}
	step, err := duration(form, "step", 0)
	if err != nil {
		return err
	}
	if step <= 0 {
		return fmt.Errorf("%w: step=%q: want a duration above 0", ErrBad, form.Get("step"))
	}
	return s.evaluate(ctx, w, form, asked{form.Get("query"), start, end, step})
}

func (s *Store) evaluate(ctx context.Context, w http.ResponseWriter, form url.Values, q asked) error {
	timeout, err := duration(form, "timeout", s.cfg.Limits.Timeout)
	if err != nil {
		return err
	}
	span := time.Duration(0)
	if q.step > 0 {
		span = q.end.Sub(q.start)
	}
	if err := check(newParser(), q.query, span, q.step); err != nil {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.run(ctx, q, func(result *promql.Result) error { return write(w, result) })
}

// write streams a result, so that it is not in memory a second time as a whole.
func write(w http.ResponseWriter, result *promql.Result) error {
	w.Header().Set("Content-Type", "application/json")
	b := bufio.NewWriterSize(w, 32<<10)
	fmt.Fprintf(b, `{"status":"success","data":{"resultType":%q,"result":`, result.Value.Type())
	switch v := result.Value.(type) {
	case promql.Vector:
		list(b, len(v), func(i int) any { return v[i] })
	case promql.Matrix:
		list(b, len(v), func(i int) any { return v[i] })
	default:
		encode(b, v)
	}
	b.WriteByte('}')
	if len(result.Warnings) > 0 {
		b.WriteString(`,"warnings":`)
		warnings, infos := result.Warnings.AsStrings("", 10, 10)
		encode(b, append(warnings, infos...))
	}
	b.WriteString("}\n")
	_ = b.Flush() // whoever asked may have left
	return nil
}

func list(b *bufio.Writer, n int, at func(int) any) {
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		encode(b, at(i))
	}
	b.WriteByte(']')
}

// encode writes what cannot fail: labels and numbers.
func encode(b *bufio.Writer, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		raw = []byte("null")
	}
	_, _ = b.Write(raw) // Flush tells
}

func (s *Store) serveMetadata(w http.ResponseWriter, form url.Values) error {
	limit, err := count(form)
	if err != nil {
		return err
	}
	succeed(w, s.metadata.list(form.Get("metric"), limit), nil)
	return nil
}

// serveLabels answers series, labels and label/NAME/values.
func (s *Store) serveLabels(ctx context.Context, w http.ResponseWriter, path string, form url.Values) error {
	limit, err := count(form)
	if err != nil {
		return err
	}
	start, err := moment(form, "start", time.UnixMilli(math.MinInt64/2))
	if err != nil {
		return err
	}
	end, err := moment(form, "end", time.UnixMilli(math.MaxInt64/2))
	if err != nil {
		return err
	}
	var sets [][]*labels.Matcher
	for _, text := range form["match[]"] {
		if len(text) > maxLength || len(sets) >= 16 {
			return fmt.Errorf("%w: match[]: at most 16 selectors of %d bytes", ErrBad, maxLength)
		}
		ms, err := newParser().ParseMetricSelector(text)
		if err != nil {
			return fmt.Errorf("%w: match[]=%q: %w", ErrBad, text, err)
		}
		sets = append(sets, ms)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.Timeout)
	defer cancel()
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	q, err := s.db.Querier(start.UnixMilli(), end.UnixMilli())
	if err != nil {
		return err
	}
	defer q.Close()
	if path == "series" {
		return serveSeries(ctx, w, q, sets, &storage.SelectHints{Start: start.UnixMilli(), End: end.UnixMilli(), Func: "series"}, limit)
	}
	hints := &storage.LabelHints{Limit: limit + 1}
	find := func(ms ...*labels.Matcher) (list []string, err error) {
		if path == "labels" {
			list, _, err = q.LabelNames(ctx, hints, ms...)
			return list, err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path, "label/"), "/values")
		list, _, err = q.LabelValues(ctx, name, hints, ms...)
		return list, err
	}
	if len(sets) == 0 {
		sets = append(sets, nil)
	}
	found, err := union(sets, find)
	if err != nil {
		return classify(err)
	}
	succeed(w, found[:min(len(found), limit)], cut(len(found) > limit, limit))
	return nil
}

func serveSeries(ctx context.Context, w http.ResponseWriter, q storage.Querier, sets [][]*labels.Matcher, hints *storage.SelectHints, limit int) error {
	if len(sets) == 0 {
		return fmt.Errorf("%w: series: no match[] is given", ErrBad)
	}
	hints.Limit = limit + 1
	seen := map[uint64]bool{}
	found, more := []labels.Labels{}, false
	for _, ms := range sets {
		set := q.Select(ctx, true, hints, ms...)
		for !more && set.Next() {
			l := set.At().Labels()
			if h := l.Hash(); seen[h] {
				continue
			} else if more = len(found) >= limit; !more {
				seen[h] = true
				found = append(found, l)
			}
		}
		if err := set.Err(); err != nil {
			return classify(err)
		}
	}
	succeed(w, found, cut(more, limit))
	return nil
}

func cut(more bool, limit int) []string {
	if !more {
		return nil
	}
	return []string{fmt.Sprintf("results truncated due to limit: there are more than %d", limit)}
}

// moment reads a time: seconds since 1970, or RFC 3339.
func moment(form url.Values, name string, absent time.Time) (time.Time, error) {
	text := form.Get(name)
	if text == "" && !absent.IsZero() {
		return absent, nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(f) < 1e11 {
		return time.UnixMilli(int64(math.Round(f * 1000))), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%w: %s=%q: want a time: seconds, or as in RFC 3339", ErrBad, name, text)
}

// duration reads seconds, or a duration such as 5m.
func duration(form url.Values, name string, absent time.Duration) (time.Duration, error) {
	text := form.Get(name)
	if text == "" && absent > 0 {
		return absent, nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && f >= 0 && f < 1e9 {
		return time.Duration(f * float64(time.Second)).Round(time.Millisecond), nil
	}
	if d, err := model.ParseDuration(text); err == nil {
		return time.Duration(d), nil
	}
	return 0, fmt.Errorf("%w: %s=%q: want a duration: seconds, or such as 5m", ErrBad, name, text)
}

func count(form url.Values) (int, error) {
	text := form.Get("limit")
	if text == "" {
		return maxListed, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: limit=%q: want a number", ErrBad, text)
	}
	if n == 0 || n > maxListed { // 0: as many as there may be
		n = maxListed
	}
	return n, nil
}

// reply is how Prometheus answers.
type reply struct {
	Status    string   `json:"status"`
	Data      any      `json:"data,omitempty"`
	ErrorType string   `json:"errorType,omitempty"`
	Error     string   `json:"error,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

func succeed(w http.ResponseWriter, data any, warnings []string) {
	answer(w, http.StatusOK, reply{Status: "success", Data: data, Warnings: warnings})
}

func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrBad):
		refuse(w, http.StatusBadRequest, "bad_data", err)
	case errors.Is(err, ErrCost):
		refuse(w, http.StatusUnprocessableEntity, "execution", err)
	case errors.Is(err, ErrTimeout):
		refuse(w, http.StatusServiceUnavailable, "timeout", err)
	case errors.Is(err, ErrBusy):
		refuse(w, http.StatusServiceUnavailable, "unavailable", err)
	case errors.Is(err, context.Canceled):
		refuse(w, 499, "canceled", err)
	default:
		refuse(w, http.StatusUnprocessableEntity, "execution", err)
	}
}

func refuse(w http.ResponseWriter, code int, kind string, err error) {
	answer(w, code, reply{Status: "error", ErrorType: kind, Error: err.Error()})
}

func answer(w http.ResponseWriter, code int, r reply) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(r) // whoever asked may have left
}

// union is what any of several selectors finds, sorted.
func union(sets [][]*labels.Matcher, find func(...*labels.Matcher) ([]string, error)) ([]string, error) {
	all := map[string]bool{}
	for _, ms := range sets {
		list, err := find(ms...)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			all[strings.Clone(v)] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}
