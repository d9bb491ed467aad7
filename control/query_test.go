package control_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	policyapi "github.com/tunmesh/tunmesh/api/policy"
	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/controltest"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

func prefixes(t *testing.T, s string) []netip.Prefix {
	t.Helper()
	list, err := policy.ParseNetworks(s)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func strOrInt(s string) intstr.IntOrString { return intstr.Parse(s) }

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, labels: {tier: front}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i, command: [x]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: shop}
spec:
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: c, image: i, command: [x]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

// sidecar is the admin port of a pod that lives at a loopback address of its
// own.
type sidecar struct {
	mu    sync.Mutex
	text  string
	hits  int
	first time.Time // of the hits
}

func (s *sidecar) seen() (hits int, first time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits, s.first
}

func (s *sidecar) set(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = text
}

func startSidecar(t *testing.T, ip string) *sidecar {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "4191"))
	if err != nil {
		t.Skipf("a port of a loopback address is needed: %v", err)
	}
	s := &sidecar{}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.hits++; s.hits == 1 {
			s.first = time.Now()
		}
		_, _ = io.WriteString(w, s.text)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return s
}

func inShop(name, ip, deployment string) controltest.Pod {
	return controltest.Pod{Namespace: "shop", Name: name, IP: ip, Labels: map[string]string{"app": deployment}, Deployment: deployment}
}

// loopback picks addresses that other runs of the test are unlikely to use.
func loopback(n int) string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 50+pid>>16&0x7f, pid>>8&0xff, max(2, (pid&0x3f)*4+n))
}

