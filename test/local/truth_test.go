package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/internal/transcript"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

// limit bounds waits for events.
const limit = time.Minute

// The load of a round: what p50, p95 and p99 of it are is far from a bucket's bound,
// whatever a busy machine adds.
const (
	quick  = "http://server/?delay=150ms"
	broken = "http://server/?delay=150ms&status=503"
	slow   = "http://server/?delay=350ms"
	slower = "http://server/?delay=1500ms"
)

// measured is what the load generator counted.
type measured struct {
	Answered map[string]map[int]int `json:"answered"`
	Failed   map[string]int         `json:"failed"`
	TookUs   []int64                `json:"took_us"`
}

// quantile is the generator's own, in milliseconds.
func (m measured) quantile(q float64) float64 {
	return float64(m.TookUs[int(q*float64(len(m.TookUs)-1))]) / 1000
}

// bucketOf is which of the latency histogram's a figure is in.
func bucketOf(ms float64) int {
	bounds := []float64{1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10000, 20000, 30000, 40000, 50000}
	at, _ := slices.BinarySearch(bounds, ms)
	return at
}

// near compares latencies with the generator's own: at most one bucket apart.
func (m measured) near(what string, p50, p95, p99 float64) error {
	for q, ms := range map[float64]float64{0.5: p50, 0.95: p95, 0.99: p99} {
		if d := bucketOf(ms) - bucketOf(m.quantile(q)); d < -1 || d > 1 {
			return fmt.Errorf("%s: the %v quantile is %v ms, and %v ms by the client's own clock", what, q, ms, m.quantile(q))
		}
	}
	return nil
}

// stream is a command that runs until it is interrupted.
type stream struct {
	*exec.Cmd
	out *transcript.Transcript
}

func follow(t *testing.T, m *meshtest.Mesh, args ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	t.Cleanup(cancel)
	s := &stream{m.Command(ctx, args...), new(transcript.Transcript)}
	s.Stdout, s.WaitDelay = s.out, 5*time.Second
	s.Stderr = os.Stderr
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// end interrupts the command and returns what it printed.
func (s *stream) end(t *testing.T) []byte {
	t.Helper()
	if err := s.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Fatalf("%v: %s", s.Args, err)
	}
	return []byte(s.out.String())
}

// testTruth: stat, edges, stat-inbound, stat-outbound, top, tap and PromQL say of a
// load what the client that made it counted, and its latencies by its own clock.
func testTruth(t *testing.T, m *meshtest.Mesh) {
	// It is not known when top has begun to look: where it missed requests, once more.
	// Who counts wrongly is wrong each time.
	for round := 1; ; round++ {
		top := follow(t, m, "top", "po/client", "--max-rps", "10000", "--for", "5m", "-o", "json")
		tap := follow(t, m, "tap", "po/client", "--max-rps", "10000", "-o", "json")
		warm := 0
		meshtest.Eventually(t, limit, "the tap sees a request", func() bool {
			meshtest.JSON[measured](t, m, "client", "testapp", "measure", "1@http://server/warm")
			warm++
			return strings.Contains(tap.out.String(), `"path":"/warm"`)
		})
		load := meshtest.JSON[measured](t, m, "client", "testapp", "measure", "150@"+quick, "20@"+broken, "22@"+slow, "8@"+slower)
		if n := len(load.Failed); n != 0 || load.Answered[broken][503] != 20 || load.Answered[quick][200] != 150 {
			t.Fatalf("the load: %+v", load)
		}
		meshtest.Eventually(t, limit, "the tap has seen the end of each request", func() bool {
			text := tap.out.String()
			return strings.Count(text, `"responseEndEvent"`) == 200+strings.Count(text, `"path":"/warm"`)
		})
		if round == 1 {
			testFigures(t, m, load, uint64(180+warm), 20)
		}
		load.judgeTap(t, tap.end(t))
		err := load.judgeTop(top.end(t))
		if err == nil {
			return
		}
		if round == 3 {
			t.Fatal(err)
		}
		t.Log(err)
	}
}

