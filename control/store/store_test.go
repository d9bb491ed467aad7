package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

func TestMain(m *testing.M) {
	// Mounts of these tests end with their process.
	os.Exit(nettest.Contain(func() int {
		// A database that cannot be opened leaves the writer of its log behind.
		goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/prometheus/prometheus/tsdb/wlog.(*WL).run"))
		return 0 // it has ended the process
	}))
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var web = map[string]string{"job": "mesh-proxy", "namespace": "shop", "pod": "web-1", "deployment": "web"}

func insert(t *testing.T, s *Store, at time.Time, lines ...string) {
	t.Helper()
	if err := s.Insert("web-1", web, at, []byte(strings.Join(lines, "\n")+"\n")); err != nil {
		t.Fatal(err)
	}
}

func valueOf(t *testing.T, s *Store, query string, at time.Time) (float64, bool) {
	t.Helper()
	v, err := s.Instant(t.Context(), query, at)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if len(v) > 1 {
		t.Fatalf("%s: %v", query, v)
	}
	if len(v) == 0 {
		return 0, false
	}
	return float64(v[0].Value), true
}

func expect(t *testing.T, s *Store, query string, at time.Time, want float64) {
	t.Helper()
	if got, ok := valueOf(t, s, query, at); !ok || got != want {
		t.Errorf("%s: %v (%v), want %v", query, got, ok, want)
	}
}

const counter = "# TYPE response_total counter"

func TestInsertAndAsk(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	begin := time.Now().Add(-5 * time.Minute).Truncate(time.Second)
	at := func(n int) time.Time { return begin.Add(time.Duration(n) * 10 * time.Second) }
	insert(t, s, at(0), counter, `response_total{classification="success"} 100`)
	insert(t, s, at(1), counter, `response_total{classification="success"} 107`, `response_total{classification="failure"} 5`, "# TYPE tcp_open_connections gauge", "tcp_open_connections 3")
	insert(t, s, at(2), counter, `response_total{classification="success"} 107`, `response_total{classification="failure"} 6`, "tcp_open_connections 2")
	expect(t, s, `tcp_open_connections{deployment="web",pod="web-1"}`, at(2), 2)
	expect(t, s, `up`, at(2), 1)
	// Neither more nor less than was counted, the first value of a new counter included.
	expect(t, s, `sum(increase(response_total{classification="success"}[1m] anchored))`, at(2), 7)
	expect(t, s, `sum(increase(response_total{classification="failure"}[1m] anchored))`, at(2), 6)
	t.Run("a series that is no longer there", func(t *testing.T) {
		insert(t, s, at(3), counter, `response_total{classification="success"} 108`)
		if v, ok := valueOf(t, s, `tcp_open_connections`, at(3)); ok {
			t.Errorf("a gauge that ended is %v", v)
		}
	})
	t.Run("a process that does not answer", func(t *testing.T) {
		s.Lost("web-1", web, at(4))
		expect(t, s, `up`, at(4), 0)
		if v, ok := valueOf(t, s, `response_total`, at(4)); ok {
			t.Errorf("a lost process's counter is %v", v)
		}
		// What it counted meanwhile is not known to have begun at 0.
		insert(t, s, at(5), counter, `response_total{classification="new"} 50`)
		expect(t, s, `sum(increase(response_total{classification="new"}[1m] anchored))`, at(5), 0)
	})
	t.Run("a process that is gone", func(t *testing.T) {
		s.Forget("web-1", at(6))
		if v, ok := valueOf(t, s, `up`, at(6)); ok {
			t.Errorf("up is %v", v)
		}
		s.Forget("nobody", at(6))
	})
	t.Run("a page that is none", func(t *testing.T) {
		if err := s.Insert("x", web, at(7), []byte("ok 1\nno metrics {\n")); err == nil {
			t.Error("junk was kept")
		}
		if v, ok := valueOf(t, s, `ok`, at(7)); ok {
			t.Errorf("half of a page was kept: %v", v)
		}
	})
	t.Run("labels of a process that change", func(t *testing.T) {
		if err := s.Insert("y", web, at(8), []byte("g 1\n")); err != nil {
			t.Fatal(err)
		}
		if err := s.Insert("y", map[string]string{"pod": "other"}, at(9), []byte("g 2\n")); err != nil {
			t.Fatal(err)
		}
		expect(t, s, `g`, at(9), 2)
		expect(t, s, `g{pod="other"}`, at(9), 2)
	})
}

func TestQuerier(t *testing.T) {
	s := open(t, Config{})
	ask := metrics.Asker{PromQL: s, Anchored: true}
	now := time.Now()
	for i := range 7 {
		insert(t, s, now.Add(time.Duration(i-6)*10*time.Second), counter, fmt.Sprintf(`response_total{classification="success",tls="true"} %d`, 10*i),
			"# TYPE response_latency_ms histogram", fmt.Sprintf(`response_latency_ms_bucket{le="1"} %d`, 5*i), fmt.Sprintf(`response_latency_ms_bucket{le="10"} %d`, 10*i),
			fmt.Sprintf(`response_latency_ms_bucket{le="+Inf"} %d`, 10*i), "# TYPE tcp_open_connections gauge", `tcp_open_connections{peer="src"} 4`)
	}
	match := []metrics.Matcher{metrics.Is("deployment", "web", "api"), metrics.IsNot("pod", "x.y", "z"), metrics.IsNot("route_name")}
	list, err := ask.Increase(t.Context(), metrics.ResponseTotal, match, []string{"deployment", "tls", "absent"}, 5*time.Minute)
	if err != nil || len(list) != 1 || list[0].Value != 60 || fmt.Sprint(list[0].Labels) != "map[deployment:web tls:true]" {
		t.Fatalf("%+v, %v", list, err)
	}
	if c := list[0].Covered; c < time.Minute || c > 2*time.Minute {
		t.Errorf("covered %v of what was kept for a minute", c)
	}
	if list, err = ask.Sum(t.Context(), metrics.TCPOpenConnections, match, []string{"pod"}); err != nil || len(list) != 1 || list[0].Value != 4 {
		t.Errorf("%+v, %v", list, err)
	}
	q, err := ask.Quantiles(t.Context(), metrics.ResponseLatency, []float64{0.5, 1}, match, []string{"deployment"}, 5*time.Minute)
	if err != nil || len(q) != 2 || len(q[0]) != 1 || q[0][0].Value != 1 || q[1][0].Value != 10 {
		t.Errorf("%+v, %v", q, err)
	}
	if list, err = ask.Increase(t.Context(), metrics.ResponseTotal, []metrics.Matcher{metrics.Is("pod")}, nil, time.Minute); err != nil || list != nil {
		t.Errorf("what nothing matches: %v, %v", list, err)
	}
	m, err := s.Range(t.Context(), "response_total", metrics.Range{Start: now.Add(-time.Minute), End: now, Step: 30 * time.Second})
	if err != nil || len(m) != 1 || len(m[0].Values) != 3 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for i := range 3 {
		s, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		insert(t, s, now.Add(time.Duration(i)*time.Second), counter, fmt.Sprintf("response_total %d", i*5))
		if i == 1 { // while it is open, nobody else may
			if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
				t.Errorf("opened twice: %v", err)
			}
		}
		if i == 2 {
			expect(t, s, "count_over_time(response_total[1m])", now.Add(2*time.Second), 3)
			expect(t, s, "increase(response_total[1m] anchored)", now.Add(2*time.Second), 10)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error("closed twice:", err)
		}
	}
}

func TestTemporaryFolderIsRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	dir := s.cfg.Dir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// TestDamage: whatever is wrong with its files, the store opens, or says what to do.
func TestDamage(t *testing.T) {
	full := func(t *testing.T) string {
		dir := t.TempDir()
		s, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		insert(t, s, time.Now(), counter, "response_total 7")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Run("the log ends in junk", func(t *testing.T) {
		dir := full(t)
		f, err := os.OpenFile(filepath.Join(dir, "data", "wal", "00000000"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.WriteString("\x01\xff\xffjunk")
		if err := errors.Join(werr, f.Close()); err != nil {
			t.Fatal(err)
		}
		s := open(t, Config{Dir: dir})
		expect(t, s, "count(last_over_time(response_total[10m]))", time.Now(), 1)
	})
	t.Run("a block is broken", func(t *testing.T) {
		dir := full(t)
		block := filepath.Join(dir, "data", "01JZZZZZZZZZZZZZZZZZZZZZZZ")
		if err := os.MkdirAll(filepath.Join(block, "chunks"), 0o750); err != nil {
			t.Fatal(err)
		}
		meta := `{"ulid":"01JZZZZZZZZZZZZZZZZZZZZZZZ","minTime":1,"maxTime":2,"stats":{},"compaction":{"level":1,"sources":["01JZZZZZZZZZZZZZZZZZZZZZZZ"]},"version":1}`
		for name, text := range map[string]string{"meta.json": meta, "index": "no index"} {
			if err := os.WriteFile(filepath.Join(block, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, Config{Dir: dir})
		insert(t, s, time.Now(), "g 1")
		if _, err := os.Stat(filepath.Join(dir, "damaged")); err != nil {
			t.Error("what is damaged is not kept aside:", err)
		}
	})
	t.Run("the folder is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%v", err)
		}
	})
}

func TestSeriesAreBounded(t *testing.T) {
	s := open(t, Config{MaxSeries: 1000})
	var page strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&page, "g{n=\"%d\"} 1\n", i)
	}
	insert(t, s, time.Now(), page.String())
	series, dropped, _ := s.Size()
	if series < 1000 || series > 1001 || dropped != 500 { // up is one more
		t.Errorf("%d series, %d dropped", series, dropped)
	}
}

