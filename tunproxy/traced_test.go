package tunproxy_test

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// collector keeps the spans that sidecars send it, on a connection of its own.
type collector struct {
	addr string

	mu  sync.Mutex
	got []*otlp.Span
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{addr: l.Addr().String()}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			r := &otlp.TracesData{} // the same on the wire as an export
			err := decode(r)
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, s := range r.GetResourceSpans() {
				for _, s := range s.GetScopeSpans() {
					c.got = append(c.got, s.GetSpans()...)
				}
			}
			return &emptypb.Empty{}, err
		}}},
	}, c)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return c
}

func (c *collector) spans() []*otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*otlp.Span(nil), c.got...)
}

// tracer makes one that sends to c until the test ends.
func (c *collector) tracer(t *testing.T, ratio float64) *tracing.Tracer {
	t.Helper()
	tr := tracing.New(tracing.Config{
		Ratio: ratio, Authority: "collector", Logger: slog.New(slog.DiscardHandler), Resource: func() []tracing.Attribute { return nil },
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.addr)
		},
	})
	tr.Hurry()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); tr.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return tr
}

func traceBy(tr *tracing.Tracer) podOption {
	return withTune(func(c *tunproxy.Config) { c.Tracer = tr })
}

// echoHeads answers with the fields of the request that are about tracing.
func echoHeads(w http.ResponseWriter, r *http.Request) {
	for _, name := range []string{"Traceparent", "Tracestate", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-Tunmesh-Untraced"} {
		for _, v := range r.Header.Values(name) {
			_, _ = io.WriteString(w, name+": "+v+"\n")
		}
	}
}

// openMetrics is a sidecar's page of metrics with exemplars.
func openMetrics(p *pod) string {
	var all []byte
	page := p.metrics.Registry.Page(telemetry.Format{OpenMetrics: true})
	for b := page.Next(); b != nil; b = page.Next() {
		all = append(all, b...)
	}
	return string(all)
}

// TestTraces: who has a span of a request, who is its parent, and what the app is
// told, over HTTP/1 and HTTP/2.
func TestTraces(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, k := range []struct {
		name     string
		ratios   [2]float64 // of the client's sidecar and of the server's
		fields   []string
		spans    int
		parent   string // of the first
		told     string // to the app, up to the span's id; "": as it was sent
		unchange bool
	}{
		{name: "an app that says nothing", ratios: [2]float64{1, 1}, spans: 2, told: "Traceparent: 00-"},
		{name: "sampled by its parent", fields: []string{"Traceparent", "00-" + trace + "-" + span + "-01", "Tracestate", "a=b"}, spans: 2, parent: span, told: "Traceparent: 00-" + trace + "-"},
		{name: "b3", fields: []string{"B3", trace + "-" + span + "-1"}, spans: 2, parent: span, told: "B3: " + trace + "-"},
		{name: "b3 in several", fields: []string{"X-B3-Traceid", trace, "X-B3-Spanid", span, "X-B3-Sampled", "1"}, spans: 2, parent: span, told: "X-B3-Traceid: " + trace + "\nX-B3-Spanid: "},
		{name: "not sampled by its parent", ratios: [2]float64{1, 1}, fields: []string{"Traceparent", "00-" + trace + "-" + span + "-00"}, unchange: true},
		{name: "not sampled by b3", ratios: [2]float64{1, 1}, fields: []string{"B3", "0"}, unchange: true},
		// The client's sidecar decides for both.
		{name: "not sampled by ratio", ratios: [2]float64{0, 1}, unchange: true},
		{name: "sampled by the first's ratio", ratios: [2]float64{1, 0}, spans: 2, told: "Traceparent: 00-"},
		// Nobody but a sidecar may say so.
		{name: "an app that plays the sidecar", ratios: [2]float64{1, 1}, fields: []string{"X-Tunmesh-Untraced", "1"}, spans: 2, told: "Traceparent: 00-"},
	} {
		for _, http2 := range []bool{false, true} {
			name := k.name + "/http1"
			if http2 {
				name = k.name + "/http2"
			}
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				c := newCollector(t)
				a := w.pod("a", "10.0.0.1", traceBy(c.tracer(t, k.ratios[0])))
				b := w.pod("b", "10.0.0.2", traceBy(c.tracer(t, k.ratios[1])))
				w.service("10.96.0.1:80", "10.0.0.2:80=b")
				b.serveHTTP(80, http.HandlerFunc(echoHeads))
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://10.96.0.1/x?secret", nil)
				if err != nil {
					t.Fatal(err)
				}
				sent := ""
				for i := 0; i < len(k.fields); i += 2 {
					req.Header.Set(k.fields[i], k.fields[i+1])
					if k.unchange {
						sent += k.fields[i] + ": " + k.fields[i+1] + "\n"
					}
				}
				resp, err := a.client(http2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				raw, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%d, %v", resp.StatusCode, err)
				}
				told := string(raw)
				if strings.Contains(told, "Untraced") {
					t.Errorf("the app is told %q", told)
				}
				if k.spans == 0 {
					if told != sent {
						t.Errorf("the app is told %q, was sent %q", told, sent)
					}
					settle(t, a, b)
					if got := c.spans(); len(got) > 0 {
						t.Errorf("%v", got)
					}
					return
				}
				eventually(t, "the spans are there", func() bool { return len(c.spans()) == k.spans })
				all := c.spans()
				client, server := all[0], all[1]
				if client.GetKind() != otlp.Span_SPAN_KIND_CLIENT {
					client, server = server, client
				}
				if client.GetKind() != otlp.Span_SPAN_KIND_CLIENT || server.GetKind() != otlp.Span_SPAN_KIND_SERVER {
					t.Fatalf("%v", all)
				}
				if got := hex.EncodeToString(client.GetParentSpanId()); got != k.parent {
					t.Errorf("the client's parent is %q, want %q", got, k.parent)
				}
				if hex.EncodeToString(server.GetParentSpanId()) != hex.EncodeToString(client.GetSpanId()) || hex.EncodeToString(server.GetTraceId()) != hex.EncodeToString(client.GetTraceId()) {
					t.Errorf("the server's span is no child of the client's: %v, %v", server, client)
				}
				if !strings.HasPrefix(told, k.told) || !strings.Contains(told, hex.EncodeToString(server.GetSpanId())) || !strings.Contains(told, hex.EncodeToString(server.GetTraceId())) {
					t.Errorf("the app is told %q, its sidecar's span is %x", told, server.GetSpanId())
				}
				if k.parent != "" && strings.Contains(strings.Join(k.fields, " "), "Tracestate") && (client.GetTraceState() != "a=b" || !strings.Contains(told, "Tracestate: a=b")) {
					t.Errorf("the state of the trace is lost: %q, %q", client.GetTraceState(), told)
				}
				// Whoever looks at a latency finds the trace, whatever brought it.
				exemplar := `trace_id="` + hex.EncodeToString(client.GetTraceId()) + `"`
				for _, p := range []*pod{a, b} {
					if page := openMetrics(p); !strings.Contains(page, exemplar) {
						t.Errorf("no exemplar says %s:\n%s", exemplar, page)
					}
				}
				if client.GetEndTimeUnixNano() < client.GetStartTimeUnixNano() {
					t.Errorf("%v", client)
				}
			})
		}
	}
}

// settle waits until the request is over for both sidecars and nothing waits.
func settle(t *testing.T, pods ...*pod) {
	t.Helper()
	for _, p := range pods {
		eventually(t, "the request is over", func() bool { return p.metric("response_total") >= 1 && p.metric("opentelemetry_spans_waiting") == 0 })
	}
}
