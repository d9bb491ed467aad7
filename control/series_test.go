package control

import (
	"bytes"
	"fmt"
	"math"
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
