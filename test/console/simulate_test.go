package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/console"
	"github.com/tunmesh/tunmesh/control/extension"
)

// nasty is what an attacker would have a browser run.
const nasty = `/<img src=x onerror="document.title='owned'">`

// nastily is the same, for a place of its own.
func nastily(place string) string {
	return strings.Replace(nasty[1:], "src=x", "src="+place, 1)
}

// attack is what a tap sees of an attacker: his pod's label, the method and the header
// values of his requests.
func attack(e *tapapi.Event, r *tapapi.Request) {
	e.Source = &tapapi.Peer{Ip: "10.42.0.66", Port: 6666, Labels: map[string]string{"deployment": nastily("label"), "pod": nastily("pod")}}
	e.Tls = nastily("tls")
	r.Method, r.Authority = nastily("method"), nastily("authority")
	r.Headers = []*tapapi.Field{{Name: "user-agent", Value: []byte(nastily("agent"))}}
}

// workload is one of the simulated mesh.
type workload struct {
	kind, namespace, name string
	rps, failures, p99    float64
	pods                  int
	calls                 []int
}

// mesh answers as a mesh would that is as large as a test wants.
type mesh struct {
	extension.Backend // what is not simulated is not asked
	list              []workload
	began             time.Time
	mode              atomic.Value // up, down, empty, forbidden
}

// sample is the sample application, in trouble.
func sample() *mesh {
	m := &mesh{began: time.Now(), list: []workload{
		{kind: "deployment", namespace: "emojivoto", name: "vote-bot", pods: 1, calls: []int{1}},
		{kind: "deployment", namespace: "emojivoto", name: "web", rps: 24.3, failures: 0.071, p99: 38, pods: 2, calls: []int{2, 3}},
		{kind: "deployment", namespace: "emojivoto", name: "voting", rps: 11.8, failures: 0.148, p99: 9, pods: 1, calls: []int{4}},
		{kind: "deployment", namespace: "emojivoto", name: "emoji", rps: 35.6, p99: 4, pods: 2},
		{kind: "statefulset", namespace: "data", name: "votes-db", rps: 11.6, p99: 2, pods: 3},
		{kind: "deployment", namespace: "booksapp", name: "traffic", pods: 1, calls: []int{6}},
		{kind: "deployment", namespace: "booksapp", name: "webapp", rps: 51, failures: 0.004, p99: 62, pods: 3, calls: []int{7, 8}},
		{kind: "deployment", namespace: "booksapp", name: "authors", rps: 33, failures: 0.03, p99: 31, pods: 1, calls: []int{8, 9}},
		{kind: "deployment", namespace: "booksapp", name: "books", rps: 44, failures: 0.002, p99: 27, pods: 2, calls: []int{9}},
		{kind: "statefulset", namespace: "data", name: "books-db", rps: 77, p99: 3, pods: 3},
		{kind: "daemonset", namespace: "logging", name: "shipper", rps: 2.1, p99: 12, pods: 3},
	}}
	m.mode.Store("up")
	return m
}

// large is a mesh of 200 workloads and 2,000 pods.
func large() *mesh {
	m := &mesh{began: time.Now()}
	for i := range 200 {
		w := workload{kind: "deployment", namespace: fmt.Sprintf("team-%02d", i/14), name: fmt.Sprintf("service-%03d", i), rps: float64(5 + i*7%90), p99: float64(3 + i*11%120), pods: 10}
		if i%17 == 3 {
			w.failures = 0.08
		}
		if i%14 < 10 {
			w.calls = append(w.calls, (i+1)%200)
		}
		if i%3 == 0 {
			w.calls = append(w.calls, min(199, i+3))
		}
		if i%25 == 0 {
			w.calls = append(w.calls, (i*7+40)%200)
		}
		m.list = append(m.list, w)
	}
	m.mode.Store("up")
	return m
}

func (m *mesh) now() []workload {
	if m.mode.Load() == "empty" {
		return nil
	}
	return m.list
}

// wave is how much of its traffic a workload has at a moment.
func wave(w workload, t time.Time) float64 {
	phase := float64(len(w.name)*7 + len(w.namespace))
	s := float64(t.UnixMilli()) / 1000
	return 1 + 0.22*math.Sin(s/40+phase) + 0.07*math.Sin(s/3.7+phase*2)
}

