package telemetry_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

func whole(p *telemetry.Page) []byte {
	var b bytes.Buffer
	for piece := p.Next(); piece != nil; piece = p.Next() {
		b.Write(piece)
	}
	return b.Bytes()
}

func TestNegotiate(t *testing.T) {
	const prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
	for _, c := range []struct {
		accept, encoding string
		want             telemetry.Format
	}{
		{"", "", telemetry.Format{}},
		{"*/*", "", telemetry.Format{}},
		{"text/plain", "identity", telemetry.Format{}},
		{prometheus, "gzip", telemetry.Format{OpenMetrics: true, Gzip: true}},
		{"application/openmetrics-text", "deflate, gzip;q=1.0, *;q=0.5", telemetry.Format{OpenMetrics: true, Gzip: true}},
		{"application/openmetrics-text;version=2.0.0, text/plain;q=0.1", "*", telemetry.Format{Gzip: true}},
		{"application/openmetrics-text;q=0.1, text/plain;q=0.9", "*;q=1, gzip;q=0", telemetry.Format{}},
		{`Application/OpenMetrics-Text; Version="1.0.0"; charset=utf-8`, "GZIP", telemetry.Format{OpenMetrics: true, Gzip: true}},
		{"application/openmetrics-text;q=0", "gzip;q=0", telemetry.Format{}},
		{"application/openmetrics-text;q=NaN", "gzip;q=7", telemetry.Format{}},
	} {
		if got := telemetry.Negotiate(c.accept, c.encoding); got != c.want {
			t.Errorf("%q, %q: %+v, want %+v", c.accept, c.encoding, got, c.want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("application/openmetrics-text;version=1.0.0;q=0.6,*/*;q=0.2", "gzip;q=0.5, *")
	f.Add(",;=;q=", "\x00,\"")
	f.Fuzz(func(t *testing.T, accept, encoding string) {
		got := telemetry.Negotiate(accept, encoding)
		if got.OpenMetrics && !strings.Contains(strings.ToLower(accept), "application/openmetrics-text") {
			t.Errorf("%q asked for no OpenMetrics", accept)
		}
		if got.Gzip && !strings.Contains(strings.ToLower(encoding), "gzip") && !strings.Contains(encoding, "*") {
			t.Errorf("%q asked for no gzip", encoding)
		}
	})
}

// TestGzip: what is unpacked is what comes unpacked, and ten times as large.
func TestGzip(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	fill(r, 200)
	plain, packed := whole(r.Page(telemetry.Format{})), whole(r.Page(telemetry.Format{Gzip: true}))
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(plain), err)
	}
	if len(packed)*8 > len(plain) {
		t.Errorf("%d bytes became %d", len(plain), len(packed))
	}
}

// TestOpenMetrics: every family is described once and before its samples, which
// have the names that its type asks for; the end is marked.
func TestOpenMetrics(t *testing.T) {
	m := telemetry.New(telemetry.Config{}, "v1")
	m.Balancers.Handle(telemetry.Parent{Kind: "Service", Name: "a", Port: 80}, 3*time.Second).Waited(time.Millisecond)
	h := m.HTTP.Handle(outbound())
	h.Request()
	h.Response(telemetry.Response{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: 3 * time.Millisecond, Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
	h.Response(telemetry.Response{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: 50 * time.Millisecond, Trace: "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-00"})
	page := string(whole(m.Registry.Page(telemetry.Format{OpenMetrics: true})))
	if !strings.HasSuffix(page, "\n# EOF\n") || strings.Count(page, "# EOF") != 1 {
		t.Errorf("the end is %q", page[max(0, len(page)-40):])
	}
	kind, name, seen := "", "", map[string]bool{}
	sample := regexp.MustCompile(`^([a-z0-9_]+)(\{.*\})? [^ ]+( # \{trace_id="[0-9a-f]{32}"\} [0-9.]+ [0-9]+\.[0-9]{3})?$`)
	exemplars := 0
	for line := range strings.Lines(strings.TrimSuffix(page, "# EOF\n")) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, _, _ = strings.Cut(rest, " ")
			if seen[name] {
				t.Errorf("%s is described twice", name)
			}
			seen[name] = true
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "+name+" "); ok {
			kind = rest
			continue
		}
		s := sample.FindStringSubmatch(line)
		if s == nil {
			t.Fatalf("no line of the format: %q", line)
		}
		suffixes := map[string][]string{"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_count", "_sum"}}[kind]
		ok := false
		for _, suffix := range suffixes {
			ok = ok || s[1] == name+suffix
		}
		if !ok {
			t.Errorf("%s is no sample of the %s %s", s[1], kind, name)
		}
		if s[3] != "" {
			exemplars++
			if !strings.Contains(s[2], `le="3.0"`) || !strings.Contains(s[3], `trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 3 `) {
				t.Errorf("exemplar of another request: %s", line)
			}
		}
	}
	if exemplars != 1 {
		t.Errorf("%d exemplars, want that of the one sampled trace", exemplars)
	}
	if strings.Contains(string(m.Registry.Text()), "trace_id") {
		t.Error("an exemplar in the text format, which has none")
	}
}

