package telemetry_test

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// families is what Prometheus's own parser makes of an exposition.
func families(t *testing.T, r *telemetry.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	var b strings.Builder
	n, err := r.WriteTo(&b)
	if err != nil || int(n) != b.Len() {
		t.Fatalf("WriteTo: %d of %d, %v", n, b.Len(), err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	f, err := p.TextToMetricFamilies(strings.NewReader(b.String()))
	if err != nil {
		t.Fatalf("not in the text format: %v\n%s", err, b.String())
	}
	return f
}

// find is the one sample with at least these labels.
func find(t *testing.T, f map[string]*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	fam := f[name]
	if fam == nil {
		t.Fatalf("no family %s", name)
	}
	var found *dto.Metric
	for _, m := range fam.Metric {
		have := map[string]string{}
		for _, l := range m.Label {
			have[l.GetName()] = l.GetValue()
		}
		ok := true
		for i := 0; i < len(labels); i += 2 {
			ok = ok && have[labels[i]] == labels[i+1]
		}
		if ok && found != nil {
			t.Fatalf("two samples of %s with %q", name, labels)
		}
		if ok {
			found = m
		}
	}
	if found == nil {
		t.Fatalf("no sample of %s with %q in %v", name, labels, fam)
	}
	return found
}

func outbound() *telemetry.Labels {
	return &telemetry.Labels{
		Direction: flow.Outbound,
		Target:    netip.MustParseAddrPort("10.1.0.7:8080"),
		Authority: "voting.emojivoto.svc.cluster.local:8080",
		Peer: flow.Peer{
			Security: flow.Mutual,
			ID:       spiffe.ID{TrustDomain: "cluster.local", Namespace: "emojivoto", ServiceAccount: "voting"},
		},
		Dst: []map[string]string{
			{"namespace": "emojivoto", "service": "voting", "pod": "of the target"},
			{"pod": "voting-1", "dst_deployment": "voting", "app.kubernetes.io/name": "v"},
		},
	}
}

func TestHTTPFamilies(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	m := telemetry.NewRequests(r, "")
	h := m.Handle(outbound())
	for _, rsp := range []telemetry.Response{
		{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: 900 * time.Microsecond},
		{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: 1000 * time.Microsecond},
		{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: 1001 * time.Microsecond},
		{Status: 200, GRPC: 14, Latency: time.Minute},
		{Status: 503, GRPC: telemetry.NoGRPCStatus, Latency: 7 * time.Millisecond},
		{Status: 0, GRPC: telemetry.NoGRPCStatus, Error: "reset", Latency: 2 * time.Millisecond},
	} {
		h.Request()
		h.Response(rsp)
	}
	f := families(t, r)
	req := find(t, f, "request_total", "direction", "outbound", "authority", "voting.emojivoto.svc.cluster.local:8080",
		"target_addr", "10.1.0.7:8080", "target_ip", "10.1.0.7", "target_port", "8080", "tls", "true",
		"server_id", "voting.emojivoto.sa.cluster.local", "dst_namespace", "emojivoto", "dst_service", "voting",
		"dst_pod", "voting-1", "dst_deployment", "voting", "dst_app_kubernetes_io_name", "v")
	if req.Counter.GetValue() != 6 {
		t.Errorf("requests: %v", req)
	}
	for _, c := range []struct {
		n      float64
		labels []string
	}{
		{3, []string{"classification", "success", "status_code", "200"}},
		{1, []string{"classification", "failure", "status_code", "200", "grpc_status", "14"}},
		{1, []string{"classification", "failure", "status_code", "503"}},
		{1, []string{"classification", "failure", "error", "reset"}},
	} {
		if got := find(t, f, "response_total", c.labels...).Counter.GetValue(); got != c.n {
			t.Errorf("response_total%q is %v, want %v", c.labels, got, c.n)
		}
	}
	lat := find(t, f, "response_latency_ms", "status_code", "200").Histogram
	if len(lat.Bucket) != 26 || lat.Bucket[0].GetUpperBound() != 1 || lat.Bucket[24].GetUpperBound() != 50000 || !math.IsInf(lat.Bucket[25].GetUpperBound(), 1) {
		t.Fatalf("buckets: %v", lat.Bucket)
	}
	// 1 ms is in the bucket of 1, what is above it is not; a minute is in +Inf.
	for i, want := range map[int]uint64{0: 2, 1: 3, 24: 3, 25: 4} {
		if got := lat.Bucket[i].GetCumulativeCount(); got != want {
			t.Errorf("bucket %v counts %d, want %d", lat.Bucket[i].GetUpperBound(), got, want)
		}
	}
	if lat.GetSampleCount() != 4 || lat.GetSampleSum() != 60002.901 {
		t.Errorf("count %d, sum %v", lat.GetSampleCount(), lat.GetSampleSum())
	}
}

func TestTCPFamilies(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	m := telemetry.NewTransports(r)
	in := &telemetry.Labels{
		Direction: flow.Inbound, Target: netip.MustParseAddrPort("[fd00::1]:5432"),
		Peer:   flow.Peer{Reason: flow.NoTLSFromRemote},
		Server: telemetry.Server{Kind: "default", Name: "all-unauthenticated", Port: 5432},
	}
	a, b := m.Handle(in, telemetry.Src), m.Handle(in, telemetry.Src)
	a.Open()
	a.Read(100)
	b.Open()
	b.Open()
	b.Wrote(7)
	a.Close("")
	b.Close("ECONNRESET")
	f := families(t, r)
	labels := []string{
		"direction", "inbound", "peer", "src", "target_addr", "[fd00::1]:5432", "target_ip", "fd00::1", "tls", "no_identity",
		"no_tls_reason", "no_tls_from_remote", "srv_kind", "default", "srv_name", "all-unauthenticated", "srv_port", "5432",
	}
	for name, want := range map[string]float64{"tcp_open_total": 3, "tcp_read_bytes_total": 100, "tcp_write_bytes_total": 7} {
		if got := find(t, f, name, labels...).Counter.GetValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := find(t, f, "tcp_open_connections", labels...).Gauge.GetValue(); got != 1 {
		t.Errorf("open connections: %v", got)
	}
	for errno, want := range map[string]float64{"": 1, "ECONNRESET": 1} {
		if got := find(t, f, "tcp_close_total", "errno", errno).Counter.GetValue(); got != want {
			t.Errorf("closed with %q: %v", errno, got)
		}
	}
	for i := range 100 { // names that come from nowhere stay few
		a.Close(fmt.Sprint("E", i))
	}
	if n := len(families(t, r)["tcp_close_total"].Metric); n > 16 {
		t.Errorf("%d kinds of errno", n)
	}
}

func TestPassthroughLabels(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	telemetry.NewTransports(r).Handle(&telemetry.Labels{
		Direction: flow.Outbound, Peer: flow.Peer{Security: flow.Passthrough, SNI: "example.com"},
	}, telemetry.Dst)
	find(t, families(t, r), "tcp_open_total", "tls", "opaque", "sni", "example.com")
}

func TestEscaping(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	c := telemetry.NewCounters(r, "odd_total", "Help with a \\ and a\nline feed.")
	value := "a\"b\\c\nd\xffe{}=,µ"
	c.Once(telemetry.Label{Name: "odd label.name", Value: value})
	f := families(t, r)
	find(t, f, "odd_total", "odd_label_name", strings.ReplaceAll(value, "\xff", "\uFFFD"))
	if got := f["odd_total"].GetHelp(); got != "Help with a \\ and a\nline feed." {
		t.Errorf("help: %q", got)
	}
}

func TestSidecarFamilies(t *testing.T) {
	m := telemetry.New(telemetry.Config{}, "v1.2.3")
	m.Registry.Collect(func(w *telemetry.Writer) {
		w.Counter("netstack_dropped_total", "Packets dropped, by reason.")
		w.Sample("netstack_dropped_total", 5, telemetry.Label{Name: "reason", Value: "spoofed"})
	})
	m.HTTPError(flow.Inbound, "policy")
	m.HTTPError(flow.Inbound, "policy")
	m.TCPError(flow.Outbound, "refused")
	m.HandshakeFailure(flow.Inbound, "no certificate")
	m.Identity.Refreshed(time.Unix(1000, 0), time.Unix(2000, 0))
	m.Identity.Failed()
	m.Control.Connected(true)
	deny := m.TCPDenied.Handle(outbound())
	deny.Inc()
	call := m.Control.Call("10.0.0.9:8086", "mesh-control.tunmesh.sa.cluster.local", "/x/Y")
	call.Request()
	runtime.GC() // its figures begin with the first
	f := families(t, m.Registry)
	for _, c := range []struct {
		name   string
		value  float64
		labels []string
	}{
		{"netstack_dropped_total", 5, []string{"reason", "spoofed"}},
		{"inbound_http_errors_total", 2, []string{"error", "policy"}},
		{"outbound_tcp_errors_total", 1, []string{"error", "refused"}},
		{"tls_handshake_failures_total", 1, []string{"direction", "inbound", "reason", "no certificate"}},
		{"identity_cert_expiration_timestamp_seconds", 2000, nil},
		{"identity_cert_refresh_timestamp_seconds", 1000, nil},
		{"identity_cert_refreshes_total", 1, []string{"result", "ok"}},
		{"identity_cert_refreshes_total", 1, []string{"result", "error"}},
		{"control_connected", 1, nil},
		{"control_request_total", 1, []string{"addr", "10.0.0.9:8086", "rpc", "/x/Y", "tls", "true"}},
		{"inbound_tcp_authz_deny_total", 1, []string{"direction", "outbound"}},
		{"proxy_build_info", 1, []string{"version", "v1.2.3"}},
	} {
		s := find(t, f, c.name, c.labels...)
		if got := s.GetCounter().GetValue() + s.GetGauge().GetValue(); got != c.value {
			t.Errorf("%s%q is %v, want %v", c.name, c.labels, got, c.value)
		}
	}
	for _, name := range []string{"process_start_time_seconds", "process_resident_memory_bytes", "process_threads", "process_open_fds", "process_max_fds", "process_virtual_memory_bytes", "go_goroutines", "go_gc_heap_live_bytes"} {
		if v := find(t, f, name).GetGauge().GetValue(); v <= 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	if got, want := find(t, f, "process_start_time_seconds").Gauge.GetValue(), float64(time.Now().Unix()); math.Abs(got-want) > 60 {
		t.Errorf("started at %v, now is %v", got, want)
	}
	for _, name := range []string{"go_memstats_mallocs_total", "go_memstats_alloc_bytes_total"} {
		if v := find(t, f, name).GetCounter().GetValue(); v <= 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	// CPU time is that of this process: it grows when the process works.
	before := find(t, f, "process_cpu_seconds_total").Counter.GetValue()
	for end := time.Now().Add(10 * time.Second); ; {
		for range 1 << 22 { //nolint:revive // work
		}
		if find(t, families(t, m.Registry), "process_cpu_seconds_total").Counter.GetValue() > before {
			break
		}
		if time.Now().After(end) {
			t.Fatal("CPU time stands still")
		}
	}
}

// Too many label sets share one, which says so; and those that nobody holds
// make room after a while.
func TestBoundsAndRetirement(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := telemetry.NewRegistry(telemetry.Config{MaxSets: 10, Retain: time.Minute, Now: func() time.Time { return now }})
	m := telemetry.NewRequests(r, "")
	label := func(i int) *telemetry.Labels { return &telemetry.Labels{Authority: fmt.Sprint("host-", i)} }
	var held []telemetry.HTTP
	for i := range 15 {
		h := m.Handle(label(i))
		h.Request()
		held = append(held, h)
	}
	f := families(t, r)
	if n := len(f["request_total"].Metric); n != 11 {
		t.Fatalf("%d sets, want 10 and the shared one", n)
	}
	if got := find(t, f, "request_total", "overflow", "true").Counter.GetValue(); got != 5 {
		t.Errorf("shared: %v requests", got)
	}
	if got := find(t, f, "telemetry_overflow_total").Counter.GetValue(); got != 5 {
		t.Errorf("overflows: %v", got)
	}
	for _, h := range held[:8] {
		h.Release()
	}
	now = now.Add(59 * time.Second)
	if n := len(families(t, r)["request_total"].Metric); n != 11 {
		t.Errorf("%d sets before their time", n)
	}
	now = now.Add(2 * time.Second)
	f = families(t, r)
	if n := len(f["request_total"].Metric); n != 3 { // 8, 9, shared
		t.Errorf("%d sets after their time: %v", n, f["request_total"])
	}
	if got := find(t, f, "telemetry_label_sets").Gauge.GetValue(); got != 2 {
		t.Errorf("%v sets are held", got)
	}
	m.Handle(label(100)).Request()
	find(t, families(t, r), "request_total", "authority", "host-100")
	// One that is held again in time goes on from where it was.
	held[8].Release()
	now = now.Add(30 * time.Second)
	m.Handle(label(8)).Request()
	now = now.Add(40 * time.Second)
	if got := find(t, families(t, r), "request_total", "authority", "host-8").Counter.GetValue(); got != 2 {
		t.Errorf("host-8 has %v requests, want 2", got)
	}
}

// A set's kinds of responses are bounded too.
func TestManyKindsOfResponses(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	h := telemetry.NewRequests(r, "").Handle(outbound())
	const n = 500
	for i := range n {
		h.Response(telemetry.Response{Status: 100 + i, GRPC: telemetry.NoGRPCStatus})
	}
	f := families(t, r)
	if k := len(f["response_total"].Metric); k > 64 {
		t.Errorf("%d kinds", k)
	}
	sum, failed := 0.0, 0.0
	for _, m := range f["response_total"].Metric {
		sum += m.Counter.GetValue()
		for _, l := range m.Label {
			if l.GetValue() == "failure" {
				failed += m.Counter.GetValue()
			}
		}
	}
	if sum != n || failed != 100 {
		t.Errorf("%v responses, %v failed; want %d and 100", sum, failed, n)
	}
}

func TestFailure(t *testing.T) {
	for _, c := range []struct {
		r    telemetry.Response
		want bool
	}{
		{telemetry.Response{Status: 200, GRPC: -1}, false},
		{telemetry.Response{Status: 404, GRPC: -1}, false},
		{telemetry.Response{Status: 500, GRPC: -1}, true},
		{telemetry.Response{Status: 200, GRPC: 0}, false},
		{telemetry.Response{Status: 200, GRPC: 5}, false}, // not found
		{telemetry.Response{Status: 200, GRPC: 7}, false}, // permission denied
		{telemetry.Response{Status: 200, GRPC: 2}, true},
		{telemetry.Response{Status: 200, GRPC: 4}, true},
		{telemetry.Response{Status: 200, GRPC: 13}, true},
		{telemetry.Response{Status: 200, GRPC: 15}, true},
		{telemetry.Response{Status: 200, GRPC: -1, Error: "reset"}, true},
	} {
		if got := c.r.Failure(); got != c.want {
			t.Errorf("%+v: %v", c.r, got)
		}
	}
}

// Everything at once from many goroutines loses nothing.
func TestConcurrency(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	req, tcp := telemetry.NewRequests(r, ""), telemetry.NewTransports(r)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				h := req.Handle(outbound())
				h.Request()
				h.Response(telemetry.Response{Status: 200 + (g+i)%5, GRPC: telemetry.NoGRPCStatus})
				h.Release()
				c := tcp.Handle(outbound(), telemetry.Dst)
				c.Open()
				c.Close([]string{"", "ECONNRESET", "ETIMEDOUT"}[i%3])
				c.Release()
				if i%100 == 0 {
					var b strings.Builder
					_, _ = r.WriteTo(&b)
				}
			}
		})
	}
	wg.Wait()
	f := families(t, r)
	total := 0.0
	for _, m := range f["response_total"].Metric {
		total += m.Counter.GetValue()
	}
	if find(t, f, "request_total").Counter.GetValue() != 4000 || total != 4000 || find(t, f, "tcp_open_connections").Gauge.GetValue() != 0 {
		t.Errorf("requests %v, responses %v", find(t, f, "request_total"), total)
	}
}

// The zero handles, of code that has no labels yet, do nothing.
func TestZeroHandles(t *testing.T) {
	var h telemetry.HTTP
	h.Request()
	h.Response(telemetry.Response{})
	h.Release()
	var c telemetry.TCP
	c.Open()
	c.Read(1)
	c.Wrote(1)
	c.Close("")
	c.Release()
	var n telemetry.Count
	n.Inc()
	n.Release()
}

func TestRequestPathDoesNotAllocate(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	h, c := telemetry.NewRequests(r, "").Handle(outbound()), telemetry.NewTransports(r).Handle(outbound(), telemetry.Dst)
	if n := testing.AllocsPerRun(1000, func() {
		h.Request()
		h.Response(telemetry.Response{Status: 200, GRPC: 0, Latency: 3 * time.Millisecond})
		c.Read(100)
		c.Wrote(100)
		c.Open()
		c.Close("")
	}); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	r := telemetry.NewRegistry(telemetry.Config{})
	h, c := telemetry.NewRequests(r, "").Handle(outbound()), telemetry.NewTransports(r).Handle(outbound(), telemetry.Dst)
	b.ReportAllocs()
	for b.Loop() {
		h.Request()
		c.Read(100)
		c.Wrote(100)
		h.Response(telemetry.Response{Status: 200, GRPC: 0, Latency: 3 * time.Millisecond})
	}
}

func BenchmarkHandle(b *testing.B) {
	m := telemetry.NewTransports(telemetry.NewRegistry(telemetry.Config{}))
	l := outbound()
	m.Handle(l, telemetry.Dst)
	b.ReportAllocs()
	for b.Loop() {
		m.Handle(l, telemetry.Dst).Release()
	}
}

// A text of megabytes is made without a multiple of it as garbage, and in pieces
// that can be let go of one by one.
func TestLargeText(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	m := telemetry.NewRequests(r, "")
	for i := range 1000 {
		h := m.Handle(&telemetry.Labels{Direction: flow.Outbound, Authority: fmt.Sprint("host-", i)})
		h.Request()
		h.Response(telemetry.Response{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: time.Millisecond})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	page := r.Page(telemetry.Format{})
	size, pieces := 0, 0
	for p := page.Next(); p != nil; p = page.Next() {
		size += len(p)
		pieces++
		if len(p) == 0 || len(p) > 16<<10 || p[len(p)-1] != '\n' {
			t.Errorf("a piece of %d bytes", len(p))
		}
	}
	runtime.ReadMemStats(&after)
	took := int(after.TotalAlloc - before.TotalAlloc)
	t.Logf("%d bytes in %d pieces, %d were allocated", size, pieces, took)
	if size < 1<<20 || took > size*3/2 {
		t.Errorf("%d bytes were allocated for a text of %d", took, size)
	}
	if text := r.Text(); len(text) != size {
		t.Errorf("%d bytes in one, %d in pieces", len(text), size)
	}
}

func TestRedelivered(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	m := telemetry.NewRequests(r, "")
	h := m.Handle(outbound())
	h.Request()
	h.Response(telemetry.Response{Status: 200, GRPC: telemetry.NoGRPCStatus})
	var b strings.Builder
	if _, err := r.WriteTo(&b); err != nil || strings.Contains(b.String(), "request_redelivered_total{") {
		t.Errorf("nothing was: %v\n%s", err, &b)
	}
	h.Request()
	h.Response(telemetry.Response{GRPC: telemetry.NoGRPCStatus, Error: "h2(REFUSED_STREAM)", Redelivered: true})
	b.Reset()
	if _, err := r.WriteTo(&b); err != nil || !strings.Contains(b.String(), "request_redelivered_total{") || !strings.Contains(b.String(), "h2(REFUSED_STREAM)\"} 1") {
		t.Errorf("one was: %v\n%s", err, &b)
	}
}

// TestLabelsAreReadBack: the labels of a handle are those that were printed.
func TestLabelsAreReadBack(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	l := outbound()
	l.Authority = "a\"b\\c\nd,e={}"
	got := telemetry.NewTransports(r).Handle(l, telemetry.Dst).Labels()
	for name, want := range map[string]string{"authority": l.Authority, "peer": "dst", "tls": "true", "dst_pod": "voting-1", "direction": "outbound"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if len((telemetry.TCP{}).Labels()) != 0 {
		t.Error("labels of nothing")
	}
}
