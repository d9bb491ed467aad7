package tracing_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// sink is a collector: grpc-go, and OTLP's generated code. An export is, on the
// wire, a TracesData; its package of its own would bring a web gateway along.
type sink struct {
	addr   string
	answer func(n int) (proto.Message, error) // of the nth call

	mu    sync.Mutex
	got   []*otlp.TracesData
	marks []string
}

func newSink(t *testing.T, answer func(n int) (proto.Message, error)) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{addr: l.Addr().String(), answer: answer}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			r := &otlp.TracesData{}
			if err := decode(r); err != nil {
				return nil, err
			}
			return s.export(ctx, r)
		}}},
	}, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return s
}

func (s *sink) export(ctx context.Context, r *otlp.TracesData) (proto.Message, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, r)
	s.marks = append(s.marks, strings.Join(md.Get("traceparent"), "|"))
	if s.answer != nil {
		return s.answer(len(s.got))
	}
	return &emptypb.Empty{}, nil
}

// partial is the answer of a collector that did not take n spans.
func partial(n uint64, why string) proto.Message {
	var in []byte
	in = protowire.AppendVarint(protowire.AppendTag(in, 1, protowire.VarintType), n)
	in = protowire.AppendString(protowire.AppendTag(in, 2, protowire.BytesType), why)
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), in))
	return m
}

func (s *sink) spans() (all []*otlp.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.got {
		for _, rs := range r.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				all = append(all, ss.GetSpans()...)
			}
		}
	}
	return all
}

// run makes a tracer that exports to addr until the test ends.
func run(t *testing.T, addr string) *tracing.Tracer {
	t.Helper()
	tr := tracing.New(tracing.Config{
		Ratio: 1, Authority: "collector:4317", Version: "1.2", Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		Resource: func() []tracing.Attribute { return []tracing.Attribute{{Key: "service.name", Value: "web"}} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); tr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the exporter does not end")
		}
	})
	return tr
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func entry() *tracing.Entry {
	return &tracing.Entry{
		Start: time.Unix(1_800_000_000, 5), End: time.Unix(1_800_000_001, 6),
		Method: "GET", Scheme: "http", Authority: "shop.example:8080", Path: "/cart?token=secret", Version: "1.1", UserAgent: "curl/8",
		Status: 200, GRPCStatus: tracing.NoGRPCStatus,
		Client: netip.MustParseAddrPort("10.0.0.1:1234"), Peer: netip.MustParseAddrPort("10.0.0.2:80"),
		ID: spiffe.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"},
	}
}

// attributes as a map.
func attributes(all []*common.KeyValue) map[string]any {
	m := map[string]any{}
	for _, a := range all {
		switch v := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			m[a.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.GetKey()] = v.IntValue
		default:
			m[a.GetKey()] = v
		}
	}
	return m
}

func equal(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %s is %v, want %v", what, k, got[k], v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: %s is %v, want none", what, k, v)
		}
	}
}