func TestStat(t *testing.T) {
	server, bot := startSidecar(t, loopback(0)), startSidecar(t, loopback(1))
	p := controltest.Start(t, nil, shop)
	p.PutPod(inShop("web-1", loopback(0), "web"))
	p.PutPod(inShop("bot-1", loopback(1), "bot"))
	plain := inShop("web-2", "10.1.0.2", "web")
	plain.Unmeshed = true
	p.PutPod(plain)
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	eventually(t, "both are scraped while they have counted nothing", func() bool {
		s, _ := server.seen()
		b, _ := bot.seen()
		return s >= 3 && b >= 3
	})
	server.set(`# TYPE response_total counter
response_total{direction="inbound",tls="true",classification="success"} 60
response_total{direction="inbound",tls="true",classification="failure"} 20
response_total{direction="inbound",tls="no_identity",classification="success"} 20
response_total{direction="inbound",tls="no_identity",classification="success",authz_name="probe"} 500
response_total{direction="outbound",tls="true",classification="success"} 9999
# TYPE response_latency_ms histogram
response_latency_ms_bucket{direction="inbound",le="1"} 50
response_latency_ms_bucket{direction="inbound",le="10"} 90
response_latency_ms_bucket{direction="inbound",le="100"} 100
response_latency_ms_bucket{direction="inbound",le="+Inf"} 100
response_latency_ms_count{direction="inbound"} 100
response_latency_ms_sum{direction="inbound"} 1
# TYPE tcp_open_connections gauge
tcp_open_connections{direction="inbound",peer="src"} 3
tcp_open_connections{direction="inbound",peer="dst"} 7
# TYPE tcp_open_total counter
tcp_open_total{direction="inbound",peer="src",tls="true"} 3
# TYPE proxy_build_info gauge
proxy_build_info{version="v9"} 1
# TYPE identity_cert_expiration_timestamp_seconds gauge
identity_cert_expiration_timestamp_seconds 1800000000
`)
	bot.set(`# TYPE response_total counter
response_total{direction="outbound",tls="true",classification="success",dst_namespace="shop",dst_deployment="web",dst_pod="web-1",dst_service="web"} 40
response_total{direction="outbound",tls="true",classification="success",dst_namespace="other",dst_deployment="web",dst_service="web"} 7
# TYPE tcp_open_total counter
tcp_open_total{direction="inbound",peer="src",tls="true"} 1
tcp_open_total{direction="inbound",peer="src",tls="no_identity"} 3
`)
	ask := func(req *queryapi.StatRequest) map[string]*queryapi.StatRow {
		t.Helper()
		resp, err := q.Stat(ctx(t), req)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]*queryapi.StatRow{}
		for _, r := range resp.GetRows() {
			rows[r.GetName()] = r
		}
		return rows
	}
	sel := func(kind, name string) *queryapi.Selector {
		return &queryapi.Selector{Kind: kind, Name: name, Namespace: "shop"}
	}
	eventually(t, "both sidecars' figures", func() bool {
		return ask(&queryapi.StatRequest{Resource: sel("deploy", "")})["web"].GetSuccessCount() == 80 &&
			ask(&queryapi.StatRequest{Resource: sel("svc", "")})["web"].GetSuccessCount() == 40
	})
	before := time.Now()
	rows := ask(&queryapi.StatRequest{Resource: sel("deploy", "")})
	after := time.Now()
	if len(rows) != 2 {
		t.Errorf("rows %v", rows)
	}
	web := rows["web"]
	if web.GetFailureCount() != 20 || web.GetMeshedPods() != 1 || web.GetRunningPods() != 2 || web.GetTcpOpenConnections() != 3 || !web.GetHasTraffic() || web.GetKind() != "deployment" {
		t.Errorf("web: %v", web)
	}
	for name, v := range map[string][2]float64{
		"p50": {web.GetLatencyMsP50(), 1}, "p95": {web.GetLatencyMsP95(), 55}, "p99": {web.GetLatencyMsP99(), 91}, "tls": {web.GetTls(), 0.8},
	} {
		if math.Abs(v[0]-v[1]) > 1e-6 {
			t.Errorf("%s is %v, want %v", name, v[0], v[1])
		}
	}
	// A rate is over the time that was watched, not over a minute that has not passed.
	_, first := server.seen()
	low, high := 100/max(after.Sub(first).Seconds(), 1), 100/max(before.Sub(first).Seconds()-1, 1)
	if web.GetRps() < low-1e-6 || web.GetRps() > high+1e-6 {
		t.Errorf("%v rps, want between %v and %v", web.GetRps(), low, high)
	}
	if idle := rows["idle"]; idle.GetHasTraffic() || idle.Tls != nil || idle.GetMeshedPods() != 0 {
		t.Errorf("idle: %v", idle)
	}
	pods := ask(&queryapi.StatRequest{Resource: sel("po", "")})
	if pods["web-1"].GetSuccessCount() != 80 || pods["web-1"].GetStatus() != "Running" || pods["web-1"].GetMeshedPods() != 1 || pods["web-2"].GetHasTraffic() || pods["web-2"].GetMeshedPods() != 0 {
		t.Errorf("pods: %v", pods)
	}
	if got := pods["bot-1"].GetTls(); math.Abs(got-0.25) > 1e-9 {
		t.Errorf("a pod with connections alone: TLS %v, want 0.25", got)
	}
	if ns := ask(&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "ns"}})["shop"]; ns.GetSuccessCount() != 80 || ns.GetRunningPods() != 3 || ns.GetMeshedPods() != 2 {
		t.Errorf("namespace: %v", ns)
	}
	if svc := ask(&queryapi.StatRequest{Resource: sel("svc", "web")})["web"]; svc.GetSuccessCount() != 40 || svc.GetTls() != 1 {
		t.Errorf("service: %v", svc)
	}
	bots := ask(&queryapi.StatRequest{Resource: sel("po", "bot-1"), To: sel("deploy", "web")})
	if bots["bot-1"].GetSuccessCount() != 40 {
		t.Errorf("to: %v", bots)
	}
	froms := ask(&queryapi.StatRequest{Resource: sel("deploy", "web"), From: sel("po", "bot-1")})
	if froms["web"].GetSuccessCount() != 40 {
		t.Errorf("from: %v", froms)
	}
	if none := ask(&queryapi.StatRequest{Resource: sel("deploy", "web"), From: sel("po", "web-1")}); none["web"].GetHasTraffic() {
		t.Errorf("from nobody: %v", none)
	}
	labelled := sel("deploy", "")
	labelled.LabelSelector = "tier=front"
	if rows := ask(&queryapi.StatRequest{Resource: labelled}); len(rows) != 1 || rows["web"] == nil {
		t.Errorf("by label: %v", rows)
	}
	for _, bad := range []struct {
		req  *queryapi.StatRequest
		code codes.Code
		text string
	}{
		{&queryapi.StatRequest{Resource: sel("deploy", "none")}, codes.NotFound, `there is no deployment "none" in namespace shop`},
		{&queryapi.StatRequest{Resource: sel("cow", "")}, codes.InvalidArgument, `kind "cow" is not known`},
		{&queryapi.StatRequest{}, codes.InvalidArgument, "is not known"},
		{&queryapi.StatRequest{Resource: sel("deploy", ""), To: sel("svc", "web"), From: sel("po", "")}, codes.InvalidArgument, "exclude each other"},
		{&queryapi.StatRequest{Resource: sel("svc", ""), To: sel("deploy", "")}, codes.InvalidArgument, "sends nothing"},
		{&queryapi.StatRequest{Resource: sel("deploy", ""), From: sel("svc", "")}, codes.InvalidArgument, "sends nothing"},
		{&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "po", LabelSelector: "a in"}}, codes.InvalidArgument, "label selector"},
	} {
		_, err := q.Stat(ctx(t), bad.req)
		code(t, err, bad.code, bad.text)
	}
	health, err := q.Health(ctx(t), &queryapi.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if health.GetVersion() != "test" || len(health.GetProxies()) != 2 || len(health.GetCertificates()) != 2 {
		t.Errorf("health: %v", health)
	}
	if h := health.GetProxies()[1]; h.GetPod() != "web-1" || h.GetVersion() != "v9" || h.GetCertificateNotAfterUnix() != 1800000000 || h.GetConnected() || !h.GetReady() {
		t.Errorf("proxy: %v", h)
	}
}

