package render_test

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func emoji(change func(*query.StatRow)) *query.StatRow {
	r := &query.StatRow{
		Namespace: "emojivoto", Kind: "deployment", Name: "emoji", MeshedPods: 1, RunningPods: 2,
		SuccessCount: 120, Rps: 2, LatencyMsP50: 123, LatencyMsP95: 123, LatencyMsP99: 123,
		TcpOpenConnections: 123, TcpReadBytesRate: 123, TcpWriteBytesRate: 123.44, Tls: proto.Float64(1), HasTraffic: true,
	}
	if change != nil {
		change(r)
	}
	return r
}

func stat(t *testing.T, o render.StatOptions, rows ...*query.StatRow) string {
	t.Helper()
	var b strings.Builder
	if err := render.Stat(&b, rows, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestStatIsLinkerdsTablePlusTLS(t *testing.T) {
	for name, c := range map[string]struct {
		got, want string
	}{
		"deployment": {stat(t, render.StatOptions{}, emoji(nil)), `
NAME    MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
emoji      1/2   100.00%   2.0rps         123ms         123ms         123ms        123   100%
`},
		"pod": {stat(t, render.StatOptions{}, emoji(func(r *query.StatRow) { r.Kind, r.Status, r.RunningPods = "pod", "Running", 1 })), `
NAME     STATUS   MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
emoji   Running      1/1   100.00%   2.0rps         123ms         123ms         123ms        123   100%
`},
		"wide": {stat(t, render.StatOptions{Wide: true}, emoji(nil)), `
NAME    MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC    TLS
emoji      1/2   100.00%   2.0rps         123ms         123ms         123ms        123         123.0B/s          123.4B/s   100%
`},
		"all namespaces, no traffic": {stat(t, render.StatOptions{Namespace: true}, emoji(nil), emoji(func(r *query.StatRow) {
			*r = query.StatRow{Namespace: "x", Kind: "deployment", Name: "quiet", RunningPods: 1}
		})), `
NAMESPACE   NAME    MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
emojivoto   emoji      1/2   100.00%   2.0rps         123ms         123ms         123ms        123   100%
x           quiet      0/1         -        -             -             -             -          -      -
`},
		"service": {stat(t, render.StatOptions{}, emoji(func(r *query.StatRow) {
			r.Kind, r.SuccessCount, r.FailureCount, r.Tls = "service", 90, 30, proto.Float64(0.9999)
		})), `
NAME    MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   TLS
emoji        -    75.00%   2.0rps         123ms         123ms         123ms          -   99%
`},
		"bytes only": {stat(t, render.StatOptions{}, emoji(func(r *query.StatRow) { r.SuccessCount = 0 })), `
NAME    MESHED   SUCCESS   RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
emoji      1/2         -     -             -             -             -        123   100%
`},
		"several kinds, all namespaces, wide": {stat(t, render.StatOptions{Namespace: true, Wide: true}, emoji(nil), emoji(func(r *query.StatRow) {
			r.Kind, r.Name, r.Status, r.RunningPods = "pod", "emoji-7d9c5", "Running", 1
		}), emoji(func(r *query.StatRow) { r.Kind, r.Name = "service", "emoji-svc" })), `
NAMESPACE   NAME             MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC    TLS
emojivoto   deploy/emoji        1/2   100.00%   2.0rps         123ms         123ms         123ms        123         123.0B/s          123.4B/s   100%

NAMESPACE   NAME              STATUS   MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC    TLS
emojivoto   po/emoji-7d9c5   Running      1/1   100.00%   2.0rps         123ms         123ms         123ms        123         123.0B/s          123.4B/s   100%

NAMESPACE   NAME             MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC    TLS
emojivoto   svc/emoji-svc         -   100.00%   2.0rps         123ms         123ms         123ms          -                -                 -   100%
`},
		"all kinds, of which there is one": {stat(t, render.StatOptions{Kinds: true}, emoji(func(r *query.StatRow) { r.Kind = "cronjob" })), `
NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN    TLS
cj/emoji      1/2   100.00%   2.0rps         123ms         123ms         123ms        123   100%
`},
		"nothing": {stat(t, render.StatOptions{}), "\nNo traffic found.\n"},
	} {
		if "\n"+c.got != c.want {
			t.Errorf("%s:\n%s\nwant:%s", name, c.got, c.want)
		}
	}
}

// Every kind that owns pods has the same columns.
func TestStatOfOwners(t *testing.T) {
	for _, kind := range []string{"statefulset", "daemonset", "job", "cronjob", "replicaset", "replicationcontroller", "namespace"} {
		if got, want := stat(t, render.StatOptions{}, emoji(func(r *query.StatRow) { r.Kind = kind })), stat(t, render.StatOptions{}, emoji(nil)); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", kind, got, want)
		}
	}
	for kind, short := range map[string]string{
		"statefulset": "sts", "daemonset": "ds", "job": "job", "cronjob": "cj", "replicaset": "rs", "replicationcontroller": "rc", "namespace": "ns", "authority": "au",
		"server": "srv", "serverauthorization": "saz", "authorizationpolicy": "authzpolicy", "httproute": "httproute", "trafficsplit": "ts",
	} {
		got := stat(t, render.StatOptions{}, emoji(nil), emoji(func(r *query.StatRow) { r.Kind = kind }))
		if !strings.Contains(got, "\ndeploy/emoji ") || !strings.Contains(got, "\n"+short+"/emoji ") || strings.Count(got, "NAME") != 2 {
			t.Errorf("%s:\n%s", kind, got)
		}
	}
}

func TestStatJSON(t *testing.T) {
	var b strings.Builder
	if err := render.StatJSON(&b, []*query.StatRow{emoji(nil), {Namespace: "x", Kind: "service", Name: "quiet"}}); err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(b.String()), &rows); err != nil {
		t.Fatal(err)
	}
	golden(t, "JSON", b.String(), `
[
  {
    "namespace": "emojivoto",
    "kind": "deployment",
    "name": "emoji",
    "meshed": "1/2",
    "success": 1,
    "rps": 2,
    "latency_ms_p50": 123,
    "latency_ms_p95": 123,
    "latency_ms_p99": 123,
    "tcp_open_connections": 123,
    "tcp_read_bytes_rate": 123,
    "tcp_write_bytes_rate": 123.44,
    "tls": 1
  },
  {
    "namespace": "x",
    "kind": "service",
    "name": "quiet",
    "meshed": "-",
    "success": null,
    "rps": null,
    "latency_ms_p50": null,
    "latency_ms_p95": null,
    "latency_ms_p99": null,
    "tcp_open_connections": null,
    "tcp_read_bytes_rate": null,
    "tcp_write_bytes_rate": null,
    "tls": null
  }
]
`)
	for _, k := range []string{"success", "rps", "latency_ms_p50", "tls", "tcp_open_connections"} {
		if v, there := rows[1][k]; !there || v != nil {
			t.Errorf("%s without data: %v, want null", k, v)
		}
	}
	b.Reset()
	if err := render.StatJSON(&b, nil); err != nil || b.String() != "[]\n" {
		t.Errorf("no rows: %q, %v", b.String(), err)
	}
}

