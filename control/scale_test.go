package control

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/query"
	"github.com/tunmesh/tunmesh/control/store"
)

const scaleWorkloads = 200

// scalePage is the page of a sidecar that has had n rounds of requests from two
// workloads, and sent as many to four pods of others.
func scalePage(workload, n int) []byte {
	var b bytes.Buffer
	family := func(name, kind string) { fmt.Fprintf(&b, "# HELP %s Text.\n# TYPE %s %s\n", name, name, kind) }
	peer := func(p int) string {
		if p < 2 {
			return fmt.Sprintf(`direction="inbound",authority="w%d.shop:80",target_port="8080",tls="true",client_id="w%d.shop.sa.cluster.local",srv_kind="default",srv_name="all-unauthenticated",authz_name="all-unauthenticated"`, workload, (workload+p+1)%scaleWorkloads)
		}
		to := (workload + p) % scaleWorkloads
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
	return b.Bytes()
}

// crowd is the pods of a mesh, each of which answers a scrape with one more round.
type crowd struct {
	pods  int
	pages [3][scaleWorkloads][]byte

	mu    sync.Mutex
	turns map[string]int
	least int // how often all of them have answered
}

func (c *crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.Host)
	a := netip.MustParseAddr(host).As4()
	c.mu.Lock()
	n := c.turns[host]
	c.turns[host]++
	if len(c.turns) == c.pods {
		c.least = n
		for _, m := range c.turns {
			c.least = min(c.least, m)
		}
	}
	c.mu.Unlock()
	// A counter that begins again has counted what it shows: each turn is one round more.
	_, _ = w.Write(c.pages[n%len(c.pages)][(int(a[2])<<8|int(a[3]))%scaleWorkloads])
}

// wait waits until each has answered n times.
func (c *crowd) wait(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		c.mu.Lock()
		least := c.least
		c.mu.Unlock()
		if least >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all pods were scraped %d times", n)
		}
	}
}

