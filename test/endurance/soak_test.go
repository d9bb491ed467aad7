package endurance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// soaked is a server and the Service that leads to it.
const soaked = `apiVersion: v1
kind: Pod
metadata:
  name: server
  namespace: default
  labels: {app: server}
  annotations: {tunmesh.io/inject: enabled}
spec:
  containers:
    - name: app
      image: load
      command: [load, serve, "http1=0.0.0.0:8080", "http2=0.0.0.0:8081", "echo=0.0.0.0:7000"]
      readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata:
  name: server
  namespace: default
spec:
  clusterIP: 10.96.0.88
  selector: {app: server}
  ports: [{name: http, port: 8080}, {name: grpc, port: 8081}, {name: echo, port: 7000}]
`

// The requests of one second: 1,000 with the 15 of endure churn.
const (
	serviceIP = "10.96.0.88"
	rateHTTP1 = 500
	rateGRPC  = 485
	connsH1   = 16
	connsGRPC = 4
)

// loaded is what load prints.
type loaded struct {
	All    int     `json:"all"`
	Failed int     `json:"failed"`
	P50    float64 `json:"p50_us"`
	P99    float64 `json:"p99_us"`
	P999   float64 `json:"p999_us"`
	Max    float64 `json:"max_us"`
}

// churned is what endure churn prints.
type churned struct {
	HTTP1      int      `json:"http1"`
	HTTP2      int      `json:"http2"`
	HTTP2Conns int      `json:"http2_conns"`
	Bytes      int      `json:"bytes"`
	ByteConns  int      `json:"byte_conns"`
	Trips      int      `json:"trips"`
	Failures   []string `json:"failures"`
}

// figures are what is looked at, with what may be added to each over the whole
// run, by the slope and by the medians of the halves.
var figures = []struct { //nolint:gochecknoglobals // a table
	name  string
	most  float64
	short float64 // in a run of less than ten minutes, in which memory still finds its size
}{
	{"rss_mb", 1, 2},
	{"heap_mb", 0.5, 1},
	{"goroutines", 2, 2},
	{"fds", 2, 2},
	{"threads", 1, 2},
	{"tcp", 4, 4},
	{"label_sets", 2, 2},
}

// sidecar is one that is watched.
type sidecar struct {
	pod, ip string
	pid     int
	s       map[string]*series
}