func event(phase func(*tap.Event)) *tap.Event {
	e := &tap.Event{
		Base: 1, Stream: 7, Direction: "out", Tls: "true",
		Source:      &tap.Peer{Ip: "10.0.0.1", Port: 5000, Labels: map[string]string{"pod": "web-1", "deployment": "web"}},
		Destination: &tap.Peer{Ip: "ff01::1", Port: 80, Labels: map[string]string{"pod": "emoji-1"}},
		Route:       map[string]string{"route": "default"},
	}
	phase(e)
	return e
}

func TestTapLines(t *testing.T) {
	request := func(e *tap.Event) {
		e.Phase = &tap.Event_Request{Request: &tap.Request{Method: "GET", Authority: "host", Path: "/p", Scheme: "http"}}
	}
	for _, c := range []struct {
		e    *tap.Event
		wide bool
		want string
	}{
		{event(request), false, "req id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true :method=GET :authority=host :path=/p"},
		{event(func(e *tap.Event) { request(e); e.Direction = "in" }), false, "req id=1:7 proxy=in  src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true :method=GET :authority=host :path=/p"},
		{event(request), true, "req id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true :method=GET :authority=host :path=/p src_deployment=web src_pod=web-1 dst_pod=emoji-1 rt_route=default"},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_Response{Response: &tap.Response{Status: 200, SinceRequestUs: 1234}}
		}), false, "rsp id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true :status=200 latency=1234µs"},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_End{End: &tap.End{GrpcStatus: proto.Uint32(0), SinceResponseUs: 12, ResponseBytes: 1337}}
		}), false, "end id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true grpc-status=OK duration=12µs response-length=1337B"},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_End{End: &tap.End{Reset_: proto.Uint32(8), SinceResponseUs: 12, ResponseBytes: 1}}
		}), false, "end id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true reset-error=8 duration=12µs response-length=1B"},
		{event(func(e *tap.Event) { e.Phase = &tap.Event_End{End: &tap.End{SinceResponseUs: 12, ResponseBytes: 1}} }), false, "end id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true duration=12µs response-length=1B"},
		{event(func(*tap.Event) {}), false, "unknown proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true"},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_Request{Request: &tap.Request{Method: "GET", Authority: "h", Path: "/\x1b[2J\n"}}
		}), false, `req id=1:7 proxy=out src=10.0.0.1:5000 dst=[ff01::1]:80 tls=true :method=GET :authority=h :path=/\x1b[2J\n`},
	} {
		if got := render.TapLine(c.e, c.wide); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestTapJSON(t *testing.T) {
	peers := `"source":{"ip":"10.0.0.1","port":5000,"metadata":{"deployment":"web","pod":"web-1"}},"destination":{"ip":"ff01::1","port":80,"metadata":{"pod":"emoji-1"}},"routeMeta":{"route":"default"},"proxyDirection":"OUTBOUND","tls":"true",`
	for _, c := range []struct {
		e    *tap.Event
		want string
	}{
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_Request{Request: &tap.Request{Method: "GET", Scheme: "http", Authority: "h", Path: "/<p>", Headers: []*tap.Field{{Name: "a", Value: []byte("b")}, {Name: "bin", Value: []byte{0xff}}}}}
		}), `"requestInitEvent":{"id":{"base":1,"stream":7},"method":"GET","scheme":"HTTP","authority":"h","path":"/<p>","headers":[{"name":"a","valueStr":"b"},{"name":"bin","valueBin":"/w=="}]}}`},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_Response{Response: &tap.Response{Status: 200, SinceRequestUs: 1_250_000}}
		}), `"responseInitEvent":{"id":{"base":1,"stream":7},"sinceRequestInit":{"seconds":1,"nanos":250000000},"httpStatus":200}}`},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_End{End: &tap.End{SinceRequestUs: 10_000_000, SinceResponseUs: 12, ResponseBytes: 1337, GrpcStatus: proto.Uint32(0), Trailers: []*tap.Field{{Name: "grpc-status", Value: []byte("0")}}}}
		}), `"responseEndEvent":{"id":{"base":1,"stream":7},"sinceRequestInit":{"seconds":10},"sinceResponseInit":{"nanos":12000},"responseBytes":1337,"trailers":[{"name":"grpc-status","valueStr":"0"}],"grpcStatusCode":0}}`},
		{event(func(e *tap.Event) {
			e.Phase = &tap.Event_End{End: &tap.End{Reset_: proto.Uint32(8)}}
		}), `"responseEndEvent":{"id":{"base":1,"stream":7},"sinceRequestInit":{},"sinceResponseInit":{},"responseBytes":0,"resetErrorCode":8}}`},
	} {
		var b strings.Builder
		if err := render.TapJSON(&b, c.e); err != nil {
			t.Fatal(err)
		}
		golden(t, "an event", b.String(), "{"+peers+c.want+"\n")
	}
}
