package metrics

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/control/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestQuantile has values that Prometheus gives for the same buckets.
func TestQuantile(t *testing.T) {
	inf := math.Inf(1)
	simple := []bucket{{1, 10}, {2, 20}, {inf, 20}}
	for _, tc := range []struct {
		name    string
		q       float64
		buckets []bucket
		want    float64
	}{
		{"the end of a bucket", 0.5, simple, 1},
		{"within the first, from 0", 0.25, simple, 0.5},
		{"within the second", 0.95, simple, 1.9},
		{"everything", 1, simple, 2},
		{"nothing", 0, simple, 0},
		{"in the last: the bound below", 0.99, []bucket{{1, 1}, {2, 1}, {inf, 100}}, 2},
		{"no order, one bound twice", 0.5, []bucket{{inf, 10}, {2, 10}, {1, 5}, {1, 5}, {inf, 10}, {2, 10}}, 1},
		{"a count lower than the one before", 0.5, []bucket{{1, 10}, {2, 8}, {inf, 10}}, 0.5},
		{"no observations", 0.5, []bucket{{1, 0}, {inf, 0}}, math.NaN()},
		{"no infinite bucket", 0.5, []bucket{{1, 1}, {2, 1}}, math.NaN()},
		{"an infinite bucket alone", 0.5, []bucket{{inf, 1}}, math.NaN()},
		{"none at all", 0.5, nil, math.NaN()},
		{"below 0", -1, simple, math.Inf(-1)},
		{"above 1", 2, simple, inf},
		{"a first bound that is not above 0", 0.5, []bucket{{0, 10}, {1, 10}, {inf, 10}}, 0},
	} {
		got := quantile(tc.q, tc.buckets)
		if got != tc.want && !(math.IsNaN(got) && math.IsNaN(tc.want)) && math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// bench is a window with a clock of its own.
type bench struct {
	*Window
	t     *testing.T
	clock time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	w, err := NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Window: w, t: t, clock: time.Unix(1700000000, 0)}
	w.now = func() time.Time { return b.clock }
	return b
}

func labels(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

// scrape inserts one scrape of pod a after a step of time.
func (b *bench) scrape(step time.Duration, began time.Time, samples ...Scraped) {
	b.clock = b.clock.Add(step)
	b.Insert("a", labels("pod", "a"), b.clock, began, samples)
}

func (b *bench) increase(metric string, window time.Duration, ms ...Matcher) float64 {
	b.t.Helper()
	list, err := b.Increase(context.Background(), metric, ms, []string{"pod"}, window)
	if err != nil {
		b.t.Fatal(err)
	}
	switch {
	case len(list) == 0:
		return -1
	case len(list) > 1 || list[0].Labels["pod"] != "a":
		b.t.Fatalf("groups %+v", list)
	}
	return list[0].Value
}

func sample(v float64, kv ...string) Scraped {
	text := "m{"
	for i := 0; i < len(kv); i += 2 {
		text += fmt.Sprintf("%s=%q,", kv[i], kv[i+1])
	}
	return Scraped{[]byte(text + "}"), v}
}

func TestIncrease(t *testing.T) {
	long := time.Unix(1600000000, 0) // began long ago
	t.Run("counts from the first scrape", func(t *testing.T) {
		b := newBench(t)
		b.scrape(0, long, sample(100))
		b.scrape(time.Second, long, sample(107))
		b.scrape(time.Second, long, sample(107))
		if got := b.increase("m", time.Minute); got != 7 {
			t.Error(got)
		}
	})
	t.Run("a new series of a known sidecar began at 0", func(t *testing.T) {
		b := newBench(t)
		b.scrape(0, long)
		b.scrape(time.Second, long, sample(5))
		b.scrape(time.Second, long, sample(6))
		if got := b.increase("m", time.Minute); got != 6 {
			t.Error(got)
		}
	})
	t.Run("a sidecar that has just begun began at 0", func(t *testing.T) {
		b := newBench(t)
		b.scrape(0, b.clock.Add(-2*time.Second), sample(5))
		list, err := b.Increase(context.Background(), "m", nil, nil, time.Minute)
		if err != nil || len(list) != 1 || list[0].Value != 5 || list[0].Covered != 2*time.Second {
			t.Errorf("%+v, %v", list, err)
		}
	})
	t.Run("a counter that begins again", func(t *testing.T) {
		b := newBench(t)
		b.scrape(0, long, sample(100))
		b.scrape(time.Second, long, sample(110))
		b.scrape(time.Second, long, sample(3))
		b.scrape(time.Second, long, sample(4))
		if got := b.increase("m", time.Minute); got != 14 {
			t.Error(got)
		}
	})
	t.Run("the window alone", func(t *testing.T) {
		b := newBench(t)
		for i := range 121 {
			b.scrape(time.Second, long, sample(float64(i)))
		}
		if got := b.increase("m", time.Minute); got != 60 {
			t.Errorf("a minute at one a second: %v", got)
		}
		if got := b.increase("m", 10*time.Second); got != 10 {
			t.Errorf("ten seconds: %v", got)
		}
		if n := len(b.sources["a"].series["m{}"].points); n > 62 {
			t.Errorf("%d points are kept of a minute", n)
		}
	})
	t.Run("an idle series costs two points", func(t *testing.T) {
		b := newBench(t)
		b.scrape(0, long, sample(1))
		for range 50 {
			b.scrape(time.Second, long, sample(9))
		}
		if n := len(b.sources["a"].series["m{}"].points); n != 3 {
			t.Errorf("%d points", n)
		}
		if got := b.increase("m", time.Minute); got != 8 {
			t.Error(got)
		}
		if got := b.increase("m", 20*time.Second); got != 0 {
			t.Errorf("nothing happened in the last 20 s, but %v", got)
		}
	})
	t.Run("matchers", func(t *testing.T) {
		b := newBench(t)
		b.scrape(0, long)
		b.scrape(time.Second, long, sample(1, "tls", "true"), sample(2, "tls", "false"), sample(4))
		for want, ms := range map[float64][]Matcher{
			7: nil, 1: {Is("tls", "true")}, 3: {Is("tls", "true", "false")}, 6: {IsNot("tls", "true")}, 4: {Is("tls", "")}, -1: {Is("pod", "b")},
		} {
			if got := b.increase("m", time.Minute, ms...); got != want {
				t.Errorf("%v: %v, want %v", ms, got, want)
			}
		}
	})
	t.Run("a window that is not kept", func(t *testing.T) {
		b := newBench(t)
		for _, d := range []time.Duration{0, -1, 2 * time.Minute} {
			if _, err := b.Increase(context.Background(), "m", nil, nil, d); err == nil {
				t.Errorf("%v was answered", d)
			}
		}
	})
}

func TestSumIsOfNow(t *testing.T) {
	b := newBench(t)
	b.scrape(0, time.Time{}, sample(3), sample(4, "x", "y"))
	sum := func() float64 {
		list, err := b.Sum(context.Background(), "m", nil, nil)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0].Value
	}
	if got := sum(); got != 7 {
		t.Error(got)
	}
	b.clock = b.clock.Add(stale + time.Second)
	if got := sum(); got != 0 {
		t.Errorf("a sidecar that is silent still has %v", got)
	}
	b.clock = b.clock.Add(time.Minute)
	b.Forget()
	if sources, series, _ := b.Size(); sources != 0 || series != 0 {
		t.Errorf("%d sources and %d series are kept", sources, series)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	b := newBench(t)
	var all []Scraped
	for i := range maxSeries + 5 {
		all = append(all, sample(1, "n", fmt.Sprint(i)))
	}
	b.scrape(0, time.Time{}, all...)
	if _, series, dropped := b.Size(); series != maxSeries || dropped != 5 {
		t.Errorf("%d series, %d dropped", series, dropped)
	}
}

const page = `# HELP process_start_time_seconds Time that the process started
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1700000000.5
# TYPE response_total counter
response_total{direction="inbound",tls="true",classification="success",status_code="200"} 7
# TYPE response_latency_ms histogram
response_latency_ms_bucket{direction="inbound",le="1"} 3
response_latency_ms_bucket{direction="inbound",le="+Inf"} 7
response_latency_ms_sum{direction="inbound"} 20
response_latency_ms_count{direction="inbound"} 7
# TYPE tcp_open_connections gauge
tcp_open_connections{peer="src"} 2
# TYPE something_else counter
something_else 1
`

func TestParse(t *testing.T) {
	samples, began, err := parse([]byte(page))
	if err != nil {
		t.Fatal(err)
	}
	if began.UnixMilli() != 1700000000500 {
		t.Errorf("began %v", began)
	}
	got := map[string]float64{}
	from := newSource()
	for _, s := range samples {
		r := from.newSeries(string(s.Series))
		if r == nil {
			t.Fatalf("%s is no series", s.Series)
		}
		got[fmt.Sprint(r.name, " ", r.le)] = s.Value
	}
	want := map[string]float64{"response_total 0": 7, "response_latency_ms_bucket 1": 3, "response_latency_ms_bucket +Inf": 7, "tcp_open_connections 0": 2}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("samples %v, want %v", got, want)
	}
	for _, junk := range []string{
		"no metrics {", "a", "a{", `a{b}`, `a{b="c} 1`, `a{b="c"`, `a{b="c"d="e"} 1`, `a{="c"} 1`, `a{b="c"}1`, "a one", "a 1 soon", "{} 1", "1a 1", `a{b="c\`, "response_total",
	} {
		if _, _, err := parse([]byte("ok 1\n" + junk + "\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", junk, err)
		}
	}
}

// TestBucketsShareLabels: series that differ in their bounds alone are decided about
// together, in whatever order they come, and no others are.
func TestBucketsShareLabels(t *testing.T) {
	b := newBench(t)
	bucket := func(path, le string, v float64) Scraped {
		return Scraped{fmt.Appendf(nil, "h_bucket{path=%q,le=%q}", path, le), v}
	}
	round := func(n float64) []Scraped {
		return []Scraped{
			bucket("/a", "1", n), bucket("/b", "1", 0), bucket("/c", "1", 100*n), bucket("/a", "10", 2*n), bucket("/b", "10", n),
			bucket("/c", "10", 100*n), bucket("/a", "+Inf", 2*n), bucket("/c", "+Inf", 100*n), bucket("/b", "+Inf", n), {[]byte(`h_count{path="/b"}`), n},
		}
	}
	for n := range 3 {
		b.scrape(time.Second, time.Unix(1600000000, 0), round(float64(n*100))...)
	}
	got, err := b.Quantiles(t.Context(), "h", []float64{0.5}, []Matcher{IsNot("path", "/c")}, []string{"path"}, time.Minute)
	if err != nil || len(got) != 1 || len(got[0]) != 2 || got[0][0].Value != 1 || got[0][1].Value != 5.5 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = b.Quantiles(t.Context(), "h", []float64{1}, nil, []string{"pod"}, time.Minute); err != nil || len(got[0]) != 1 || got[0][0].Value != 10 {
		t.Errorf("%+v, %v", got, err)
	}
	if n := len(b.sources["a"].labelled); n != 3 {
		t.Errorf("%d sets of labels, want 3", n)
	}
	// Labels go with the last series that has them.
	b.scrape(2*time.Minute, time.Unix(1600000000, 0), round(300)[:1]...)
	b.Forget()
	if s := b.sources["a"]; len(s.series) != 1 || len(s.labelled) != 1 || s.series[`h_bucket{path="/a",le="1"}`].used != 1 {
		t.Errorf("%+v, %+v", s.series, s.labelled)
	}
}

func TestSeriesAreReadAsTheyAreWritten(t *testing.T) {
	page := "response_total{a=\"x\\\"y}\\\\z\\n\",le=\"0.5\",} 1 1700000000000\r\n\n  # a comment\nresponse_total\t+Inf\nresponse_total{} 2\nresponse_total{a=\"NaN\"} NaN"
	samples, _, err := parse([]byte(page))
	if err != nil || len(samples) != 3 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	r := newSource().newSeries(string(samples[0].Series))
	if r == nil || r.label("a") != "x\"y}\\z\n" || r.le != 0.5 || r.label("b") != "" || samples[0].Value != 1 {
		t.Errorf("%+v", r)
	}
	if !math.IsInf(samples[1].Value, 1) || string(samples[1].Series) != "response_total" || string(samples[2].Series) != "response_total{}" {
		t.Errorf("%s %v, %s", samples[1].Series, samples[1].Value, samples[2].Series)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(page))
	f.Add([]byte("response_total NaN\nprocess_start_time_seconds 1e300\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		samples, began, err := parse(data)
		if err != nil {
			return
		}
		w, err := NewWindow(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		w.Insert("a", nil, time.Now(), began, samples)
		if _, _, dropped := w.Size(); dropped > 0 && len(samples) < maxSeries {
			t.Fatalf("%d samples were read and are no series", dropped)
		}
		if _, err := w.Quantiles(t.Context(), ResponseLatency, []float64{0.5}, nil, nil, time.Minute); err != nil {
			t.Fatal(err)
		}
	})
}

// sidecars answers every pod's scrape from one server; the pod's address comes
// to the handler as the Host.
func sidecars(t *testing.T, h http.HandlerFunc) (dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	addr := s.Listener.Addr().String()
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

func meshedPod(name, ip string) catalog.Change {
	return catalog.Put(&catalog.Pod{
		Key: catalog.Key{Namespace: "default", Name: name}, UID: name, Meshed: true, Phase: "Running",
		IPs: []netip.Addr{netip.MustParseAddr(ip)},
	})
}

func TestScraperFollowsPods(t *testing.T) {
	var hits [3]atomic.Int64
	dial := sidecars(t, func(w http.ResponseWriter, r *http.Request) {
		host, port, _ := net.SplitHostPort(r.Host)
		n := int(netip.MustParseAddr(host).As4()[3])
		if port != "4191" || r.URL.Path != "/metrics" {
			t.Errorf("asked for %s %s", r.Host, r.URL)
		}
		fmt.Fprintf(w, "response_total %d\n", hits[n].Add(1))
	})
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewScraper(Config{Catalog: c, Window: w, Interval: 10 * time.Millisecond, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c.Apply(meshedPod("a", "10.1.0.1"), catalog.Put(&catalog.Pod{
		Key: catalog.Key{Namespace: "default", Name: "plain"}, Phase: "Running", IPs: []netip.Addr{netip.MustParseAddr("10.1.0.0")},
	}))
	wait(t, "a is scraped", func() bool { return hits[1].Load() > 3 })
	c.Apply(meshedPod("b", "10.1.0.2"))
	wait(t, "b is scraped", func() bool { return hits[2].Load() > 3 })
	c.Apply(catalog.Delete(catalog.Ref{Kind: catalog.KindPod, Key: catalog.Key{Namespace: "default", Name: "a"}}))
	time.Sleep(50 * time.Millisecond)
	n := hits[1].Load()
	time.Sleep(100 * time.Millisecond)
	if hits[1].Load() != n {
		t.Error("a pod that is gone is scraped")
	}
	if hits[0].Load() != 0 {
		t.Error("an unmeshed pod is scraped")
	}
	list, err := w.Sum(ctx, "response_total", []Matcher{Is("pod", "b"), Is("namespace", "default")}, nil)
	if err != nil || len(list) != 1 || list[0].Value < 3 {
		t.Errorf("b's responses: %+v, %v", list, err)
	}
}

// TestScraperSurvivesSidecars: each of these fails, and nothing else does.
func TestScraperSurvivesSidecars(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not found": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) },
		"junk":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{{{") },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/", http.StatusFound)
		},
		"too much": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", fmt.Sprint(maxPage+1)) },
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "response_total 1\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := catalog.New(catalog.Config{})
			if err != nil {
				t.Fatal(err)
			}
			w, err := NewWindow(time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewScraper(Config{Catalog: c, Window: w, Dial: sidecars(t, h)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.client.CloseIdleConnections()
			c.Apply(meshedPod("a", "10.1.0.1"))
			var a *aim
			for _, a = range s.list() { //nolint:revive // the only one
			}
			if err := s.turn(t.Context(), a); err == nil || !strings.Contains(err.Error(), "default/a") {
				t.Errorf("scraped: %v", err)
			}
			if n, failed := s.Counts(); n != 1 || failed != 1 {
				t.Errorf("%d scrapes, %d failed", n, failed)
			}
		})
	}
}

// keeper remembers what it was told.
type keeper struct {
	mu   sync.Mutex
	told map[string]int
}

func (k *keeper) tell(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told[what]++
}

func (k *keeper) count(what string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.told[what]
}

func (k *keeper) Insert(_ string, l map[string]string, _ time.Time, page []byte) error {
	k.tell(l["job"] + " " + l["pod"] + " " + strings.TrimSpace(string(page)))
	return nil
}
func (k *keeper) Lost(_ string, l map[string]string, _ time.Time) { k.tell("lost " + l["pod"]) }
func (k *keeper) Forget(id string, _ time.Time) {
	name, _, _ := strings.Cut(id, " ")
	k.tell("forget " + name)
}

// TestKeeper: whole pages go to the keeper, less often than figures to the window,
// those of other processes as well; and it is told of who is lost and gone.
func TestKeeper(t *testing.T) {
	var broken atomic.Bool
	dial := sidecars(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "anything 1")
	})
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{told: map[string]int{}}
	s, err := NewScraper(Config{
		Catalog: c, Window: w, Interval: 10 * time.Millisecond, Dial: dial, Keeper: k, KeepInterval: 200 * time.Millisecond,
		Others: func() []Other {
			return []Other{{"http://control:9990/metrics", labels("job", "mesh-control", "pod", "c")}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c.Apply(meshedPod("a", "10.1.0.1"))
	wait(t, "pages are kept", func() bool {
		return k.count("mesh-proxy a anything 1") > 2 && k.count("mesh-control c anything 1") > 2
	})
	wait(t, "not each scrape is kept", func() bool {
		kept := k.count("mesh-proxy a anything 1") + k.count("mesh-control c anything 1")
		scrapes, _ := s.Counts()
		return int(scrapes) > kept+2
	})
	broken.Store(true)
	wait(t, "the keeper is told of who is lost", func() bool { return k.count("lost a") > 0 && k.count("lost c") > 0 })
	c.Apply(catalog.Delete(catalog.Ref{Kind: catalog.KindPod, Key: catalog.Key{Namespace: "default", Name: "a"}}))
	wait(t, "the keeper is told of who is gone", func() bool { return k.count("forget default/a") == 1 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestManyAreScrapedLessOften, so that the scraper's own cost is bounded.
func TestManyAreScrapedLessOften(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewScraper(Config{Catalog: c, Window: w})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int64]time.Duration{1: DefaultInterval, 300: DefaultInterval, 2000: 10 * time.Second} {
		s.aims.Store(n)
		if got := s.interval(&aim{}); got != want {
			t.Errorf("%d sidecars every %v, want %v", n, got, want)
		}
	}
	b := newBench(t)
	b.scrape(0, time.Time{}, sample(3))
	b.scrape(15*time.Second, time.Time{}, sample(3))
	b.clock = b.clock.Add(20 * time.Second)
	if list, err := b.Sum(t.Context(), "m", nil, nil); err != nil || len(list) != 1 || list[0].Value != 3 {
		t.Errorf("a sidecar that is scraped every 15 s has no present after 20 s: %v, %v", list, err)
	}
}

func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}
