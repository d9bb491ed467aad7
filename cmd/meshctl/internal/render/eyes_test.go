package render_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/top"
)

func text(t *testing.T, print func(b *strings.Builder) error) string {
	t.Helper()
	var b strings.Builder
	if err := print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// golden compares; $ at a line's end in want makes spaces before it visible.
func golden(t *testing.T, what, got, want string) {
	t.Helper()
	if got != strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "$\n", "\n") {
		t.Errorf("%s:\n%s\nwant:%s", what, got, want)
	}
}

// Kinds that policy and routes bring have Linkerd's columns.
func TestStatOfPolicyKinds(t *testing.T) {
	kind := func(k string, change func(*query.StatRow)) *query.StatRow {
		r := emoji(change)
		r.Kind = k
		return r
	}
	golden(t, "server", stat(t, render.StatOptions{}, kind("server", func(r *query.StatRow) { r.UnauthorizedRps = 0.5 })), `
NAME    UNAUTHORIZED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
emoji         0.5rps   100.00%   2.0rps         123ms         123ms         123ms        123   100%
`)
	golden(t, "route", stat(t, render.StatOptions{Namespace: true}, kind("httproute", func(r *query.StatRow) { r.Server = "emoji-http" }),
		&query.StatRow{Namespace: "emojivoto", Kind: "httproute", Name: "quiet", Server: "emoji-http"}), `
NAMESPACE   NAME    SERVER       UNAUTHORIZED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
emojivoto   emoji   emoji-http         0.0rps   100.00%   2.0rps         123ms         123ms         123ms   100%
emojivoto   quiet   emoji-http              -         -        -             -             -             -      -
`)
	for _, k := range []string{"serverauthorization", "authorizationpolicy"} {
		golden(t, k, stat(t, render.StatOptions{}, kind(k, nil)), `
NAME    SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
emoji   100.00%   2.0rps         123ms         123ms         123ms   100%
`)
	}
	golden(t, "split", stat(t, render.StatOptions{}, kind("trafficsplit", func(r *query.StatRow) { r.Apex, r.Leaf, r.Weight = "apex", "leaf-1", "500m" })), `
NAME    APEX   LEAF     WEIGHT   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
emoji   apex   leaf-1     500m   100.00%   2.0rps         123ms         123ms         123ms   100%
`)
	golden(t, "authority", stat(t, render.StatOptions{}, kind("authority", nil)), `
NAME    MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
emoji        -   100.00%   2.0rps         123ms         123ms         123ms          -   100%
`)
	golden(t, "an authority that a hostile client made up", stat(t, render.StatOptions{}, kind("authority", func(r *query.StatRow) { r.Name = "<b>\x1b[2J" })), `
NAME         MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
<b>\x1b[2J        -   100.00%   2.0rps         123ms         123ms         123ms          -   100%
`)
}

// A table that is too wide for the terminal is drawn tighter.
func TestStatFits(t *testing.T) {
	long := emoji(func(r *query.StatRow) { r.Name = "a-name-of-a-deployment-that-is-long" })
	for _, width := range []int{70, 80, 200} {
		widest := 0
		for line := range strings.Lines(stat(t, render.StatOptions{Width: width}, long)) {
			widest = max(widest, len([]rune(line))-1)
		}
		if widest > width {
			t.Errorf("%d columns of %d", widest, width)
		}
	}
	golden(t, "80 columns", stat(t, render.StatOptions{Width: 80}, long), `
NAME                       MESHED SUCCESS    RPS   P50   P95   P99 TCP_CONN  TLS
a-name-of-a-d…that-is-long    1/2 100.00% 2.0rps 123ms 123ms 123ms      123 100%
`)
	golden(t, "wide terminal", stat(t, render.StatOptions{Width: 200}, emoji(nil)), stat(t, render.StatOptions{}, emoji(nil)))
}