// look takes a sample.
func (s *sidecar) look(client *http.Client, at time.Duration) error {
	page, err := metrics(client, s.ip)
	if err != nil {
		return err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return fmt.Errorf("the sidecar of %s has ended: %w", s.pod, err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	if err != nil {
		return err
	}
	v := map[string]float64{
		"heap_mb": float64(sum(page, "go_gc_heap_live_bytes")) / 1e6, "goroutines": float64(sum(page, "go_goroutines")), "fds": float64(len(fds)),
		"tcp": float64(sum(page, "netstack_tcp_connections")), "label_sets": float64(sum(page, "telemetry_label_sets")),
	}
	for line := range strings.Lines(string(status)) {
		var n float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &n); err == nil {
			v["rss_mb"] = n / 1000
		}
		if _, err := fmt.Sscanf(line, "Threads: %f", &n); err == nil {
			v["threads"] = n
		}
	}
	for name, x := range v {
		if s.s[name] == nil {
			s.s[name] = &series{}
		}
		s.s[name].add(at, x)
	}
	return nil
}

// TestSoak asks 1,000 times a second, with connections that come and go, and
// nothing else happens. Neither sidecar may grow, and each has counted every
// request, connection and byte that the client has.
func TestSoak(t *testing.T) {
	d := length(t, "TUNMESH_SOAK", 40*time.Second)
	m := meshtest.Up(t, bin, "soak", soaked, meshtest.Client("client", true, ""))
	node := onNode(t, m)
	var sides []*sidecar
	for _, pod := range []string{"client", "server"} {
		p := m.Pod(t, pod)
		sides = append(sides, &sidecar{pod: pod, ip: p.IP, pid: p.PIDs["mesh-proxy"], s: map[string]*series{}})
	}
	// A probe may have come before the server listened.
	errorsBefore := 0
	for _, s := range sides {
		page, err := metrics(node, s.ip)
		if err != nil {
			t.Fatal(err)
		}
		errorsBefore += int(meshErrors(page))
	}
	ctx, cancel := context.WithTimeout(t.Context(), d+2*time.Minute)
	defer cancel()
	h1 := begin(ctx, t, m, "load", "http1", "--finish", "--rate", fmt.Sprint(rateHTTP1), "--conns", fmt.Sprint(connsH1), "--duration", d.String(), serviceIP+":8080")
	rpc := begin(ctx, t, m, "load", "grpc", "--finish", "--rate", fmt.Sprint(rateGRPC), "--conns", fmt.Sprint(connsGRPC), "--streams", "16", "--duration", d.String(), serviceIP+":8081")
	churn := begin(ctx, t, m, "endure", "churn", "--duration", d.String(), "--http1", serviceIP+":8080", "--http2", serviceIP+":8081", "--echo", serviceIP+":7000")

	tell := pressure(t)
	every := min(10*time.Second, d/40)
	start := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range tick.C {
		at := time.Since(start)
		if at > d {
			break
		}
		for _, s := range sides {
			if err := s.look(node, at); err != nil {
				t.Fatalf("after %v: %v", at, err)
			}
		}
	}
	web, calls, c := end[loaded](t, h1), end[loaded](t, rpc), end[churned](t, churn)
	tell()
	for what, r := range map[string]loaded{"HTTP/1.1": web, "gRPC": calls} {
		t.Logf("%s: %d answered, %d failed; p50 %.0f µs, p99 %.0f µs, p99.9 %.0f µs, longest %.0f µs", what, r.All, r.Failed, r.P50, r.P99, r.P999, r.Max)
		if r.Failed > 0 {
			t.Errorf("%s: %d requests failed", what, r.Failed)
		}
	}
	t.Logf("new connections: %d of HTTP/1.1, %d of HTTP/2 with %d requests, %d of bytes with %d round trips", c.HTTP1, c.HTTP2Conns, c.HTTP2, c.ByteConns, c.Trips)
	if len(c.Failures) > 0 {
		t.Errorf("failed on new connections: %q", c.Failures)
	}
	if all, want := web.All+calls.All+c.HTTP1+c.HTTP2, int(d.Seconds()*1000); all < want*95/100 {
		t.Errorf("only %d requests in %v, want %d", all, d, want)
	}
	judgeGrowth(t, sides, d)
	judgeCounts(t, node, sides, errorsBefore, web, calls, c)
}

// judgeGrowth leaves the first fifth out, in which caches and pools fill.
func judgeGrowth(t *testing.T, sides []*sidecar, d time.Duration) {
	t.Helper()
	warm := d / 5
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-8s %-11s %9s %9s %9s %9s %9s %9s %9s", "sidecar", "figure", "first", "after 1/5", "last", "highest", "slope×run", "halves", "may be")
	for _, s := range sides {
		for _, f := range figures {
			all := *s.s[f.name]
			late := all.since(warm)
			most := f.most
			if d < 10*time.Minute {
				most = f.short
			}
			highest := all.v[0]
			for _, v := range all.v {
				highest = max(highest, v)
			}
			grew, step := late.growth(), late.step()
			fmt.Fprintf(&b, "\n%-8s %-11s %9.2f %9.2f %9.2f %9.2f %+9.2f %+9.2f %9.2f", s.pod, f.name, all.v[0], late.v[0], late.v[len(late.v)-1], highest, grew, step, most)
			// In a short run on a busy machine pools breathe for as long as it lasts; what
			// leaks never comes down to where it was.
			breathes := d < 10*time.Minute && !late.parted()
			if !breathes && (grew > most || step > most) {
				t.Errorf("the %s's sidecar: %s grew by %.2f (slope) and %.2f (halves), want at most %.2f", s.pod, f.name, grew, step, most)
			}
		}
	}
	t.Log(b.String())
}

// meshErrors are the requests and connections that a sidecar gave up itself.
func meshErrors(page string) (n int64) {
	for _, family := range []string{"inbound_http_errors_total", "outbound_http_errors_total", "inbound_tcp_errors_total", "outbound_tcp_errors_total"} {
		n += sum(page, family)
	}
	return n
}

// judgeCounts compares what both sidecars counted with what the client did.
func judgeCounts(t *testing.T, node *http.Client, sides []*sidecar, errorsBefore int, web, calls loaded, c churned) {
	t.Helper()
	type row struct {
		what  string
		want  int
		value func(page map[string]string) int64
	}
	count := func(pod, family string, parts ...string) func(map[string]string) int64 {
		return func(page map[string]string) int64 { return sum(page[pod], family, parts...) }
	}
	requests := map[string]int{"8080": web.All + c.HTTP1, "8081": calls.All + c.HTTP2}
	var rows []row
	for _, side := range []struct{ pod, direction string }{{"client", `direction="outbound"`}, {"server", `direction="inbound"`}} {
		who := []string{side.direction, `tls="true"`} // probes of the node are plain
		at := func(more ...string) []string { return append(append([]string(nil), who...), more...) }
		for port, n := range requests {
			p := `target_port="` + port + `"`
			rows = append(rows,
				row{side.pod + " request_total " + port, n, count(side.pod, "request_total", at(p)...)},
				row{side.pod + " response_total " + port, n, count(side.pod, "response_total", at(p)...)},
				row{side.pod + " … of them good", n, count(side.pod, "response_total", at(p, `status_code="200"`, `classification="success"`)...)},
				row{side.pod + " response_latency_ms_count " + port, n, count(side.pod, "response_latency_ms_count", at(p)...)})
		}
		rows = append(rows, row{side.pod + " … with grpc_status 0", calls.All, count(side.pod, "response_total", at(`grpc_status="0"`)...)})
	}
	app := func(family, port string, more ...string) func(map[string]string) int64 {
		return count("client", family, append([]string{`direction="outbound"`, `peer="src"`, `target_port="` + port + `"`}, more...)...)
	}
	echo := func(family, peer string) func(map[string]string) int64 {
		return count("server", family, `direction="inbound"`, `peer="`+peer+`"`, `target_port="7000"`)
	}
	for _, family := range []string{"tcp_open_total", "tcp_close_total"} {
		rows = append(rows,
			row{"client " + family + " 8080", connsH1 + c.HTTP1, app(family, "8080")},
			row{"client " + family + " 8081", connsGRPC + c.HTTP2Conns, app(family, "8081")},
			row{"client " + family + " 7000", c.ByteConns, app(family, "7000")},
			row{"server " + family + " 7000", c.ByteConns, echo(family, "dst")})
	}
	for _, family := range []string{"tcp_read_bytes_total", "tcp_write_bytes_total"} {
		rows = append(rows, row{"client " + family + " 7000", c.Bytes, app(family, "7000")}, row{"server " + family + " 7000", c.Bytes, echo(family, "dst")})
	}
	rows = append(rows,
		row{"client open connections", 0, count("client", "tcp_open_connections", `direction="outbound"`, `peer="src"`)},
		row{"requests sent again", 0, count("client", "outbound_http_route_retry_requests_total")},
		// Those from before may have been let go of meanwhile, as what is not used for ten minutes.
		row{"errors of the mesh", 0, func(p map[string]string) int64 {
			return max(0, meshErrors(p["client"])+meshErrors(p["server"])-int64(errorsBefore))
		}},
		row{"client bytes held by HTTP", 0, count("client", "held_bytes", `layer="http"`)},
		row{"server bytes held by HTTP", 0, count("server", "held_bytes", `layer="http"`)})

	page := map[string]string{}
	wrong := func() (bad []string) {
		for _, s := range sides {
			p, err := metrics(node, s.ip)
			if err != nil {
				return []string{err.Error()}
			}
			page[s.pod] = p
		}
		for _, r := range rows {
			if got := r.value(page); got != int64(r.want) {
				bad = append(bad, fmt.Sprintf("%s: %d, the client says %d", r.what, got, r.want))
			}
		}
		return bad
	}
	bad := wrong()
	for end := time.Now().Add(10 * time.Second); len(bad) > 0 && time.Now().Before(end); bad = wrong() {
		time.Sleep(200 * time.Millisecond) // connections of the client's that are just closing
	}
	for _, b := range bad {
		t.Error(b)
	}
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "\n%-40s %10d %10d", r.what, r.value(page), r.want)
	}
	t.Logf("counted by the sidecars, and by the client:%s", &b)
}

// begun is a command that runs in the client's pod.
type begun struct {
	what string
	cmd  *exec.Cmd
	out  bytes.Buffer
}

func begin(ctx context.Context, t *testing.T, m *meshtest.Mesh, command ...string) *begun {
	t.Helper()
	b := &begun{what: strings.Join(command[:2], " "), cmd: m.Command(ctx, append([]string{"local", "exec", "client", "--"}, command...)...)}
	b.cmd.WaitDelay = 5 * time.Second
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return b
}

// end waits for a command and decodes what it printed.
func end[T any](t *testing.T, b *begun) (v T) {
	t.Helper()
	err := b.cmd.Wait()
	if err == nil {
		err = json.Unmarshal(bytes.TrimSpace(b.out.Bytes()), &v)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", b.what, err, &b.out)
	}
	return v
}
