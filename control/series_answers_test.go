package control_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/query"
	"github.com/tunmesh/tunmesh/control/store"
)

// answersOf is a service that answers from a store with two Deployments in its
// catalog, of which nothing is known yet.
func answersOf(t *testing.T) (*query.Server, *store.Store) {
	t.Helper()
	q, s, _ := answersOfCatalog(t)
	return q, s
}

func answersOfCatalog(t *testing.T) (*query.Server, *store.Store, *catalog.Catalog) {
	t.Helper()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "idle"} {
		c.Apply(catalog.Put(&catalog.Workload{Kind: catalog.KindDeployment, Key: catalog.Key{Namespace: "shop", Name: name}}))
	}
	s, err := store.Open(store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	q, err := query.New(query.Config{Catalog: c, Series: s})
	if err != nil {
		t.Fatal(err)
	}
	return q, s, c
}

// Figures over time are those that were counted, at the steps at which there were
// any, and null at others.
func TestSeriesAnswers(t *testing.T) {
	q, s := answersOf(t)
	all := &queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "deployment", Namespace: "shop"}, WindowSeconds: 600}
	t.Run("nothing is known", func(t *testing.T) {
		got, err := q.Series(t.Context(), all, 10*time.Second)
		if err != nil || got.Steps != 61 || got.Step != 10 || len(got.Rows) != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		text, err := json.Marshal(got)
		if err != nil || strings.Count(string(text), "null") != 2*5*61 {
			t.Errorf("want null wherever there is nothing: %s, %v", text, err)
		}
	})
	t.Run("counted", func(t *testing.T) { testAnswersCounted(t, q, s, all) })
	t.Run("refused", func(t *testing.T) { testAnswersRefused(t, q) })
}