func TestEdges(t *testing.T) {
	end := func(kind, ns, name string) *query.EdgeEnd {
		return &query.EdgeEnd{Kind: kind, Namespace: ns, Name: name}
	}
	edges := []*query.Edge{
		{Src: end("deployment", "emojivoto", "vote-bot"), Dst: end("deployment", "emojivoto", "web"), ClientId: "default.emojivoto.sa.cluster.local", ServerId: "web.emojivoto.sa.cluster.local", SuccessCount: 3, FailureCount: 1, Rps: 2, LatencyMsP99: 9.6},
		{Src: end("deployment", "emojivoto", "web"), Dst: end("statefulset", "data", "db"), NoTlsReason: "not_provided_by_service_discovery"},
	}
	golden(t, "table", text(t, func(b *strings.Builder) error { return render.Edges(b, edges, "deployment", false) }), `
SRC        DST              SRC_NS      DST_NS      SECURED                          $
vote-bot   web              emojivoto   emojivoto   √                                $
web        statefulset/db   emojivoto   data        not_provided_by_service_discovery$
`)
	golden(t, "wide", text(t, func(b *strings.Builder) error { return render.Edges(b, edges, "deployment", true) }), `
SRC        DST              SRC_NS      DST_NS      CLIENT_ID           SERVER_ID       SECURED                          $
vote-bot   web              emojivoto   emojivoto   default.emojivoto   web.emojivoto   √                                $
web        statefulset/db   emojivoto   data                                            not_provided_by_service_discovery$
`)
	golden(t, "secured alone", text(t, func(b *strings.Builder) error { return render.Edges(b, edges[:1], "deployment", false) }), `
SRC        DST   SRC_NS      DST_NS      SECURED$
vote-bot   web   emojivoto   emojivoto   √      $
`)
	golden(t, "none", text(t, func(b *strings.Builder) error { return render.Edges(b, nil, "pod", false) }), "No edges found.\n")
	golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.EdgesJSON(b, edges) }), `
[
  {
    "src": "vote-bot",
    "src_namespace": "emojivoto",
    "dst": "web",
    "dst_namespace": "emojivoto",
    "client_id": "default.emojivoto",
    "server_id": "web.emojivoto",
    "no_tls_reason": "",
    "src_kind": "deployment",
    "dst_kind": "deployment",
    "success": 0.75,
    "rps": 2,
    "latency_ms_p50": 0,
    "latency_ms_p95": 0,
    "latency_ms_p99": 10,
    "tcp_open_connections": 0,
    "tcp_read_bytes_rate": 0,
    "tcp_write_bytes_rate": 0
  },
  {
    "src": "web",
    "src_namespace": "emojivoto",
    "dst": "db",
    "dst_namespace": "data",
    "client_id": "",
    "server_id": "",
    "no_tls_reason": "not_provided_by_service_discovery",
    "src_kind": "deployment",
    "dst_kind": "statefulset",
    "success": null,
    "rps": null,
    "latency_ms_p50": null,
    "latency_ms_p95": null,
    "latency_ms_p99": null,
    "tcp_open_connections": 0,
    "tcp_read_bytes_rate": 0,
    "tcp_write_bytes_rate": 0
  }
]
`)
	golden(t, "no JSON", text(t, func(b *strings.Builder) error { return render.EdgesJSON(b, nil) }), "[]\n")
}