func (w workload) row() *api.StatRow {
	k := wave(w, time.Now())
	n := w.rps * k * 60
	r := &api.StatRow{
		Namespace: w.namespace, Kind: w.kind, Name: w.name, MeshedPods: uint32(w.pods), RunningPods: uint32(w.pods), Rps: w.rps * k,
		FailureCount: uint64(n * w.failures), SuccessCount: uint64(n * (1 - w.failures)), HasTraffic: w.rps > 0,
		LatencyMsP50: w.p99 / 4 * k, LatencyMsP95: w.p99 / 1.6 * k, LatencyMsP99: w.p99 * k,
		TcpOpenConnections: uint64(w.pods * 4), TcpReadBytesRate: w.rps * 830, TcpWriteBytesRate: w.rps * 2110,
	}
	if w.rps > 0 {
		tls := 1.0
		if w.name == "shipper" {
			tls, r.MeshedPods = 0.62, 2
		}
		r.Tls = &tls
	}
	return r
}

func (w workload) pod(i int) string {
	if w.kind == "statefulset" {
		return fmt.Sprintf("%s-%d", w.name, i)
	}
	if w.kind == "daemonset" {
		return fmt.Sprintf("%s-x%dk2p", w.name, i)
	}
	return fmt.Sprintf("%s-6fe9973c83-e99e%d", w.name, i)
}

// Stat implements extension.Backend.
func (m *mesh) Stat(_ context.Context, req *api.StatRequest) (*api.StatResponse, error) {
	sel, resp := req.GetResource(), &api.StatResponse{}
	ns := sel.GetNamespace()
	seen := map[string]bool{}
	for _, w := range m.now() {
		if ns != "" && w.namespace != ns {
			continue
		}
		switch kind := sel.GetKind(); {
		case kind == "namespace":
			if !seen[w.namespace] {
				resp.Rows = append(resp.Rows, &api.StatRow{Kind: kind, Name: w.namespace})
			}
			seen[w.namespace] = true
		case kind == "pod":
			for i := range w.pods {
				one := w
				one.rps /= float64(w.pods)
				r := one.row()
				r.Kind, r.Name, r.Status, r.MeshedPods, r.RunningPods = kind, w.pod(i), "Running", 1, 1
				resp.Rows = append(resp.Rows, r)
			}
		case kind == "service":
			resp.Rows = append(resp.Rows, &api.StatRow{Kind: kind, Namespace: w.namespace, Name: w.name + "-svc"})
		case kind == w.kind && (sel.GetName() == "" || sel.GetName() == w.name):
			resp.Rows = append(resp.Rows, w.row())
		}
	}
	if sel.GetName() != "" && len(resp.GetRows()) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no %s %q in namespace %s", sel.GetKind(), sel.GetName(), ns)
	}
	return resp, nil
}

// Connections implements extension.Backend.
func (m *mesh) Connections(_ context.Context, req *api.ConnectionsRequest) (*api.ConnectionsResponse, error) {
	if len(m.now()) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no pod %q in namespace %s", req.GetPod(), req.GetNamespace())
	}
	age := uint64(time.Since(m.began) / time.Microsecond) //nolint:gosec // it is past
	resp := &api.ConnectionsResponse{Total: 1200}
	for i, peer := range []string{"emojivoto/vote-bot-x1k2p", "emojivoto/emoji-0", "emojivoto/voting-0", ""} {
		c := &tapapi.Connection{
			Direction: "outbound", Protocol: "http/2", Local: "10.42.0.7:40000", Remote: fmt.Sprintf("10.42.0.%d:8080", 10+i),
			AgeUs: age + uint64(4-i)*4321e6, RttUs: uint64(70 + i*900), BytesIn: age / 3, BytesOut: age / 7, Retransmits: uint64(i), //nolint:gosec // small
			Labels: map[string]string{"tls": "true"},
		}
		if i == 0 {
			c.Direction = "inbound"
		}
		if peer == "" {
			c.Protocol, c.RttUs, c.Labels = "opaque", 0, map[string]string{"tls": "no_identity", "no_tls_reason": "not_provided_by_service_discovery"}
		}
		resp.Rows = append(resp.Rows, &api.ConnectionRow{Connection: c, Peer: peer})
	}
	return resp, nil
}