func FuzzExemplar(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more")
	f.Fuzz(func(t *testing.T, trace string) {
		r := telemetry.NewRegistry(telemetry.Config{})
		h := telemetry.NewRequests(r, "").Handle(outbound())
		h.Response(telemetry.Response{Status: 200, GRPC: telemetry.NoGRPCStatus, Trace: trace})
		page := string(whole(r.Page(telemetry.Format{OpenMetrics: true})))
		if i := strings.Index(page, `trace_id="`); i >= 0 && !strings.EqualFold(page[i+10:i+42], trace[3:35]) {
			t.Errorf("%q became %s", trace, page[i:i+42])
		}
	})
}

// fill makes so many sets of requests, each of 30 series.
func fill(r *telemetry.Registry, sets int) {
	m := telemetry.NewRequests(r, "")
	for i := range sets {
		l := outbound()
		l.Authority = fmt.Sprint("host-", i, ".emojivoto.svc.cluster.local:8080")
		l.Direction = flow.Outbound
		h := m.Handle(l)
		h.Request()
		h.Response(telemetry.Response{Status: 200, GRPC: telemetry.NoGRPCStatus, Latency: time.Duration(i) * time.Millisecond})
	}
}

// TestScrapeIsCheap: a page costs its own bytes, once, and packed a fraction.
func TestScrapeIsCheap(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	fill(r, 334) // 10,000 series
	size := len(r.Text())
	// A piece is an allocation; collectors and the walk have a few.
	if n := testing.AllocsPerRun(5, func() {
		for p := r.Page(telemetry.Format{}); p.Next() != nil; {
		}
	}); int(n) > size/(15<<10)+100 {
		t.Errorf("%v allocations for %d bytes", n, size)
	}
}

// BenchmarkScrape is a page of 10,000 series.
func BenchmarkScrape(b *testing.B) {
	r := telemetry.NewRegistry(telemetry.Config{})
	fill(r, 334)
	for _, f := range []telemetry.Format{{}, {OpenMetrics: true}, {Gzip: true}, {OpenMetrics: true, Gzip: true}} {
		b.Run(fmt.Sprintf("openmetrics=%v/gzip=%v", f.OpenMetrics, f.Gzip), func(b *testing.B) {
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				size = 0
				p := r.Page(f)
				for piece := p.Next(); piece != nil; piece = p.Next() {
					size += len(piece)
				}
			}
			b.ReportMetric(float64(size), "B/page")
		})
	}
}

// TestMemoryOfSeries: what docs/metrics.md says that a thousand series take.
func TestMemoryOfSeries(t *testing.T) {
	r := telemetry.NewRegistry(telemetry.Config{})
	fill(r, 1) // what there is once
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	fill(r, 334)
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := (int(after.HeapAlloc) - int(before.HeapAlloc)) / 10
	t.Logf("1,000 series take %d bytes", per)
	if per > 100<<10 {
		t.Errorf("1,000 series take %d bytes, more than 100 KB", per)
	}
	runtime.KeepAlive(r)
}