// TestSpans: what the generated code reads of what ours writes, and what the
// conventions want to be there.
func TestSpans(t *testing.T) {
	s := newSink(t, nil)
	tr := run(t, s.addr)
	end := func(change func(*tracing.Entry), pairs ...string) {
		p := tracing.Extract(head(pairs...))
		e := entry()
		change(e)
		tr.End(tr.Begin(&p), e)
	}
	end(func(*tracing.Entry) {}, "traceparent", parent, "tracestate", "a=b")
	end(func(e *tracing.Entry) { e.Server, e.Status, e.Method = true, 404, "BREW" })
	end(func(e *tracing.Entry) { e.Status, e.Resends, e.ID, e.UserAgent = 503, 2, spiffe.ID{}, "" })
	call := func(e *tracing.Entry) {
		e.Method, e.Path, e.GRPC, e.GRPCStatus, e.Version = "POST", "/shop.Cart/Add", true, 5, "2"
	}
	end(call)
	end(func(e *tracing.Entry) { call(e); e.Server = true })
	end(func(e *tracing.Entry) { e.Status, e.Failure, e.Authority, e.Path = 0, "CANCEL", "[::1]", "/\xff" })
	eventually(t, "all spans are there", func() bool { return len(s.spans()) == 6 })
	r := s.got[0].GetResourceSpans()[0]
	equal(t, "resource", attributes(r.GetResource().GetAttributes()), map[string]any{"service.name": "web"})
	if sc := r.GetScopeSpans()[0]; sc.GetScope().GetName() != "tunmesh" || sc.GetScope().GetVersion() != "1.2" || !strings.HasPrefix(sc.GetSchemaUrl(), "https://") {
		t.Errorf("scope %v", sc)
	}
	if m := s.marks[0]; tracing.Extract(head("traceparent", m)).Decision != tracing.Dropped {
		t.Errorf("the export itself is marked %q", m)
	}
	all := s.spans()
	c := all[0]
	if hexed(c.GetTraceId()) != trace || hexed(c.GetParentSpanId()) != span || c.GetTraceState() != "a=b" || c.GetKind() != otlp.Span_SPAN_KIND_CLIENT || c.GetName() != "GET" ||
		c.GetStartTimeUnixNano() != 1_800_000_000_000_000_005 || c.GetEndTimeUnixNano() != 1_800_000_001_000_000_006 || c.GetFlags() != 0x301 || c.GetStatus() != nil || len(c.GetSpanId()) != 8 {
		t.Errorf("%v", c)
	}
	equal(t, "client", attributes(c.GetAttributes()), map[string]any{
		"http.request.method": "GET", "url.full": "http://shop.example:8080/cart", "server.address": "shop.example", "server.port": int64(8080),
		"network.peer.address": "10.0.0.2", "network.peer.port": int64(80), "network.protocol.version": "1.1", "user_agent.original": "curl/8",
		"http.response.status_code": int64(200), "tunmesh.server.id": "cart.shop.sa.cluster.local",
	})
	c = all[1]
	if len(c.GetParentSpanId()) != 0 || len(c.GetTraceId()) != 16 || c.GetKind() != otlp.Span_SPAN_KIND_SERVER || c.GetName() != "HTTP" || c.GetStatus() != nil || c.GetFlags() != 0x101 {
		t.Errorf("%v", c)
	}
	equal(t, "server", attributes(c.GetAttributes()), map[string]any{
		"http.request.method": "_OTHER", "http.request.method_original": "BREW", "url.scheme": "http", "url.path": "/cart", "server.address": "shop.example", "server.port": int64(8080),
		"client.address": "10.0.0.1", "network.peer.address": "10.0.0.2", "network.peer.port": int64(80), "network.protocol.version": "1.1", "user_agent.original": "curl/8",
		"http.response.status_code": int64(404), "tunmesh.client.id": "cart.shop.sa.cluster.local",
	})
	c = all[2]
	if a := attributes(c.GetAttributes()); c.GetStatus().GetCode() != otlp.Status_STATUS_CODE_ERROR || a["error.type"] != "503" || a["http.request.resend_count"] != int64(2) || a["tunmesh.server.id"] != nil {
		t.Errorf("%v", c)
	}
	c = all[3]
	if c.GetName() != "shop.Cart/Add" || c.GetStatus().GetCode() != otlp.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", c)
	}
	equal(t, "call", attributes(c.GetAttributes()), map[string]any{
		"rpc.system.name": "grpc", "rpc.method": "shop.Cart/Add", "rpc.response.status_code": "NOT_FOUND", "error.type": "NOT_FOUND", "server.address": "shop.example", "server.port": int64(8080),
		"network.peer.address": "10.0.0.2", "network.peer.port": int64(80), "tunmesh.server.id": "cart.shop.sa.cluster.local",
	})
	if c = all[4]; c.GetStatus() != nil || attributes(c.GetAttributes())["error.type"] != nil {
		t.Errorf("a client's mistake is the server's error: %v", c)
	}
	if a := attributes(all[5].GetAttributes()); a["error.type"] != "CANCEL" || a["url.full"] != "http://[::1]/\uFFFD" || a["server.address"] != "::1" || a["server.port"] != int64(80) || a["http.response.status_code"] != nil {
		t.Errorf("%v", a)
	}
	// The collector has the spans before its answer is back.
	eventually(t, "the export is answered", func() bool { return tr.Counts().Exported == 6 })
	if n := tr.Counts(); n.Connections != 1 || n.Overflowed+n.Unreachable+n.Rejected != 0 || n.Waiting != 0 {
		t.Errorf("%+v", n)
	}
}