// Health implements extension.Backend.
func (m *mesh) Health(context.Context, *api.HealthRequest) (*api.HealthResponse, error) {
	day := 24 * time.Hour
	resp := &api.HealthResponse{Version: "v0.6.0", Certificates: []*api.Certificate{
		{Name: "trust anchor", Subject: "CN=root.tunmesh.cluster.local", NotAfterUnix: m.began.Add(3620 * day).Unix()},
		{Name: "issuer", Subject: "CN=identity.tunmesh.cluster.local", NotAfterUnix: m.began.Add(41 * day).Unix()},
	}}
	for _, w := range m.now() {
		for i := range w.pods {
			resp.Proxies = append(resp.Proxies, &api.ProxyHealth{
				Namespace: w.namespace, Pod: w.pod(i), Ready: true, Connected: true, Version: "v0.6.0",
				CertificateNotAfterUnix: m.began.Add(time.Duration(9+len(w.name)+i) * time.Hour).Unix(),
			})
		}
	}
	return resp, nil
}

// Watch implements extension.Backend.
func (m *mesh) Watch(ctx context.Context, req *api.TapRequest, send func(*api.TapMessage) error) error {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	if err := send(&api.TapMessage{}); err != nil {
		return err
	}
	paths := []string{"/emojivoto.v1.EmojiService/ListAll", "/emojivoto.v1.EmojiService/FindByShortcode", "/emojivoto.v1.VotingService/VoteDoughnut", "/api/vote?choice=:doughnut:", nasty}
	for n := uint64(1); ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		end := func(name string) *tapapi.Peer {
			return &tapapi.Peer{Ip: "10.42.0.7", Port: 8080, Labels: map[string]string{"deployment": name, "namespace": "emojivoto"}}
		}
		p := paths[n%uint64(len(paths))]
		if prefix := req.GetMatch().GetPathPrefix(); !strings.HasPrefix(p, prefix) {
			continue
		}
		base := &tapapi.Event{Base: 1, Stream: n, Direction: "out", Source: end("web"), Destination: end([]string{"emoji", "voting"}[n%2]), Tls: "true", Observer: "emojivoto/web-6fe9973c83-e99e0"}
		request := &tapapi.Request{Method: "POST", Scheme: "http", Authority: "emoji-svc.emojivoto:8080", Path: p}
		if strings.HasPrefix(req.GetMatch().GetPathPrefix(), nasty[:2]) { // who asks for him alone
			attack(base, request)
		}
		ask, answer, done := clone(base), clone(base), clone(base)
		ask.Phase = &tapapi.Event_Request{Request: request}
		answer.Phase = &tapapi.Event_Response{Response: &tapapi.Response{SinceRequestUs: 900 + n%7*300, Status: 200}}
		code := uint32(0)
		if n%9 == 0 {
			code = 2
		}
		done.Phase = &tapapi.Event_End{End: &tapapi.End{SinceRequestUs: 1100 + n%13*411, ResponseBytes: 120 + n%5*37, GrpcStatus: &code}}
		for _, e := range []*tapapi.Event{ask, answer, done} {
			if err := send(&api.TapMessage{Message: &api.TapMessage_Event{Event: e}}); err != nil {
				return err
			}
		}
		if n%50 == 0 {
			if err := send(&api.TapMessage{Message: &api.TapMessage_Lost{Lost: 3}}); err != nil {
				return err
			}
		}
	}
}

func clone(e *tapapi.Event) *tapapi.Event {
	return &tapapi.Event{Base: e.GetBase(), Stream: e.GetStream(), Direction: e.GetDirection(), Source: e.GetSource(), Destination: e.GetDestination(), Tls: e.GetTls(), Observer: e.GetObserver()}
}

