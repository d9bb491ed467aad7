package control

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/query"
	"github.com/tunmesh/tunmesh/control/store"
)

// TestSeriesWithoutLatencies: where the latencies of all workloads cost too much, the
// rest is told.
func TestSeriesWithoutLatencies(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(catalog.Put(&catalog.Workload{Kind: catalog.KindDeployment, Key: catalog.Key{Namespace: "shop", Name: "web"}}))
	c.Sync()
	window, err := metrics.NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]bool{100: false, 100_000: true} {
		s, err := store.Open(store.Config{Dir: t.TempDir(), Limits: store.Limits{Samples: limit}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 7 {
			var page bytes.Buffer
			fmt.Fprintf(&page, "# TYPE response_total counter\nresponse_total{direction=\"inbound\",classification=\"success\"} %d\n# TYPE response_latency_ms histogram\n", i)
			for le := range 30 {
				fmt.Fprintf(&page, "response_latency_ms_bucket{direction=\"inbound\",le=\"%d\"} %d\n", le+1, i)
			}
			fmt.Fprintf(&page, "response_latency_ms_bucket{direction=\"inbound\",le=\"+Inf\"} %d\n", i)
			if err := s.Insert("a", map[string]string{"namespace": "shop", "deployment": "web"}, time.Now().Add(time.Duration(i-6)*10*time.Second), page.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		ask, err := query.New(query.Config{Catalog: c, Metrics: window, Series: s})
		if err != nil {
			t.Fatal(err)
		}
		got, err := ask.Series(t.Context(), &queryapi.StatRequest{WindowSeconds: 300, Resource: &queryapi.Selector{Kind: "deployment", AllNamespaces: true}}, 10*time.Second)
		if err != nil || len(got.Rows) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		some := func(list []query.Number) (yes bool) {
			for _, v := range list {
				yes = yes || !math.IsNaN(float64(v))
			}
			return yes
		}
		if r := got.Rows[0]; !some(r.RPS) || !some(r.SuccessRate) || some(r.LatencyP50) != want || some(r.LatencyP99) != want {
			t.Errorf("with %d samples: %+v", limit, r)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSeriesAreRecorded: what is recorded of all workloads is what they counted, step
// by step; a step that was not recorded says nothing, and other questions are
// answered from what was counted.
func TestSeriesAreRecorded(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{"web": catalog.KindDeployment, "api": catalog.KindDeployment, "db": catalog.KindStatefulSet}
	for name, kind := range kinds {
		c.Apply(catalog.Put(&catalog.Workload{Kind: kind, Key: catalog.Key{Namespace: "shop", Name: name}}))
	}
	c.Sync()
	window, err := metrics.NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	end := time.Now().Truncate(query.RecordStep)
	left := end.Add(-4 * query.RecordStep) // this step is left out
	for at := end.Add(-5 * time.Minute); !at.After(end); at = at.Add(5 * time.Second) {
		n := int(at.Sub(end.Add(-5 * time.Minute)).Seconds())
		for p, w := range []string{"web", "web", "api", "db"} {
			if w == "api" && n > 200 {
				s.Forget("2", at) // it is scaled down
				continue
			}
			var page bytes.Buffer
			fmt.Fprintf(&page, "# TYPE response_total counter\n# TYPE response_latency_ms histogram\n")
			for i, class := range []string{"success", "failure"} {
				fmt.Fprintf(&page, "response_total{direction=\"inbound\",tls=\"true\",classification=%q} %d\n", class, n*(p*7+5)/(1+i*9))
			}
			fmt.Fprintf(&page, "response_total{direction=\"inbound\",authz_name=\"probe\",classification=\"success\"} %d\nresponse_total{direction=\"outbound\",classification=\"success\"} %d\n", n*100, n*100)
			for i, le := range []string{"1", "10", "100", "+Inf"} {
				fmt.Fprintf(&page, "response_latency_ms_bucket{direction=\"inbound\",le=%q} %d\n", le, n*(p+1)*(i+1)+n*n*i/100)
			}
			if err := s.Insert(fmt.Sprint(p), map[string]string{"namespace": "shop", strings.ToLower(kinds[w]): w}, at, page.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		if at.Equal(at.Truncate(query.RecordStep)) && !at.Equal(left) {
			if err := s.Record(t.Context(), at, query.Recordings()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(recorded bool, kind string) map[string]query.Number {
		t.Helper()
		q, err := query.New(query.Config{Catalog: c, Metrics: window, Series: s, Recorded: recorded})
		if err != nil {
			t.Fatal(err)
		}
		got, err := q.Series(t.Context(), &queryapi.StatRequest{WindowSeconds: 240, Resource: &queryapi.Selector{Kind: kind, AllNamespaces: true}}, query.RecordStep)
		if err != nil {
			t.Fatal(err)
		}
		known := map[string]query.Number{}
		for _, r := range got.Rows {
			for name, list := range map[string][]query.Number{"rps": r.RPS, "success": r.SuccessRate, "p50": r.LatencyP50, "p95": r.LatencyP95, "p99": r.LatencyP99} {
				for i, v := range list {
					if at := got.Start + int64(i)*got.Step; at <= end.Unix() && !math.IsNaN(float64(v)) {
						known[fmt.Sprintf("%s %s %d", r.Name, name, at)] = v
					}
				}
			}
		}
		return known
	}
	for kind, rows := range map[string]int{"deployment": 2, "statefulset": 1} {
		counted, recorded := ask(false, kind), ask(true, kind)
		if len(recorded) < rows*5*8 {
			t.Errorf("%s: %d figures are recorded of %d", kind, len(recorded), len(counted))
		}
		for k, want := range counted {
			got, known := recorded[k]
			if strings.HasSuffix(k, fmt.Sprint(left.Unix())) {
				if known {
					t.Errorf("%s: %v, which was not recorded", k, got)
				}
			} else if !known || math.Abs(float64(got-want)) > 1e-9*math.Abs(float64(want)) {
				t.Errorf("%s: %v, %v, want %v", k, got, known, want)
			}
		}
		for k := range recorded {
			if _, known := counted[k]; !known {
				t.Errorf("%s is recorded, and was not counted", k)
			}
		}
	}
	// A workload that ended ends in what is recorded as well: nobody who asks for a
	// moment is told of the last minute.
	v, err := s.Instant(t.Context(), `count(namespace_workload:response_total:rate30s) by (deployment)`, end)
	if err != nil || len(v) != 2 {
		t.Errorf("at the end there are %v, %v", v, err)
	}
}