func TestConnections(t *testing.T) {
	r := &query.ConnectionsResponse{Total: 5, Rows: []*query.ConnectionRow{
		{Peer: "emojivoto/vote-bot-1", Connection: &tap.Connection{Direction: "inbound", Protocol: "http/2", Local: "10.0.0.1:8080", Remote: "10.0.0.2:40000", AgeUs: 3 * 24 * 3600e6, RttUs: 85, BytesIn: 999, BytesOut: 1_250_000, Labels: map[string]string{"tls": "true"}}},
		{Peer: "data/db-0", Connection: &tap.Connection{Direction: "outbound", Protocol: "opaque", Remote: "10.0.0.3:5432", AgeUs: 90e6, RttUs: 12345, Retransmits: 3, BytesIn: 2_000_000_000_000_000, Labels: map[string]string{"tls": "no_identity", "no_tls_reason": "not_provided_by_service_discovery"}}},
		{Connection: &tap.Connection{Direction: "outbound", Protocol: "tls", Remote: "[2001:db8::1]:443", AgeUs: 1500e3}},
	}}
	golden(t, "table", text(t, func(b *strings.Builder) error { return render.Connections(b, r) }), `
DIRECTION   PROTOCOL   PEER                   REMOTE              SECURED                              AGE      RTT   RETRANSMITS       READ   WRITTEN
inbound     http/2     emojivoto/vote-bot-1   10.0.0.2:40000      √                                     3d     85µs             0       999B     1.2MB
outbound    opaque     data/db-0              10.0.0.3:5432       not_provided_by_service_discovery    90s   12.3ms             3   2000.0TB        0B
outbound    tls        -                      [2001:db8::1]:443   -                                   1.5s        -             0         0B        0B
`)
	golden(t, "none", text(t, func(b *strings.Builder) error { return render.Connections(b, nil) }), "No connections found.\n")
	golden(t, "no JSON", text(t, func(b *strings.Builder) error { return render.ConnectionsJSON(b, nil) }), "{\n  \"connections\": [],\n  \"total\": 0\n}\n")
	golden(t, "JSON", text(t, func(b *strings.Builder) error {
		return render.ConnectionsJSON(b, &query.ConnectionsResponse{Rows: r.GetRows()[1:2], Total: 5})
	}), `
{
  "connections": [
    {
      "direction": "outbound",
      "protocol": "opaque",
      "local": "",
      "remote": "10.0.0.3:5432",
      "peer": "data/db-0",
      "age_seconds": 90,
      "rtt_ms": 12.345,
      "bytes_in": 2000000000000000,
      "bytes_out": 0,
      "retransmits": 3,
      "timeouts": 0,
      "out_of_order": 0,
      "zero_windows": 0,
      "dropped": 0,
      "labels": {
        "no_tls_reason": "not_provided_by_service_discovery",
        "tls": "no_identity"
      }
    }
  ],
  "total": 5
}
`)
}