func scraped(f *figures) uint64 {
	n, _ := f.scraper.Counts()
	return n
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestScale says what a mesh of 200 workloads costs mesh-view, and how long people
// wait: TUNMESH_PODS=2000 go test ./control -run TestScale -v has ten pods of each;
// without it there are 40 workloads of one.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("scrapes for 20 s")
	}
	pods := 40
	if v := os.Getenv("TUNMESH_PODS"); v != "" {
		var err error
		if pods, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	all := &crowd{pods: pods, turns: map[string]int{}}
	for n := range all.pages {
		for w := range min(pods, scaleWorkloads) {
			all.pages[n][w] = scalePage(w, n+1)
		}
	}
	server := httptest.NewServer(all)
	defer server.Close()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(catalog.Put(&catalog.Namespace{Name: "shop"}))
	for w := range min(pods, scaleWorkloads) {
		c.Apply(catalog.Put(&catalog.Workload{Kind: catalog.KindDeployment, Key: catalog.Key{Namespace: "shop", Name: fmt.Sprint("w", w)}}))
	}
	for p := range pods {
		name := fmt.Sprint("w", p%scaleWorkloads)
		c.Apply(catalog.Put(&catalog.Pod{
			Key: catalog.Key{Namespace: "shop", Name: fmt.Sprint(name, "-", p/scaleWorkloads)}, UID: fmt.Sprint(p), Meshed: true, Phase: "Running", Ready: true, ServiceAccount: name,
			Labels: map[string]string{"app": name}, Owner: catalog.Ref{Kind: catalog.KindDeployment, Key: catalog.Key{Namespace: "shop", Name: name}},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(p >> 8), byte(p)})},
		}))
	}
	c.Sync()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f, err := newFigures(figuresConfig{
		common:  Config{Window: 70 * time.Second, Logger: slog.New(slog.DiscardHandler)},
		catalog: c, store: &store.Config{Dir: t.TempDir()},
		dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	all.wait(t, 2) // series are made
	used, scrapes := cpu(), scraped(f)
	all.wait(t, 3+int(12*time.Second/max(metrics.DefaultInterval, time.Duration(pods)*5*time.Millisecond))) // each was kept twice
	each := (cpu() - used) / time.Duration(scraped(f)-scrapes)
	runtime.GC()
	runtime.ReadMemStats(&after)
	_, window, lost := f.window.Size()
	series, dropped, refused := f.store.Size()
	disk, err := f.store.Bytes()
	if err != nil || lost+dropped+refused > 0 {
		t.Errorf("%d lost, %d dropped, %d refused, %v", lost, dropped, refused, err)
	}
	if each := float64(after.HeapAlloc-before.HeapAlloc) / float64(series); each > 4000 {
		t.Errorf("%.0f bytes of heap for each series of the store", each)
	}
	t.Logf("%d pods: %d series in the window and %d in the store are %d MB of heap; %d MB of disk; a scrape of %d KB costs %v of processor, both ends",
		pods, window, series, (after.HeapAlloc-before.HeapAlloc)>>20, disk>>20, len(all.pages[0][0])>>10, each.Round(10*time.Microsecond))

	ask, err := query.New(query.Config{Catalog: c, Metrics: f.querier(), Series: f.promQL(), Recorded: f.recorded()})
	if err != nil {
		t.Fatal(err)
	}
	stat := func(kind string, seconds uint32) (*queryapi.StatResponse, time.Duration, error) {
		begin := time.Now()
		resp, err := ask.Stat(t.Context(), &queryapi.StatRequest{WindowSeconds: seconds, Resource: &queryapi.Selector{Kind: kind, AllNamespaces: true}})
		return resp, time.Since(begin), err
	}
	counted := func(resp *queryapi.StatResponse) bool {
		return !slices.ContainsFunc(resp.GetRows(), func(r *queryapi.StatRow) bool { return r.GetSuccessCount() == 0 })
	}
	for _, seconds := range []uint32{60, 120} {
		for _, kind := range []string{"deployment", "pod", "namespace"} {
			want := map[string]int{"deployment": min(pods, scaleWorkloads), "pod": pods, "namespace": 1}[kind]
			resp, took, err := stat(kind, seconds)
			// Those of more than the window are there when two pages of each were kept.
			for deadline := time.Now().Add(3 * time.Minute); err == nil && !counted(resp) && time.Now().Before(deadline); time.Sleep(250 * time.Millisecond) {
				resp, took, err = stat(kind, seconds)
			}
			if err != nil || len(resp.GetRows()) != want || !counted(resp) {
				t.Errorf("stat %s of %d s: %d rows, %v", kind, seconds, len(resp.GetRows()), err)
			}
			t.Logf("stat %s of %d s: %v", kind, seconds, took.Round(time.Millisecond))
		}
	}
	begin := time.Now()
	edges, err := ask.Edges(t.Context(), &queryapi.EdgesRequest{Resource: &queryapi.Selector{Kind: "deployment", AllNamespaces: true}})
	if err != nil || len(edges.GetEdges()) < min(pods, scaleWorkloads) {
		t.Errorf("%d edges, %v", len(edges.GetEdges()), err)
	}
	t.Logf("edges of deployments: %d in %v", len(edges.GetEdges()), time.Since(begin).Round(time.Millisecond))
	// What the console's overview asks for is recorded as it happens.
	used, begin = cpu(), time.Now()
	if err := f.store.Record(t.Context(), begin.Truncate(query.RecordStep), query.Recordings()); err != nil {
		t.Error(err)
	}
	t.Logf("recording, every %v: %v, %v of processor with what is scraped meanwhile", query.RecordStep, time.Since(begin).Round(time.Millisecond), (cpu() - used).Round(time.Millisecond))
	some := func(list []query.Number) bool {
		return slices.ContainsFunc(list, func(n query.Number) bool { return !math.IsNaN(float64(n)) })
	}
	unknown := func(r query.SeriesRow) bool { return !some(r.RPS) || !some(r.SuccessRate) || !some(r.LatencyP99) }
	// A step is there when two pages of each were kept before it.
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(250 * time.Millisecond) {
		begin = time.Now()
		s, err := ask.Series(t.Context(), &queryapi.StatRequest{WindowSeconds: 900, Resource: &queryapi.Selector{Kind: "deployment", AllNamespaces: true}}, query.RecordStep)
		if err != nil || len(s.Rows) != min(pods, scaleWorkloads) {
			t.Fatalf("series of deployments: %v", err)
		}
		missing := slices.IndexFunc(s.Rows, unknown)
		if missing < 0 {
			t.Logf("series of deployments over 15 minutes: %v", time.Since(begin).Round(time.Millisecond))
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("series of %s: %+v", s.Rows[missing].Name, s.Rows[missing])
		}
	}
}