func TestEndpoints(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	p.PutPod(inShop("web-1", "10.1.0.1", "web"))
	late := inShop("web-2", "10.1.0.2", "web")
	late.NotReady, late.Unmeshed = true, true
	p.PutPod(late)
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	for _, a := range []string{"web.shop:80", "web.shop.svc:80", "web.shop.svc.cluster.local:80"} {
		resp, err := q.Endpoints(ctx(t), &queryapi.EndpointsRequest{Authority: a})
		if err != nil {
			t.Fatal(err)
		}
		if r := resp.GetRows(); len(r) != 2 || r[0].GetIp() != "10.1.0.1" || r[0].GetPort() != 8080 || !r[0].GetReady() || r[0].GetPod() != "shop/web-1" ||
			r[0].GetIdentity() != "spiffe://cluster.local/ns/shop/sa/default" || r[1].GetReady() || r[1].GetIdentity() != "" ||
			!r[0].GetHttp2() || r[1].GetHttp2() {
			t.Errorf("%s: %v", a, r)
		}
	}
	for a, want := range map[string]codes.Code{
		"web.shop:81": codes.NotFound, "web:80": codes.NotFound, "web.shop": codes.InvalidArgument, "a.b.c:80": codes.InvalidArgument,
		":80": codes.InvalidArgument, "web.shop:0": codes.InvalidArgument, "": codes.InvalidArgument,
	} {
		_, err := q.Endpoints(ctx(t), &queryapi.EndpointsRequest{Authority: a})
		code(t, err, want, "")
	}
}