func testAnswersCounted(t *testing.T, q *query.Server, s *store.Store, all *queryapi.StatRequest) {
	// Two successes and half a failure a second, all of 1 to 10 ms, for five minutes.
	now := time.Now()
	began := now.Add(-5 * time.Minute)
	labels := map[string]string{"job": "mesh-proxy", "namespace": "shop", "pod": "web-1", "deployment": "web"}
	for at := time.Duration(0); at <= 5*time.Minute; at += 5 * time.Second {
		n := at.Seconds()
		page := fmt.Sprintf(`# TYPE response_total counter
response_total{direction="inbound",classification="success"} %[1]g
response_total{direction="inbound",classification="failure"} %[2]g
response_total{direction="outbound",classification="success"} 1e6
# TYPE response_latency_ms histogram
response_latency_ms_bucket{direction="inbound",le="1"} 0
response_latency_ms_bucket{direction="inbound",le="10"} %[3]g
response_latency_ms_bucket{direction="inbound",le="+Inf"} %[3]g
`, 2*n, n/2, 2.5*n)
		if err := s.Insert("web-1", labels, began.Add(at), []byte(page)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := q.Series(t.Context(), all, 10*time.Second)
	if err != nil || len(got.Rows) != 2 || got.Rows[0].Name != "idle" || got.Rows[1].Name != "web" || got.Rows[1].Kind != "deployment" || got.Rows[1].Namespace != "shop" {
		t.Fatalf("%+v, %v", got, err)
	}
	known := 0
	for i := range got.Steps {
		at := time.Unix(got.Start+int64(i)*got.Step, 0)
		row := got.Rows[1]
		values := [5]query.Number{row.RPS[i], row.SuccessRate[i], row.LatencyP50[i], row.LatencyP95[i], row.LatencyP99[i]}
		switch {
		case at.Before(began):
			if !math.IsNaN(float64(values[0])) || !math.IsNaN(float64(values[1])) || !math.IsNaN(float64(values[2])) {
				t.Errorf("%v before anything was counted: %v", began.Sub(at), values)
			}
		case at.After(began.Add(40*time.Second)) && at.Before(now):
			known++
			for j, want := range [5]float64{2.5, 0.8, 5.5, 9.55, 9.91} {
				if math.Abs(float64(values[j])/want-1) > 0.01 {
					t.Errorf("%v after the begin: %v, want %v as value %d", at.Sub(began), values, want, j)
					break
				}
			}
		}
		if !math.IsNaN(float64(got.Rows[0].RPS[i])) {
			t.Errorf("an idle Deployment has %v requests a second", got.Rows[0].RPS[i])
		}
	}
	if known < 25 {
		t.Errorf("only %d of %d steps are within what was counted", known, got.Steps)
	}
	t.Run("by default an hour, a minute a point", func(t *testing.T) {
		got, err := q.Series(t.Context(), &queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "deploy", Namespace: "shop", Name: "web"}}, 0)
		if err != nil || got.Step != 60 || got.Steps != 61 || len(got.Rows) != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func testAnswersRefused(t *testing.T, q *query.Server) {
	web := &queryapi.Selector{Kind: "deployment", Namespace: "shop", Name: "web"}
	for what, c := range map[string]struct {
		req  *queryapi.StatRequest
		step time.Duration
		want codes.Code
	}{
		"nobody's name":           {&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "deployment", Namespace: "shop", Name: "nobody"}}, 0, codes.NotFound},
		"another namespace":       {&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "deployment", Namespace: "other", Name: "web"}}, 0, codes.NotFound},
		"no kind":                 {&queryapi.StatRequest{}, 0, codes.InvalidArgument},
		"a kind of nothing":       {&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "cow"}}, 0, codes.InvalidArgument},
		"authorities":             {&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "authority", Namespace: "shop"}}, 0, codes.InvalidArgument},
		"a selector of nothing":   {&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "deployment", LabelSelector: "a=(b"}}, 0, codes.InvalidArgument},
		"both ends":               {&queryapi.StatRequest{Resource: web, To: web, From: web}, 0, codes.InvalidArgument},
		"a Service that sends":    {&queryapi.StatRequest{Resource: web, From: &queryapi.Selector{Kind: "service", Namespace: "shop"}}, 0, codes.InvalidArgument},
		"steps too short":         {&queryapi.StatRequest{Resource: web, WindowSeconds: 600}, 5 * time.Second, codes.InvalidArgument},
		"steps beyond the window": {&queryapi.StatRequest{Resource: web, WindowSeconds: 60}, 2 * time.Minute, codes.InvalidArgument},
		"too many steps":          {&queryapi.StatRequest{Resource: web, WindowSeconds: 15000}, 10 * time.Second, codes.InvalidArgument},
	} {
		if got, err := q.Series(t.Context(), c.req, c.step); status.Code(err) != c.want {
			t.Errorf("%s: %v, %v; want %v", what, got, err, c.want)
		}
	}
	none, err := query.New(query.Config{Catalog: noCatalog(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Series(t.Context(), &queryapi.StatRequest{Resource: web}, 0); status.Code(err) != codes.Unimplemented {
		t.Errorf("where nothing is kept: %v", err)
	}
}

func noCatalog(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSeriesOfJobs: figures over time of a Job, whose label is another in what is kept.
func TestSeriesOfJobs(t *testing.T) {
	q, s, c := answersOfCatalog(t)
	c.Apply(catalog.Put(&catalog.Pod{
		Key: catalog.Key{Namespace: "shop", Name: "backup-29-x"}, UID: "1", Phase: "Running", Meshed: true,
		Owner: catalog.Ref{Kind: catalog.KindJob, Key: catalog.Key{Namespace: "shop", Name: "backup-29"}},
	}))
	began := time.Now().Add(-5 * time.Minute)
	labels := map[string]string{"job": "mesh-proxy", "job_name": "backup-29", "namespace": "shop", "pod": "backup-29-x"}
	for at := time.Duration(0); at <= 5*time.Minute; at += 5 * time.Second {
		page := fmt.Sprintf("# TYPE response_total counter\nresponse_total{direction=\"inbound\",classification=\"success\"} %g\n", 2*at.Seconds())
		if err := s.Insert("backup", labels, began.Add(at), []byte(page)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := q.Series(t.Context(), &queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "job", Namespace: "shop"}, WindowSeconds: 240}, 30*time.Second)
	if err != nil || len(got.Rows) != 1 || got.Rows[0].Name != "backup-29" {
		t.Fatalf("%+v, %v", got, err)
	}
	if v := float64(got.Rows[0].RPS[4]); math.Abs(v/2-1) > 0.01 {
		t.Errorf("%v requests a second in the middle, want 2: %v", v, got.Rows[0].RPS)
	}
}