// load fills a store with n series of one minute.
func load(t *testing.T, s *Store, n int) time.Time {
	t.Helper()
	now := time.Now()
	for i := range 3 {
		var page strings.Builder
		for j := range n {
			fmt.Fprintf(&page, "g{n=\"%d\"} %d\n", j, j)
		}
		insert(t, s, now.Add(time.Duration(i-2)*10*time.Second), page.String())
	}
	return now
}

func TestWhatCostsTooMuchIsRefused(t *testing.T) {
	s := open(t, Config{Limits: Limits{Samples: 5000, Series: 900, Timeout: 10 * time.Second}})
	now := load(t, s, 1000)
	server := httptest.NewServer(s)
	defer server.Close()
	unix := fmt.Sprint(now.Unix())
	join := `g{n="1"}`
	for range 40 {
		join = `label_join(` + join + `,"n","","n","n")`
	}
	replace := `label_replace(label_replace(g,"n","` + strings.Repeat("$1", 20) + `","n","(.*)"),"n","` + strings.Repeat("$1", 20) + `","n","(.*)")`
	for _, tc := range []struct {
		name, path string
		form       url.Values
		code       int
		text       string
	}{
		{"too many series", "query", url.Values{"query": {`g`}}, 422, "more than 900 series"},
		{"too many series by two selectors", "query", url.Values{"query": {`count(g{n=~"1.*|2.*|3.*|4.*|5.*"}) + count(g{n=~"1.*|2.*|3.*|4.*|5.*"})`}}, 422, "more than 900 series"},
		{"too many samples", "query_range", url.Values{"query": {`g{n=~"1.*"}`}, "start": {fmt.Sprint(now.Add(-15 * time.Second).Unix())}, "end": {unix}, "step": {"0.01"}}, 422, "too many samples"},
		{"too many samples of a number", "query_range", url.Values{"query": {`1`}, "start": {"0"}, "end": {"6000"}, "step": {"1"}}, 422, "too many samples"},
		{"too many points", "query_range", url.Values{"query": {`1`}, "start": {"0"}, "end": {unix}, "step": {"1"}}, 400, "make the step longer"},
		{"too fine a subquery", "query", url.Values{"query": {`max_over_time(g[10y:1ms])`}}, 400, "subquery"},
		{"labels that double", "query", url.Values{"query": {join}}, 400, "times longer"},
		{"labels that are repeated", "query", url.Values{"query": {replace}}, 400, "times longer"},
		{"a long query", "query", url.Values{"query": {"1" + strings.Repeat(" ", maxLength)}}, 400, "bytes long"},
		{"no query", "query", url.Values{}, 400, "parse"},
		{"no step", "query_range", url.Values{"query": {"1"}, "start": {"1"}, "end": {"2"}}, 400, "step"},
		{"no time", "query", url.Values{"query": {"1"}, "time": {"yesterday"}}, 400, "RFC 3339"},
		{"series of everything without a selector", "series", url.Values{}, 400, "match[]"},
		{"a selector that is none", "labels", url.Values{"match[]": {"{"}}, 400, "match[]"},
	} {
		resp, err := http.PostForm(server.URL+Prefix+tc.path, tc.form)
		if err != nil {
			t.Fatal(err)
		}
		var r reply
		derr := json.NewDecoder(resp.Body).Decode(&r)
		if err := errors.Join(derr, resp.Body.Close()); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if resp.StatusCode != tc.code || r.Status != "error" || r.ErrorType == "" || !strings.Contains(r.Error, tc.text) {
			t.Errorf("%s: %d %+v, want %d and %q", tc.name, resp.StatusCode, r, tc.code, tc.text)
		}
	}
}