// testFigures: counts are exact once the sidecars were scraped after the load.
func testFigures(t *testing.T, m *meshtest.Mesh, load measured, success, failure uint64) {
	t.Helper()
	view := func(path string, to proto.Message) {
		if err := protojson.Unmarshal(m.View(t, "namespaces/default/"+path), to); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	for what, path := range map[string]string{
		"stat deploy/server":             "deployments/server/stat",
		"stat svc/server":                "services/server/stat",
		"stat deploy/server --from":      "deployments/server/stat?from=pods/default/client",
		"stat po/client --to svc/server": "pods/client/stat?to=services/default/server",
		"stat po/client --to deploy":     "pods/client/stat?to=deployments/default/server",
		"stat au/server":                 "authorities/server/stat",
	} {
		var last error
		meshtest.Eventually(t, limit, what, func() bool {
			var resp query.StatResponse
			if view(path, &resp); len(resp.GetRows()) != 1 {
				last = fmt.Errorf("%d rows", len(resp.GetRows()))
				return false
			}
			r := resp.GetRows()[0]
			if last = load.near(what, r.GetLatencyMsP50(), r.GetLatencyMsP95(), r.GetLatencyMsP99()); r.GetSuccessCount() != success || r.GetFailureCount() != failure {
				last = fmt.Errorf("%d good and %d bad, want %d and %d", r.GetSuccessCount(), r.GetFailureCount(), success, failure)
			}
			return last == nil
		})
		if last != nil {
			t.Errorf("%s: %v", what, last)
		}
	}
	var edges query.EdgesResponse
	view("pods/-/edges", &edges)
	if e := edges.GetEdges(); len(e) != 1 || e[0].GetSuccessCount() != success || e[0].GetFailureCount() != failure || e[0].GetNoTlsReason() != "" {
		t.Errorf("edges: %v", e)
	} else if err := load.near("edges", e[0].GetLatencyMsP50(), e[0].GetLatencyMsP95(), e[0].GetLatencyMsP99()); err != nil {
		t.Error(err)
	}
	for _, direction := range []string{"deployments/server/routes?direction=inbound", "pods/client/routes?direction=outbound"} {
		var routes query.RoutesResponse
		view(direction, &routes)
		rows := routes.GetRows()
		rows = slices.DeleteFunc(rows, func(r *query.RouteRow) bool { return r.GetRoute() == "probe" })
		if len(rows) != 1 || rows[0].GetSuccessCount() != success || rows[0].GetFailureCount() != failure {
			t.Errorf("%s: %v", direction, rows)
		} else if err := load.near(direction, rows[0].GetLatencyMsP50(), rows[0].GetLatencyMsP95(), rows[0].GetLatencyMsP99()); err != nil {
			t.Error(err)
		}
	}
	rate := float64(success) / float64(success+failure)
	type row struct {
		Success, P50, P95, P99 float64
	}
	for _, command := range []string{"stat deploy/server", "edges po", "stat-outbound po/client", "stat-inbound deploy/server"} {
		var list []map[string]any
		if err := json.Unmarshal(m.Ctl(t, append(strings.Fields(command), "-o", "json")...), &list); err != nil || len(list) == 0 {
			t.Fatalf("%s: %v: %v", command, err, list)
		}
		number := func(names ...string) float64 {
			for _, n := range names {
				if v, ok := list[0][n].(float64); ok {
					return v
				}
			}
			return -1
		}
		r := row{number("success", "successRate"), number("latency_ms_p50", "latencyMsP50"), number("latency_ms_p95", "latencyMsP95"), number("latency_ms_p99", "latencyMsP99")}
		if r.Success < rate-0.01 || r.Success > rate+0.01 {
			t.Errorf("%s: %v of the requests are good, want %v", command, r.Success, rate)
		}
		if err := load.near(command, r.P50, r.P95, r.P99); err != nil {
			t.Error(err)
		}
	}
	testPromQL(t, m, success, failure)
}

// testPromQL: what Linkerd's dashboards ask has an answer, and counters are exact.
func testPromQL(t *testing.T, m *meshtest.Mesh, success, failure uint64) {
	t.Helper()
	ask := func(promQL string) map[string]string {
		var doc struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		if err := json.Unmarshal(m.View(t, "prometheus/api/v1/query?query="+url.QueryEscape(promQL)), &doc); err != nil {
			t.Fatalf("%s: %v", promQL, err)
		}
		found := map[string]string{}
		for _, r := range doc.Data.Result {
			found[r.Metric["classification"]] = fmt.Sprint(r.Value[1])
		}
		return found
	}
	for _, side := range []string{`deployment="server",direction="inbound",route_name!="probe",authz_name!="probe"`, `pod="client",direction="outbound",dst_deployment="server"`} {
		counted := `sum(response_total{namespace="default",` + side + `}) by (classification)`
		meshtest.Eventually(t, limit, counted, func() bool {
			got := ask(counted)
			return got["success"] == fmt.Sprint(success) && got["failure"] == fmt.Sprint(failure)
		})
	}
	const of = `{namespace="default",pod="client",direction="outbound"}`
	for _, promQL := range []string{
		`sum(increase(response_total` + of + `[1m])) by (namespace, pod, classification, tls)`,
		`histogram_quantile(0.99, sum(irate(response_latency_ms_bucket` + of + `[1m])) by (le, namespace, pod))`,
		`sum(tcp_open_connections` + of + `) by (namespace, pod)`,
		`sum(increase(tcp_read_bytes_total` + of + `[1m])) by (namespace, pod)`,
		`sum(increase(tcp_write_bytes_total` + of + `[1m])) by (namespace, pod)`,
		`sum(tcp_open_connections` + of + `) by (pod, dst_pod, server_id, namespace, dst_namespace, no_tls_reason)`,
		`max(process_start_time_seconds{namespace="default"}) by (pod, namespace)`,
		`sum(increase(inbound_http_authz_allow_total{namespace="default",deployment="server"}[1m])) by (deployment)`,
	} {
		meshtest.Eventually(t, limit, promQL, func() bool { return len(ask(promQL)) > 0 })
	}
}

// judgeTap: each request was seen once, with its status, its end, and how long it took.
func (m measured) judgeTap(t *testing.T, printed []byte) {
	t.Helper()
	type id struct{ Base, Stream uint64 }
	type event struct {
		Request *struct {
			ID   id
			Path string
		} `json:"requestInitEvent"`
		Response *struct {
			ID     id
			Status int `json:"httpStatus"`
		} `json:"responseInitEvent"`
		End *struct {
			ID    id
			Since struct{ Seconds, Nanos int64 } `json:"sinceRequestInit"`
		} `json:"responseEndEvent"`
	}
	paths, seen, ended := map[id]string{}, map[string]map[int]int{}, 0
	var own measured
	for line := range bytes.Lines(printed) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case e.Request != nil && e.Request.Path != "/warm":
			paths[e.Request.ID] = "http://server" + e.Request.Path
		case e.Response != nil && paths[e.Response.ID] != "":
			u := paths[e.Response.ID]
			if seen[u] == nil {
				seen[u] = map[int]int{}
			}
			seen[u][e.Response.Status]++
		case e.End != nil && paths[e.End.ID] != "":
			ended++
			own.TookUs = append(own.TookUs, e.End.Since.Seconds*1e6+e.End.Since.Nanos/1000)
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(m.Answered) || ended != len(m.TookUs) {
		t.Errorf("tap saw %v and %d ends, the client %v", seen, ended, m.Answered)
		return
	}
	slices.Sort(own.TookUs)
	if err := m.near("tap", own.quantile(0.5), own.quantile(0.95), own.quantile(0.99)); err != nil {
		t.Error(err)
	}
}

// judgeTop: the same of what top added up.
func (m measured) judgeTop(printed []byte) error {
	var rows []struct {
		Path    string
		Count   int
		Best    float64 `json:"best_us"`
		Worst   float64 `json:"worst_us"`
		Success float64
	}
	if err := json.Unmarshal(printed, &rows); err != nil {
		return fmt.Errorf("top: %w: %s", err, printed)
	}
	n := 0
	for _, r := range rows {
		want := m.Answered["http://server"+r.Path]
		if want == nil {
			continue
		}
		n++
		if r.Count != want[200]+want[503] || r.Success*float64(r.Count) != float64(want[200]) {
			return fmt.Errorf("top counts %d of %s, and the client %v", r.Count, r.Path, want)
		}
		u, err := url.Parse(r.Path)
		if err != nil {
			return fmt.Errorf("top: %w", err)
		}
		if d, err := time.ParseDuration(u.Query().Get("delay")); err != nil || r.Best < float64(d.Microseconds()) || r.Worst > float64(m.TookUs[len(m.TookUs)-1]) {
			return fmt.Errorf("top: %s took %v to %v µs, and the longest by the client's clock %d: %w", r.Path, r.Best, r.Worst, m.TookUs[len(m.TookUs)-1], err)
		}
	}
	if n != len(m.Answered) {
		return fmt.Errorf("top has rows of %d paths: %s", n, printed)
	}
	return nil
}