func TestRoutes(t *testing.T) {
	in := []*query.RouteRow{
		{Namespace: "a", Name: "web", Port: 8080, SuccessCount: 3, FailureCount: 1, Rps: 0.25, LatencyMsP50: 1, LatencyMsP95: 2, LatencyMsP99: 3},
		{Namespace: "a", Name: "web", Port: 9090, Parent: "metrics", Route: "get", RouteKind: "HTTPRoute", SuccessCount: 1, Rps: 1, LatencyMsP50: 1, LatencyMsP95: 1, LatencyMsP99: 1},
	}
	golden(t, "inbound", text(t, func(b *strings.Builder) error { return render.Routes(b, in, false) }), `
NAME  SERVER          ROUTE      TYPE       SUCCESS   RPS  LATENCY_P50  LATENCY_P95  LATENCY_P99  $
web   [default]:8080  [default]              75.00%  0.25          1ms          2ms          3ms  $
web   metrics:9090    get        HTTPRoute  100.00%  1.00          1ms          1ms          1ms  $
`)
	golden(t, "inbound JSON", text(t, func(b *strings.Builder) error { return render.RoutesJSON(b, in[1:], false) }), `
[
  {
    "namespace": "a",
    "name": "web",
    "server": "metrics",
    "port": "9090",
    "route": "get",
    "routeType": "HTTPRoute",
    "successRate": 1,
    "successesRate": 1,
    "rps": 1,
    "latencyMsP50": 1,
    "latencyMsP95": 1,
    "latencyMsP99": 1
  }
]
`)
	out := []*query.RouteRow{{
		Namespace: "a", Name: "web", Parent: "emoji-svc.a", Port: 8080, SuccessCount: 4, Rps: 2, LatencyMsP50: 1, LatencyMsP95: 2, LatencyMsP99: 3, TimeoutCount: 1, RetryCount: 4,
		Backends: []*query.RouteRow{
			{Namespace: "a", Name: "web", Parent: "emoji-svc.a", Port: 8080, SuccessCount: 4, FailureCount: 4, TimeoutCount: 2, Rps: 2.5, LatencyMsP50: 1, LatencyMsP95: 2, LatencyMsP99: 3},
			{Namespace: "a", Name: "web", Parent: "emoji.b", Port: 80, SuccessCount: 1, Rps: 0.5, LatencyMsP50: 1, LatencyMsP95: 2, LatencyMsP99: 3},
		},
	}}
	golden(t, "outbound", text(t, func(b *strings.Builder) error { return render.Routes(b, out, true) }), `
NAME  SERVICE         ROUTE      TYPE       BACKEND         SUCCESS   RPS  LATENCY_P50  LATENCY_P95  LATENCY_P99  TIMEOUTS  RETRIES  $
web   emoji-svc:8080  [default]                             100.00%  2.00          1ms          2ms          3ms    25.00%   50.00%  $
                      ├──────────────────►  emoji-svc:8080   50.00%  2.50          1ms          2ms          3ms    25.00%           $
                      └──────────────────►  emoji.b:80      100.00%  0.50          1ms          2ms          3ms     0.00%           $
`)
	golden(t, "outbound without backends", text(t, func(b *strings.Builder) error {
		return render.Routes(b, []*query.RouteRow{{Namespace: "a", Name: "web", Parent: "emoji-svc.a", Port: 80, FailureCount: 1, Rps: 1, RouteKind: "HTTPRoute", Route: "get"}}, true)
	}), `
NAME  SERVICE       ROUTE  TYPE       BACKEND  SUCCESS   RPS  LATENCY_P50  LATENCY_P95  LATENCY_P99  TIMEOUTS  RETRIES  $
web   emoji-svc:80  get    HTTPRoute             0.00%  1.00          0ms          0ms          0ms     0.00%    0.00%  $
`)
	golden(t, "none", text(t, func(b *strings.Builder) error { return render.Routes(b, nil, true) }), "No traffic found.\n")
	golden(t, "outbound JSON", text(t, func(b *strings.Builder) error { return render.RoutesJSON(b, out, true) }), `
[
  {
    "namespace": "a",
    "name": "web",
    "service": "emoji-svc",
    "port": "8080",
    "route": "[default]",
    "routeType": "",
    "successRate": 1,
    "rps": 2,
    "latencyMsP50": 1,
    "latencyMsP95": 2,
    "latencyMsP99": 3,
    "timeoutRate": 0.25,
    "retryRate": 0.5
  },
  {
    "namespace": "a",
    "name": "web",
    "service": "emoji-svc",
    "port": "8080",
    "route": "[default]",
    "routeType": "",
    "backend": "emoji-svc",
    "backendPort": "8080",
    "successRate": 0.5,
    "rps": 2.5,
    "latencyMsP50": 1,
    "latencyMsP95": 2,
    "latencyMsP99": 3,
    "timeoutRate": 0.25
  },
  {
    "namespace": "a",
    "name": "web",
    "service": "emoji-svc",
    "port": "8080",
    "route": "[default]",
    "routeType": "",
    "backend": "emoji.b",
    "backendPort": "80",
    "successRate": 1,
    "rps": 0.5,
    "latencyMsP50": 1,
    "latencyMsP95": 2,
    "latencyMsP99": 3,
    "timeoutRate": 0
  }
]
`)
	golden(t, "no JSON", text(t, func(b *strings.Builder) error { return render.RoutesJSON(b, nil, true) }), "[]\n")
}

func TestTaps(t *testing.T) {
	rows := []*query.TapsRow{
		{Namespace: "a", Pod: "p1", State: query.TapsRow_ENABLED}, {Namespace: "a", Pod: "p2", State: query.TapsRow_NOT_CONNECTED},
		{Namespace: "b", Pod: "p3", State: query.TapsRow_DISABLED}, {Namespace: "b", Pod: "p4", State: query.TapsRow_ENABLED},
	}
	golden(t, "list", text(t, func(b *strings.Builder) error { return render.Taps(b, rows) }), `
Pods with tap enabled:
	* a/p1
	* b/p4
Pods with tap disabled:
	* b/p3
Pods whose sidecar is not connected to the control plane:
	* a/p2
`)
	golden(t, "none", text(t, func(b *strings.Builder) error { return render.Taps(b, nil) }), "No meshed pods found\n")
	golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.TapsJSON(b, rows[:3]) }), `
[
  {
    "namespace": "a",
    "pod": "p1",
    "tap": "enabled"
  },
  {
    "namespace": "a",
    "pod": "p2",
    "tap": "not connected"
  },
  {
    "namespace": "b",
    "pod": "p3",
    "tap": "disabled"
  }
]
`)
	golden(t, "no JSON", text(t, func(b *strings.Builder) error { return render.TapsJSON(b, nil) }), "[]\n")
}