func TestQueriesAtOnceAreBounded(t *testing.T) {
	s := open(t, Config{Limits: Limits{Concurrency: 1, Timeout: 50 * time.Millisecond}})
	leave, err := s.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Instant(t.Context(), "1", time.Now()); !errors.Is(err, ErrTimeout) {
		t.Errorf("one that waited: %v", err)
	}
	for len(s.admitted) < cap(s.admitted) {
		s.admitted <- struct{}{}
	}
	if _, err := s.Instant(t.Context(), "1", time.Now()); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	for len(s.admitted) > 1 {
		<-s.admitted
	}
	leave()
	if _, err := s.Instant(t.Context(), "vector(1)", time.Now()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Instant(ctx, "vector(1)", time.Now()); err == nil {
		t.Error("a query of nobody's was answered")
	}
}

// TestHTTP has answers as Prometheus gives them.
func TestHTTP(t *testing.T) {
	s := open(t, Config{})
	now := time.Unix(time.Now().Unix(), 0)
	insert(t, s, now, "# HELP response_total Responses.", counter, `response_total{a="b"} 1`, `response_total{a="c"} 2`)
	stamp := fmt.Sprint(now.Unix())
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Prefix+path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	for path, want := range map[string]string{
		"query?query=1%2B1&time=" + stamp:                                                                 `{"status":"success","data":{"resultType":"scalar","result":[` + stamp + `,"2"]}}`,
		"query?query=sum(response_total)&time=" + now.UTC().Format(time.RFC3339):                          `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[` + stamp + `,"3"]}]}}`,
		"query?query=absent_metric&time=" + stamp:                                                         `{"status":"success","data":{"resultType":"vector","result":[]}}`,
		"query_range?query=sum+by(a)(response_total{a=%22b%22})&step=1m&start=" + stamp + "&end=" + stamp: `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[` + stamp + `,"1"]]}]}}`,
		"label/a/values":                                   `{"status":"success","data":["b","c"]}`,
		"label/a/values?limit=1":                           `{"status":"success","data":["b"],"warnings":["results truncated due to limit: there are more than 1"]}`,
		"labels?match[]=up":                                `{"status":"success","data":["__name__","deployment","job","namespace","pod"]}`,
		"series?match[]=up":                                `{"status":"success","data":[{"__name__":"up","deployment":"web","job":"mesh-proxy","namespace":"shop","pod":"web-1"}]}`,
		"metadata?metric=response_total":                   `{"status":"success","data":{"response_total":[{"type":"counter","help":"Responses.","unit":""}]}}`,
		"series?match[]=response_total&limit=1":            "truncated",
		"label/a/values?match[]=response_total{a=%22c%22}": `{"status":"success","data":["c"]}`,
	} {
		if code, got := get(path); code != 200 || got != want && (want != "truncated" || !strings.Contains(got, want)) {
			t.Errorf("%s:\n got %d %s\nwant %s", path, code, got, want)
		}
	}
	for _, path := range []string{"", "nothing", "label//values", "label/a/b/values", "label/values", "query/", "status/config"} {
		if code, got := get(path); code != 404 {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, Prefix+"series", nil)); w.Code != 405 {
		t.Errorf("DELETE: %d", w.Code)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(`sum by (a) (rate(x{b=~"c"}[5m:1s] offset 3m)) > bool 1`)
	f.Add(`label_join(x,"n","","n","n")`)
	f.Fuzz(func(_ *testing.T, query string) {
		_ = check(newParser(), query, time.Hour, time.Minute) //nolint:errcheck // it may be anything
	})
}

func FuzzInsert(f *testing.F) {
	f.Add([]byte("# TYPE a counter\na{b=\"c\"} 1\na 2 1234567890123\n# HELP a b\n"))
	s, err := Open(Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.Close(); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, page []byte) {
		if err := s.Insert("a", web, time.Now(), page); err != nil {
			return
		}
		if s.Problem() != "" {
			t.Fatal(s.Problem())
		}
	})
}
