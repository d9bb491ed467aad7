package store

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// podPage is the page of a sidecar that has had n requests from two workloads and to
// four pods of others.
func podPage(workload, n int) []byte {
	var b strings.Builder
	family := func(name, kind string) { fmt.Fprintf(&b, "# HELP %s Text.\n# TYPE %s %s\n", name, name, kind) }
	peer := func(p int) string {
		if p < 2 {
			return fmt.Sprintf(`direction="inbound",authority="w%d.shop:80",target_port="8080",tls="true",client_id="w%d.shop.sa.cluster.local",srv_kind="default",srv_name="all-unauthenticated",authz_name="all-unauthenticated"`, workload, (workload+p+1)%200)
		}
		to := (workload + p) % 200
		return fmt.Sprintf(`direction="outbound",authority="w%d.shop:80",target_addr="10.1.%d.%d:8080",tls="true",server_id="w%d.shop.sa.cluster.local",dst_deployment="w%d",dst_namespace="shop",dst_pod="w%d-%d",dst_service="w%d"`, to, to, p, to, to, to, p, to)
	}
	family("response_total", "counter")
	for p := range 6 {
		fmt.Fprintf(&b, "response_total{%s,status_code=\"200\",classification=\"success\"} %d\n", peer(p), n*10)
		fmt.Fprintf(&b, "response_total{%s,status_code=\"500\",classification=\"failure\"} %d\n", peer(p), n)
	}
	family("response_latency_ms", "histogram")
	for p := range 6 {
		for i, le := range []int{1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10000, 20000, 30000, 40000, 50000} {
			fmt.Fprintf(&b, "response_latency_ms_bucket{%s,status_code=\"200\",le=\"%d\"} %d\n", peer(p), le, min(n*10, n*i))
		}
		fmt.Fprintf(&b, "response_latency_ms_bucket{%s,status_code=\"200\",le=\"+Inf\"} %d\nresponse_latency_ms_sum{%s,status_code=\"200\"} %d\nresponse_latency_ms_count{%s,status_code=\"200\"} %d\n", peer(p), n*10, peer(p), n*70, peer(p), n*10)
	}
	for _, name := range []string{"tcp_open_total", "tcp_open_connections", "tcp_read_bytes_total", "tcp_write_bytes_total"} {
		family(name, map[bool]string{true: "counter", false: "gauge"}[strings.HasSuffix(name, "_total")])
		for p := range 6 {
			fmt.Fprintf(&b, "%s{%s,peer=\"src\"} %d\n", name, peer(p), n*100)
		}
	}
	for i := range 80 { // the process, the stack
		name := fmt.Sprintf("own_%d_total", i)
		family(name, "counter")
		fmt.Fprintf(&b, "%s %d\n", name, n*i)
	}
	return []byte(b.String())
}

// TestScale says what a mesh of 200 workloads costs: TUNMESH_PODS=2000 go test
// -run TestScale -v has ten pods of each, without it there are 40 workloads of one.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a store with tens of thousands of series")
	}
	pods := 40
	if v := os.Getenv("TUNMESH_PODS"); v != "" {
		var err error
		if pods, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, MaxSeries: 2_000_000})
	const rounds = 12
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	now := time.Now()
	samples, bytes := 0, 0
	var first, rest time.Duration
	for round := range rounds {
		begin := time.Now()
		for p := range pods {
			w := p % 200
			page := podPage(w, round+1)
			bytes += len(page)
			base := map[string]string{"job": "mesh-proxy", "namespace": "shop", "deployment": fmt.Sprint("w", w), "pod": fmt.Sprintf("w%d-%d", w, p/200), "serviceaccount": fmt.Sprint("w", w)}
			if err := s.Insert(base["pod"], base, now.Add(time.Duration(round-rounds+1)*10*time.Second), page); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			first = time.Since(begin)
		} else {
			rest += time.Since(begin)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	series, dropped, refused := s.Size()
	samples = int(series) * rounds
	disk, err := s.Bytes()
	if err != nil || dropped+refused > 0 {
		t.Fatalf("%d dropped, %d refused, %v", dropped, refused, err)
	}
	heap := float64(after.HeapAlloc - before.HeapAlloc)
	t.Logf("%d pods: %d series, %.1f MB of heap (%.0f bytes a series), %.1f MB of disk (%.1f bytes a sample, log included); a page of %d KB takes %.2f ms at first, then %.2f ms",
		pods, series, heap/1e6, heap/float64(series), float64(disk)/1e6, float64(disk)/float64(samples), bytes/rounds/pods/1000,
		float64(first.Milliseconds())/float64(pods), float64(rest.Milliseconds())/float64(pods*(rounds-1)))
	if heap/float64(series) > 6000 {
		t.Errorf("%.0f bytes a series", heap/float64(series))
	}
	ask := metrics.Asker{PromQL: s, Anchored: true, Now: func() time.Time { return now }}
	want := min(pods, 200)
	match, by := []metrics.Matcher{metrics.Is("direction", "inbound")}, []string{"namespace", "deployment"}
	for _, q := range []struct {
		name string
		ask  func() (int, error)
	}{
		{"requests of all workloads, two minutes", func() (int, error) {
			l, err := ask.Increase(t.Context(), metrics.ResponseTotal, match, append(by, "classification"), 2*time.Minute)
			return len(l) / 2, err
		}},
		{"95th percentile of all workloads", func() (int, error) {
			l, err := ask.Quantiles(t.Context(), metrics.ResponseLatency, []float64{0.95}, match, by, 2*time.Minute)
			return len(l[0]), err
		}},
		{"connections of all workloads", func() (int, error) {
			l, err := ask.Sum(t.Context(), metrics.TCPOpenConnections, match, by)
			return len(l), err
		}},
		{"requests of all workloads over time", func() (int, error) {
			m, err := s.Range(t.Context(), `sum by (namespace, deployment)(rate(response_total{direction="inbound"}[30s]))`, metrics.Range{Start: now.Add(-2 * time.Minute), End: now, Step: 10 * time.Second})
			return len(m), err
		}},
		{"edges between all workloads", func() (int, error) {
			l, err := ask.Increase(t.Context(), metrics.ResponseTotal, []metrics.Matcher{metrics.Is("direction", "outbound")}, []string{"deployment", "dst_deployment"}, 2*time.Minute)
			return len(l) / 4, err // each calls four
		}},
	} {
		begin := time.Now()
		n, err := q.ask()
		if err != nil || n != want {
			t.Errorf("%s: %d rows, %v", q.name, n, err)
		}
		t.Logf("%s: %v", q.name, time.Since(begin).Round(time.Millisecond))
	}
}