func TestTop(t *testing.T) {
	rows := []top.Row{{Key: top.Key{Source: "web-1", Destination: "emoji-1", Method: "POST", Path: "/emojivoto.v1.EmojiService/ListAll"}, Count: 21, Succeeded: 20, Best: 471 * time.Microsecond, Worst: 12345 * time.Microsecond, Last: 1234567 * time.Microsecond}}
	golden(t, "top", text(t, func(b *strings.Builder) error { return render.Top(b, rows, render.TopOptions{}) }), `
Source   Destination   Method   Path                                 Count    Best   Worst    Last   Success Rate
web-1    emoji-1       POST     /emojivoto.v1.EmojiService/ListAll      21   471µs    12ms   1.23s         95.24%
`)
	golden(t, "80 columns", text(t, func(b *strings.Builder) error { return render.Top(b, rows, render.TopOptions{Width: 80}) }), `
Source Destination Method Path              Count  Best Worst  Last Success Rate
web-1  emoji-1     POST   /emojivo…/ListAll    21 471µs  12ms 1.23s       95.24%
`)
	golden(t, "routes", text(t, func(b *strings.Builder) error {
		return render.Top(b, rows[:0], render.TopOptions{Routes: true, HideSources: true})
	}), `
Destination   Route   Count   Best   Worst   Last   Success Rate
`)
	golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.TopJSON(b, rows) }), `
[
  {
    "source": "web-1",
    "destination": "emoji-1",
    "method": "POST",
    "path": "/emojivoto.v1.EmojiService/ListAll",
    "count": 21,
    "best_us": 471,
    "worst_us": 12345,
    "last_us": 1234567,
    "success": 0.9523809523809523
  }
]
`)
	golden(t, "no JSON", text(t, func(b *strings.Builder) error { return render.TopJSON(b, nil) }), "[]\n")
	if got := render.Crop("abc\ndefg\nhi\n", 3, 2); len(got) != 2 || got[1] != "de…" {
		t.Errorf("%q", got)
	}
}

func TestWhy(t *testing.T) {
	resp := &query.WhyResponse{Verdict: query.WhyResponse_FAILS, Summary: "A connection would fail.", Reasons: []*query.Reason{
		{Subject: "name", Mark: query.Reason_OK, Text: "It is web."}, {Subject: "identity", Mark: query.Reason_NOTE, Text: "None."}, {Subject: "policy", Mark: query.Reason_BAD, Text: "No.\x1b[2J"},
	}}
	golden(t, "text", text(t, func(b *strings.Builder) error { return render.Why(b, resp) }), `
√ name      It is web.
‼ identity  None.
× policy    No.\x1b[2J

A connection would fail.
`)
	golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.WhyJSON(b, resp) }), `
{
  "verdict": "fails",
  "summary": "A connection would fail.",
  "reasons": [
    {
      "subject": "name",
      "mark": "ok",
      "text": "It is web."
    },
    {
      "subject": "identity",
      "mark": "note",
      "text": "None."
    },
    {
      "subject": "policy",
      "mark": "bad",
      "text": "No.\u001b[2J"
    }
  ]
}
`)
}

func TestTapPath(t *testing.T) {
	e := event(func(e *tap.Event) {
		e.Phase = &tap.Event_End{End: &tap.End{GrpcStatus: proto.Uint32(0), ResponseBytes: 7}}
	})
	for template, want := range map[string]string{
		"{.source.ip}:{.source.port}":       "10.0.0.1:5000\n",
		"{.responseEndEvent.responseBytes}": "7\n",
		"{.requestInitEvent.path}":          "", // this event has none
	} {
		p, err := render.NewTapPath(template)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := p.Print(&b, e); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v", template, b.String(), err)
		}
	}
	if _, err := render.NewTapPath("{.a"); err == nil {
		t.Error("half a template was taken")
	}
}