// Edges implements extension.Backend.
func (m *mesh) Edges(_ context.Context, req *api.EdgesRequest) (*api.EdgesResponse, error) {
	sel, resp, all := req.GetResource(), &api.EdgesResponse{}, m.now()
	callers := map[int]float64{}
	for _, w := range all {
		for _, i := range w.calls {
			callers[i]++
		}
	}
	touches := func(w workload) bool {
		return (sel.GetNamespace() == "" || sel.GetNamespace() == w.namespace) && sel.GetKind() == w.kind && (sel.GetName() == "" || sel.GetName() == w.name)
	}
	for _, from := range all {
		for _, i := range from.calls {
			to := all[i]
			if !touches(from) && !touches(to) {
				continue
			}
			r, share := to.row(), 1/callers[i]
			e := &api.Edge{
				Src: &api.EdgeEnd{Kind: from.kind, Namespace: from.namespace, Name: from.name}, Dst: &api.EdgeEnd{Kind: to.kind, Namespace: to.namespace, Name: to.name},
				ClientId: from.name + "." + from.namespace + ".sa.cluster.local", ServerId: to.name + "." + to.namespace + ".sa.cluster.local",
				SuccessCount: uint64(float64(r.GetSuccessCount()) * share), FailureCount: uint64(float64(r.GetFailureCount()) * share), Rps: r.GetRps() * share,
				LatencyMsP50: r.GetLatencyMsP50(), LatencyMsP95: r.GetLatencyMsP95(), LatencyMsP99: r.GetLatencyMsP99(),
				TcpOpenConnections: 4, TcpReadBytesRate: r.GetTcpReadBytesRate() * share, TcpWriteBytesRate: r.GetTcpWriteBytesRate() * share,
			}
			if from.name == "traffic" {
				e.ClientId, e.ServerId, e.NoTlsReason = "", "", "not_provided_by_service_discovery"
			}
			resp.Edges = append(resp.Edges, e)
		}
	}
	return resp, nil
}

// Why implements extension.Backend.
func (*mesh) Why(context.Context, *api.WhyRequest) (*api.WhyResponse, error) {
	return &api.WhyResponse{Verdict: api.WhyResponse_FAILS, Summary: "Connections from deploy/web to svc/voting-svc port 8080 are refused by policy.", Reasons: []*api.Reason{
		{Subject: "name", Mark: api.Reason_OK, Text: "voting-svc.emojivoto.svc.cluster.local is 10.96.14.2."},
		{Subject: "endpoints", Mark: api.Reason_OK, Text: "1 of 1 endpoint is ready."},
		{Subject: "policy", Mark: api.Reason_BAD, Text: "The default policy all-authenticated refuses clients without mTLS " + nasty},
	}}, nil
}

// document is any JSON.
type document map[string]any

// latencies is the range query behind the heat map: cumulative buckets.
func latencies() document {
	var result []document
	end := time.Now().Unix() / 15 * 15
	for i, le := range []string{"1", "2", "3", "4", "5", "10", "20", "30", "40", "50", "100", "200", "+Inf"} {
		values := []any{}
		for s := int64(900); s >= 0; s -= 15 {
			t := end - s
			mid := 3.2 + 1.4*math.Sin(float64(t)/140)
			sum := 0.0
			for j := 0; j <= i; j++ {
				sum += 40 * math.Exp(-math.Pow(float64(j)-mid, 2)/3.2)
			}
			values = append(values, []any{t, strconv.FormatFloat(sum, 'f', 2, 64)})
		}
		result = append(result, document{"metric": document{"le": le}, "values": values})
	}
	return document{"status": "success", "data": document{"resultType": "matrix", "result": result}}
}

// instant answers the connections page's queries.
func (m *mesh) instant(q string) document {
	result := []document{}
	all := m.now()
	for _, from := range all {
		for n, i := range from.calls {
			to := all[i]
			v := to.rps * 900 * float64(n+1)
			switch {
			case strings.Contains(q, "tcp_open_connections"):
				v = float64(2 + n)
			case strings.Contains(q, "open_total"), strings.Contains(q, "close_total"):
				v = 0.1
			case strings.Contains(q, "rtt_seconds"):
				v = 0.00021 * float64(1+i)
			case strings.Contains(q, "retransmits"):
				v = float64(i % 4)
			}
			result = append(result, document{"metric": document{"namespace": from.namespace, "pod": from.pod(0), "direction": "outbound", "peer": "dst", "tls": "true", "dst_" + to.kind: to.name, "target_addr": "10.42.0.9:8080"}, "value": []any{1, strconv.FormatFloat(v, 'f', 6, 64)}})
		}
	}
	return document{"status": "success", "data": document{"resultType": "vector", "result": result}}
}