func hexed(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// some ends n spans.
func some(tr *tracing.Tracer, n int) {
	for range n {
		var p tracing.Parent
		tr.End(tr.Begin(&p), entry())
	}
}

// TestCollectorComesLate: spans wait for one that is busy, and are sent again.
func TestCollectorComesLate(t *testing.T) {
	s := newSink(t, func(n int) (proto.Message, error) {
		if n == 1 {
			return nil, status.Error(codes.Unavailable, "not yet")
		}
		return &emptypb.Empty{}, nil
	})
	tr := run(t, s.addr)
	some(tr, 3)
	eventually(t, "the spans are taken", func() bool { return tr.Counts().Exported == 3 })
	if n := tr.Counts(); n.Requests != 2 || n.Connections != 2 {
		t.Errorf("%+v", n)
	}
}

// TestCollectorRefuses: what it does not want is not sent again, and counted.
func TestCollectorRefuses(t *testing.T) {
	s := newSink(t, func(n int) (proto.Message, error) {
		if n == 1 {
			return nil, status.Error(codes.InvalidArgument, "what is this?")
		}
		return partial(2, "too old"), nil
	})
	tr := run(t, s.addr)
	some(tr, 3)
	eventually(t, "the first are refused", func() bool { return tr.Counts().Rejected == 3 })
	some(tr, 5)
	eventually(t, "some are taken", func() bool { return tr.Counts().Exported == 3 })
	if n := tr.Counts(); n.Rejected != 5 || n.Requests != 2 {
		t.Errorf("%+v", n)
	}
}

// TestCollectorAway: nobody waits for it, and memory is bounded.
func TestCollectorAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	tr := run(t, l.Addr().String())
	const n = 20_000
	some(tr, n)
	c := tr.Counts()
	if c.Overflowed == 0 || c.Overflowed > n-500 || c.Exported != 0 {
		t.Errorf("%+v", c)
	}
	tr = tracing.New(tracing.Config{})
	some(tr, n) // while nobody runs it
	if c = tr.Counts(); c.Waiting+int(c.Overflowed) != n || c.Waiting > 2000 {
		t.Errorf("%+v", c)
	}
}

// TestEndWithCollectorSilent: the end does not wait for an export under way.
func TestEndWithCollectorSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tr := tracing.New(tracing.Config{Logger: slog.New(slog.DiscardHandler), Resource: func() []tracing.Attribute { return nil }, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tr.Run(ctx) }()
	tr.Hurry()
	some(tr, 1)
	eventually(t, "an export is under way", func() bool { return tr.Counts().Requests == 1 })
	cancel(errors.New("the test is over"))
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the end waits for the collector")
	}
}

// TestEndAllocatesNothing: a sampled request costs its span and its fields, not
// the encoding.
func TestEndAllocatesNothing(t *testing.T) {
	tr := tracing.New(tracing.Config{})
	some(tr, 5000) // the buffer has its size
	var p tracing.Parent
	s, e := tr.Begin(&p), entry()
	e.Server = true
	if n := testing.AllocsPerRun(100, func() { tr.End(s, e) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