// TestEndpointsInHTTP2: requests between sidecars are HTTP/2, and those to others where
// their Service says so; bytes that nobody parses are none.
func TestEndpointsInHTTP2(t *testing.T) {
	p := controltest.Start(t, nil, shop, `
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec:
  clusterIP: 10.96.0.2
  selector: {in: mesh}
  ports:
  - {name: http, port: 1, targetPort: 8080, appProtocol: http}
  - {name: h2c, port: 2, targetPort: 8080, appProtocol: kubernetes.io/h2c}
  - {name: tcp, port: 3, targetPort: 8080, appProtocol: tcp}
  - {name: tls, port: 4, targetPort: 8080, appProtocol: https}
  - {name: none, port: 5, targetPort: 8080}
  - {name: own, port: 6, targetPort: 9000}
`)
	for name, ip := range map[string]string{"meshed": "10.1.0.1", "plain": "10.1.0.2"} {
		pod := inShop(name, ip, "web")
		pod.Labels = map[string]string{"in": "mesh"}
		pod.Unmeshed = name == "plain"
		pod.Annotations = map[string]string{annotation.OpaquePorts: "9000"}
		p.PutPod(pod)
	}
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	for port, want := range map[int]string{1: "meshed", 2: "meshed plain", 3: "", 4: "", 5: "meshed", 6: ""} {
		resp, err := q.Endpoints(ctx(t), &queryapi.EndpointsRequest{Authority: fmt.Sprintf("all.shop:%d", port)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range resp.GetRows() {
			if r.GetHttp2() {
				got = append(got, strings.TrimPrefix(r.GetPod(), "shop/"))
			}
		}
		if len(resp.GetRows()) != 2 || strings.Join(got, " ") != want {
			t.Errorf("port %d: %v of %d, want %q", port, got, len(resp.GetRows()), want)
		}
	}
}

func TestPolicyOfAPort(t *testing.T) {
	p := controltest.Start(t, nil, shop, `
apiVersion: v1
kind: Service
metadata: {name: slow, namespace: shop, annotations: {timeout.tunmesh.io/request: 300ms}}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: tcp, port: 80}, {name: udp, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
`)
	pod := inShop("web-1", "10.1.0.1", "web")
	pod.Annotations = map[string]string{"config.tunmesh.io/default-inbound-policy": "deny", "config.tunmesh.io/opaque-ports": "3306"}
	pod.Change = func(o *corev1.Pod) {
		probe := func(port int) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/r", Port: intstr.FromInt(port)}}}
		}
		o.Spec.Containers[0].ReadinessProbe, o.Spec.Containers[0].LivenessProbe = probe(80), probe(81)
	}
	p.PutPod(pod)
	plain := inShop("web-2", "10.1.0.2", "web")
	plain.Unmeshed = true
	p.PutPod(plain)
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	ask := func(kind, name string, port uint32) (*queryapi.PolicyResponse, error) {
		return q.Policy(ctx(t), &queryapi.PolicyRequest{Resource: &queryapi.Selector{Kind: kind, Name: name, Namespace: "shop"}, Port: port})
	}
	resp, err := ask("po", "web-1", 80)
	if in := resp.GetInbound(); err != nil || in.GetDefault() != policyapi.Default_DENY || len(in.GetProbes()) != 1 || in.GetProbes()[0].GetPort() != 80 || len(in.GetPorts()) != 0 {
		t.Errorf("%v %v", resp, err)
	}
	resp, err = ask("po", "web-1", 3306)
	if in := resp.GetInbound(); err != nil || len(in.GetProbes()) != 0 || len(in.GetPorts()) != 1 {
		t.Errorf("%v %v", resp, err)
	}
	resp, err = ask("svc", "slow", 80)
	if out := resp.GetOutbound(); err != nil || out.GetTraffic().GetTimeouts().GetRequestMs() != 300 || out.GetRef().GetName() != "slow" || len(out.GetEndpoints()) != 0 {
		t.Errorf("%v %v", resp, err)
	}
	for _, c := range []struct {
		kind, name string
		port       uint32
		want       codes.Code
		text       string
	}{
		{"po", "web-2", 80, codes.FailedPrecondition, "has no sidecar"},
		{"po", "web-3", 80, codes.NotFound, "no pod shop/web-3"},
		{"svc", "bare", 80, codes.FailedPrecondition, "no address of its own"},
		{"svc", "slow", 81, codes.NotFound, "no TCP port 81"},
		{"svc", "slow", 53, codes.NotFound, "no TCP port 53"},
		{"svc", "none", 80, codes.NotFound, "no Service shop/none"},
		{"deploy", "web", 80, codes.InvalidArgument, "ask for one of its pods"},
		{"cow", "web", 80, codes.InvalidArgument, "is not known"},
		{"po", "", 80, codes.InvalidArgument, "want the name"},
		{"po", "web-1", 0, codes.InvalidArgument, "number of a port"},
		{"po", "web-1", 65536, codes.InvalidArgument, "number of a port"},
	} {
		_, err := ask(c.kind, c.name, c.port)
		code(t, err, c.want, c.text)
	}
}

// attach plays a sidecar's tap: commands come out, messages go in.
func attach(t *testing.T, p *controltest.Plane, q controltest.Pod) (tapapi.Tap_AttachClient, chan *tapapi.Command) {
	t.Helper()
	pod := p.PutPod(q)
	p.Settle()
	s, err := tapapi.NewTapClient(p.As(ctx(t), pod)).Attach(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&tapapi.FromProxy{Message: &tapapi.FromProxy_Hello{Hello: &tapapi.Hello{Pod: pod.Namespace + "/" + pod.Name}}}); err != nil {
		t.Fatal(err)
	}
	commands := make(chan *tapapi.Command, 100)
	go func() {
		defer close(commands)
		for {
			c, err := s.Recv()
			if err != nil {
				return
			}
			commands <- c
		}
	}()
	return s, commands
}

func command(t *testing.T, ch chan *tapapi.Command) *tapapi.Command {
	t.Helper()
	select {
	case c, ok := <-ch:
		if !ok {
			t.Fatal("the sidecar's tap has ended")
		}
		return c
	case <-time.After(5 * time.Second):
		t.Fatal("no command within 5 s")
	}
	return nil
}

func request(tap uint64, stream uint64) *tapapi.FromProxy {
	return &tapapi.FromProxy{Message: &tapapi.FromProxy_Event{Event: &tapapi.Event{
		Tap: tap, Stream: stream, Direction: "in", Observer: "somebody/else",
		Source: &tapapi.Peer{Ip: "10.1.0.9", Port: 1000, Labels: map[string]string{"tls": "true", "pod": "said"}}, Destination: &tapapi.Peer{Ip: "10.1.0.1", Port: 8080},
		Phase: &tapapi.Event_Request{Request: &tapapi.Request{Method: "GET", Path: "/"}},
	}}}
}

func end(tap uint64, stream uint64) *tapapi.FromProxy {
	return &tapapi.FromProxy{Message: &tapapi.FromProxy_Event{Event: &tapapi.Event{Tap: tap, Stream: stream, Phase: &tapapi.Event_End{End: &tapapi.End{}}}}}
}

func TestTap(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	proxy, commands := attach(t, p, inShop("web-1", "10.1.0.1", "web"))
	p.PutPod(inShop("bot-1", "10.1.0.9", "bot"))
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	eventually(t, "attached", func() bool {
		h, err := q.Health(ctx(t), &queryapi.HealthRequest{})
		return err == nil && len(h.GetProxies()) == 2 && h.GetProxies()[1].GetConnected()
	})
	taps, err := q.Tap(ctx(t), &queryapi.TapRequest{
		Resource: &queryapi.Selector{Kind: "deploy", Name: "web", Namespace: "shop"}, Match: &tapapi.Match{Method: "GET"}, MaxRps: 5, Headers: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := command(t, commands)
	if c.GetMatch().GetMethod() != "GET" || c.GetMaxRps() != 5 || !c.GetHeaders() || len(c.GetMatch().GetPeers()) != 0 {
		t.Errorf("command %v", c)
	}
	send := func(m *tapapi.FromProxy) {
		t.Helper()
		if err := proxy.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(end(c.GetTap(), 99))        // of a request that began before
	send(request(c.GetTap()+100, 1)) // of no tap
	send(request(c.GetTap(), 1))
	m, err := something(taps)
	if err != nil {
		t.Fatal(err)
	}
	e := m.GetEvent()
	if e.GetObserver() != "shop/web-1" || e.GetSource().GetLabels()["deployment"] != "bot" || e.GetSource().GetLabels()["pod"] != "said" || e.GetDestination().GetLabels()["pod"] != "web-1" {
		t.Errorf("event %v", e)
	}
	send(end(c.GetTap(), 1))
	if m, err := something(taps); err != nil || m.GetEvent().GetEnd() == nil {
		t.Errorf("%v, %v", m, err)
	}
	// Of many at once the limit lets through a few whole ones; the rest is counted.
	for i := range 20 {
		send(request(c.GetTap(), uint64(100+i)))
		send(end(c.GetTap(), uint64(100+i)))
	}
	send(&tapapi.FromProxy{Message: &tapapi.FromProxy_Lost{Lost: &tapapi.Lost{Tap: c.GetTap(), Events: 7}}})
	requests, ends, lost := 0, 0, uint64(0)
	for lost == 0 {
		m, err := taps.Recv()
		if err != nil {
			t.Fatal(err)
		}
		lost += m.GetLost()
		if m.GetEvent().GetRequest() != nil {
			requests++
		}
		if m.GetEvent().GetEnd() != nil {
			ends++
		}
	}
	if requests < 4 || requests > 8 || ends != requests || lost != uint64(20-requests)+7 {
		t.Errorf("%d requests, %d ends, %d lost", requests, ends, lost)
	}
	// A pod that comes later is tapped too.
	_, more := attach(t, p, inShop("web-2", "10.1.0.2", "web"))
	if got := command(t, more); got.GetTap() != c.GetTap() {
		t.Errorf("command to a late pod: %v", got)
	}
	// The watcher leaves: its sidecars are told.
	leave, err := q.Tap(ctx(t), &queryapi.TapRequest{
		Resource: &queryapi.Selector{Kind: "po", Name: "web-1", Namespace: "shop"}, To: &queryapi.Selector{Kind: "po", Name: "bot-1", Namespace: "shop"},
	})
	if err != nil {
		t.Fatal(err)
	}
	to := command(t, commands)
	if to.GetMatch().GetDirection() != "out" || fmt.Sprint(to.GetMatch().GetPeers()) != "[10.1.0.9]" || to.GetMaxRps() != 100 {
		t.Errorf("command of --to: %v", to)
	}
	_ = leave
	p.DeletePod("shop", "bot-1")
	if got := command(t, commands); got.GetTap() != to.GetTap() || got.GetMaxRps() != 0 {
		t.Errorf("with no peer left nothing may match: %v", got)
	}
	for _, bad := range []struct {
		sel  *queryapi.Selector
		rps  uint32
		code codes.Code
	}{
		{&queryapi.Selector{Kind: "deploy", Name: "none", Namespace: "shop"}, 0, codes.NotFound},
		{&queryapi.Selector{Kind: "x"}, 0, codes.InvalidArgument},
		{&queryapi.Selector{Kind: "deploy", Name: "idle", Namespace: "shop"}, 0, codes.FailedPrecondition},
		{&queryapi.Selector{Kind: "deploy", Name: "web", Namespace: "shop"}, 1 << 30, codes.InvalidArgument},
	} {
		s, err := q.Tap(ctx(t), &queryapi.TapRequest{Resource: bad.sel, MaxRps: bad.rps})
		if err == nil {
			_, err = s.Recv()
		}
		code(t, err, bad.code, "")
	}
}

// something is the next message of a tap that says anything.
func something(s queryapi.Query_TapClient) (*queryapi.TapMessage, error) {
	for {
		m, err := s.Recv()
		if err != nil || m.GetMessage() != nil {
			return m, err
		}
	}
}

// TestTapEndsWithItsWatcher: a watcher that leaves costs the sidecar nothing more.
func TestTapEndsWithItsWatcher(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	_, commands := attach(t, p, inShop("web-1", "10.1.0.1", "web"))
	conn := p.Ask()
	s, err := queryapi.NewQueryClient(conn).Tap(ctx(t), &queryapi.TapRequest{Resource: &queryapi.Selector{Kind: "ns", Name: "shop"}})
	if err != nil {
		t.Fatal(err)
	}
	begin := command(t, commands)
	conn.Close()
	if _, err := something(s); err == nil {
		t.Fatal("an event from nowhere")
	}
	if got := command(t, commands); got.GetTap() != begin.GetTap() || got.GetMaxRps() != 0 || got.GetMatch() != nil {
		t.Errorf("at the end: %v", got)
	}
}

// TestTapSlowWatcher: a watcher that reads nothing loses events and is told of
// it; the sidecar is not held up.
func TestTapSlowWatcher(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	proxy, commands := attach(t, p, inShop("web-1", "10.1.0.1", "web"))
	s, err := queryapi.NewQueryClient(p.Ask()).Tap(ctx(t), &queryapi.TapRequest{Resource: &queryapi.Selector{Kind: "ns", Name: "shop"}, MaxRps: 10000})
	if err != nil {
		t.Fatal(err)
	}
	id := command(t, commands).GetTap()
	const n = 8000
	big := strings.Repeat("x", 1000)
	begin := time.Now()
	for i := range n {
		m := request(id, uint64(i))
		m.GetEvent().GetRequest().Path = big
		if err := proxy.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("the sidecar was held up for %v", d)
	}
	got, lost := uint64(0), uint64(0)
	for got+lost < n {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if lost += m.GetLost(); m.GetEvent() != nil {
			got++
		}
	}
	if got+lost != n || lost == 0 {
		t.Errorf("%d came, %d lost, %d sent", got, lost, n)
	}
}

func TestTapRefusesStrangers(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	pod := p.PutPod(inShop("web-1", "10.1.0.1", "web"))
	p.PutPod(controltest.Pod{Name: "other", IP: "10.1.0.2"})
	p.Settle()
	c := tapapi.NewTapClient(p.As(ctx(t), pod))
	for name, tc := range map[string]struct {
		first *tapapi.FromProxy
		code  codes.Code
	}{
		"another's pod": {&tapapi.FromProxy{Message: &tapapi.FromProxy_Hello{Hello: &tapapi.Hello{Pod: "default/other"}}}, codes.PermissionDenied},
		"no hello":      {request(1, 1), codes.InvalidArgument},
		"nothing":       {&tapapi.FromProxy{}, codes.InvalidArgument},
	} {
		s, err := c.Attach(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(tc.first); err != nil {
			t.Fatal(name, err)
		}
		_, err = s.Recv()
		code(t, err, tc.code, "")
	}
}

func TestQuerySocket(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	info, err := os.Stat(p.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if _, err := control.New(control.Config{Dirs: []string{p.Manifests}, StateDir: p.State, Listen: "127.0.0.1:0", QuerySocket: p.Socket}); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a second plane: %v", err)
	}
	p.Stop()
	if _, err := os.Stat(p.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	// What a kill -9 left is replaced.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	p.Resume()
	if _, err := queryapi.NewQueryClient(p.Ask()).Health(ctx(t), &queryapi.HealthRequest{}); err != nil {
		t.Error(err)
	}
}

// TestHealthNamesTheDisk: who asks how the mesh is hears that its figures are not kept.
func TestHealthNamesTheDisk(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	problem := func() string {
		t.Helper()
		h, err := queryapi.NewQueryClient(p.Ask()).Health(ctx(t), &queryapi.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return h.GetFiguresProblem()
	}
	if why := problem(); why != "" {
		t.Errorf("all is well, and figures are not kept: %s", why)
	}
	p.Stop()
	dir := filepath.Join(p.State, control.MetricsDir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.Resume()
	if why := problem(); !strings.Contains(why, dir) {
		t.Errorf("%s is no folder, and what is said is %q", dir, why)
	}
}

func TestAdmin(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	pod := p.PutPod(webPod(1))
	p.Certificate(ctx(t), pod)
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.Get("http://" + p.Plane().AdminAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"identity_certificates_issued_total 1\n", "manifests_healthy 1\n", "trust_anchors 1\n",
		`grpc_server_handled_total{grpc_code="OK",grpc_method="/tunmesh.identity.v1.Identity/Certify"} 1` + "\n",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("metrics lack %q", strings.TrimSpace(want))
		}
	}
	_, rest, _ := strings.Cut(string(body), "\nissuer_cert_ttl_seconds ")
	text, _, _ := strings.Cut(rest, "\n")
	if ttl, err := strconv.ParseFloat(text, 64); err != nil || ttl < 300*24*3600 {
		t.Errorf("issuer's ttl: %q, %v", text, err)
	}
}