// series is the last minutes of each row.
func (m *mesh) series(ns, kind, name string, window, step int) document {
	times, rows := []int64{}, []document{}
	end := time.Now().Unix() / int64(step) * int64(step)
	for s := window; s >= 0; s -= step {
		times = append(times, end-int64(s))
	}
	for _, w := range m.now() {
		if kind != w.kind || ns != "" && ns != w.namespace || name != "" && name != w.name {
			continue
		}
		var rps, ok, p50, p95, p99 []float64
		for _, t := range times {
			k := wave(w, time.Unix(t, 0))
			rps, ok = append(rps, w.rps*k), append(ok, 1-w.failures*k)
			p50, p95, p99 = append(p50, w.p99/4*k), append(p95, w.p99/1.6*k), append(p99, w.p99*k)
		}
		rows = append(rows, document{"namespace": w.namespace, "kind": w.kind, "name": w.name, "rps": rps, "successRate": ok, "latencyMsP50": p50, "latencyMsP95": p95, "latencyMsP99": p99})
	}
	return document{"start": times[0], "step": step, "steps": len(times), "rows": rows}
}

// server is an API server with the mesh behind it. What is asked at /mode says
// what becomes of it.
type server struct {
	*httptest.Server
	mesh *mesh

	mu    sync.Mutex
	asked map[string]int
}

func (m *mesh) serve(t *testing.T) *server {
	t.Helper()
	page, err := console.New()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := extension.New(extension.Config{Backend: m, Console: page, Local: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{mesh: m, asked: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mode, _ := m.mode.Load().(string)
		rest, ours := strings.CutPrefix(r.URL.Path, extension.Base+"/")
		asset := strings.HasPrefix(rest, "console/")
		switch {
		case r.URL.Path == "/mode":
			m.mode.Store(r.URL.Query().Get("is"))
			return
		case r.URL.Path == "/api/v1/namespaces/emojivoto/events" && mode == "up":
			tell(w, http.StatusOK, past())
			return
		case !ours:
			http.NotFound(w, r)
			return
		case mode == "down" && !asset:
			http.Error(w, "the aggregated API is not available", http.StatusServiceUnavailable)
			return
		case mode == "forbidden" && !asset:
			tell(w, http.StatusForbidden, document{"kind": "Status", "message": `ann may not get deployments/stat in all namespaces: a role with apiGroups ["view.tunmesh.io"] is needed`})
			return
		}
		if mode == "forbidden" {
			mode = "up"
		}
		s.mu.Lock()
		s.asked[rest]++
		s.mu.Unlock()
		if !s.store(w, r, rest) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// past are the Events that Kubernetes keeps: of web, and of another whose name begins so.
func past() document {
	of := func(kind, name, reason, message string, ago time.Duration) document {
		return document{
			"involvedObject": document{"kind": kind, "name": name}, "reason": reason, "message": message, "type": "Warning", "count": 3,
			"lastTimestamp": time.Now().Add(-ago).UTC().Format(time.RFC3339),
		}
	}
	return document{"kind": "EventList", "apiVersion": "v1", "items": []document{
		of("Pod", "web-7f9c5b8d4-x7k2p", "Unhealthy", "Readiness probe failed: "+nasty, time.Minute),
		of("Deployment", "web", "ScalingReplicaSet", "Scaled up replica set web-7f9c5b8d4 from 1 to 2", 2*time.Minute),
		of("Pod", "web-api-7f9c5b8d4-x7k2p", "OfAnother", "it is not web's", time.Minute),
	}}
}

// store answers what is asked of the figures of the past.
func (s *server) store(w http.ResponseWriter, r *http.Request, rest string) bool {
	parts := strings.Split(rest, "/")
	params := r.URL.Query()
	switch {
	case len(parts) == 5 && parts[4] == "series":
		window, _ := strconv.Atoi(params.Get("window"))
		step, _ := strconv.Atoi(params.Get("step"))
		ns, name := parts[1], parts[3]
		if ns == extension.All {
			ns = ""
		}
		if name == extension.All {
			name = ""
		}
		tell(w, 200, s.mesh.series(ns, strings.TrimSuffix(parts[2], "s"), name, window, step))
	case rest == "prometheus/api/v1/query":
		tell(w, 200, s.mesh.instant(params.Get("query")))
	case rest == "prometheus/api/v1/query_range":
		tell(w, 200, latencies())
	default:
		return false
	}
	return true
}

func tell(w http.ResponseWriter, code int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(doc)
}
