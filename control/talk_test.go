package control_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/controltest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Who talks to whom, by which routes, and who can be tapped.
func TestEdgesRoutesTaps(t *testing.T) {
	bot := startSidecar(t, loopback(2))
	p := controltest.Start(t, nil, shop)
	client := inShop("bot-1", loopback(2), "bot")
	client.Annotations = map[string]string{annotation.DisableTap: "true"}
	p.PutPod(client)
	p.PutPod(inShop("web-1", "10.1.0.1", "web"))
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	eventually(t, "a scrape before anything is counted", func() bool { n, _ := bot.seen(); return n >= 2 })
	const (
		web  = `dst_namespace="shop",dst_deployment="web",dst_pod="web-1",dst_service="web",authority="web.shop.svc.cluster.local:80"`
		mtls = `tls="true",server_id="web.shop.sa.cluster.local"`
		db   = `dst_namespace="data",dst_statefulset="db",dst_pod="db-0",tls="no_identity",no_tls_reason="not_provided_by_service_discovery"`
	)
	bot.set(fmt.Sprintf(`# TYPE response_total counter
response_total{direction="outbound",%[1]s,%[2]s,classification="success",status_code="200"} 90
response_total{direction="outbound",%[1]s,%[2]s,classification="failure",status_code="503"} 8
response_total{direction="outbound",%[1]s,%[2]s,classification="failure",error="response timeout"} 2
response_total{direction="outbound",dst_namespace="shop",dst_service="web",authority="web.shop.svc.cluster.local:80",tls="no_identity",classification="failure",error="request timeout"} 4
response_total{direction="inbound",tls="true",srv_kind="default",srv_name="all-unauthenticated",srv_port="8080",classification="success"} 7
response_total{direction="inbound",tls="true",srv_kind="server",srv_name="metrics",srv_port="9090",route_kind="HTTPRoute",route_name="get",classification="success"} 5
response_total{direction="inbound",tls="no_identity",srv_kind="default",srv_name="all-unauthenticated",srv_port="8080",authz_name="probe",classification="success"} 3
# TYPE tcp_open_connections gauge
tcp_open_connections{direction="outbound",peer="dst",%[1]s,%[2]s} 2
tcp_open_connections{direction="outbound",peer="dst",%[3]s} 1
tcp_open_connections{direction="outbound",peer="dst",tls="no_identity"} 5
# TYPE outbound_http_route_retry_requests_total counter
outbound_http_route_retry_requests_total{parent_namespace="shop",parent_name="web",parent_port="80"} 6
`, web, mtls, db))
	edges := func(kind string) (list []string) {
		resp, err := q.Edges(ctx(t), &queryapi.EdgesRequest{Resource: &queryapi.Selector{Kind: kind, Namespace: "shop"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEdges() {
			list = append(list, fmt.Sprintf("%s/%s>%s/%s %s>%s %s %d/%d %d", e.GetSrc().GetKind(), e.GetSrc().GetName(), e.GetDst().GetKind(), e.GetDst().GetName(),
				e.GetClientId(), e.GetServerId(), e.GetNoTlsReason(), e.GetSuccessCount(), e.GetFailureCount(), e.GetTcpOpenConnections()))
		}
		return list
	}
	for kind, want := range map[string][]string{
		"deploy": { // bot is none of the catalog's, but at the other end of web's
			"deployment/bot>deployment/web default.shop.sa.cluster.local>web.shop.sa.cluster.local  90/10 2",
		},
		"po": {
			"pod/bot-1>pod/db-0 > not_provided_by_service_discovery 0/0 1",
			"pod/bot-1>pod/web-1 default.shop.sa.cluster.local>web.shop.sa.cluster.local  90/10 2",
		},
		"sts": nil, // the client is none, and the server is in another namespace
	} {
		eventually(t, kind+": "+strings.Join(want, "; "), func() bool {
			got := edges(kind)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Logf("%s: %s", kind, strings.Join(got, "\n"))
				return false
			}
			return true
		})
	}
	routes := func(kind string, outbound bool) (list []string) {
		resp, err := q.Routes(ctx(t), &queryapi.RoutesRequest{Resource: &queryapi.Selector{Kind: kind, Namespace: "shop"}, Outbound: outbound})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resp.GetRows() {
			text := fmt.Sprintf("%s %s:%d %s/%s %d/%d %d %d", r.GetName(), r.GetParent(), r.GetPort(), r.GetRouteKind(), r.GetRoute(), r.GetSuccessCount(), r.GetFailureCount(), r.GetTimeoutCount(), r.GetRetryCount())
			for _, b := range r.GetBackends() {
				text += fmt.Sprintf(" > %d/%d %d", b.GetSuccessCount(), b.GetFailureCount(), b.GetTimeoutCount())
			}
			list = append(list, text)
		}
		return list
	}
	// bot is no Deployment of the catalog: only its pods are.
	if got := routes("deploy", false); got != nil {
		t.Errorf("of deployments that are not there: %s", got)
	}
	if got, want := fmt.Sprint(routes("po", false)), "[bot-1 :8080 / 7/0 0 0 bot-1 :8080 /probe 3/0 0 0 bot-1 metrics:9090 HTTPRoute/get 5/0 0 0]"; got != want {
		t.Errorf("inbound\n%s, want\n%s", got, want)
	}
	// Six of fourteen failures were sent again, and nobody heard of them.
	if got, want := fmt.Sprint(routes("po", true)), "[bot-1 web.shop:80 / 90/8 6 6 > 90/10 2]"; got != want {
		t.Errorf("outbound\n%s, want\n%s", got, want)
	}
	taps, err := q.Taps(ctx(t), &queryapi.TapsRequest{Resource: &queryapi.Selector{Kind: "po", Namespace: "shop"}})
	if err != nil || len(taps.GetRows()) != 2 || taps.GetRows()[0].GetState() != queryapi.TapsRow_DISABLED || taps.GetRows()[1].GetState() != queryapi.TapsRow_NOT_CONNECTED {
		t.Errorf("%v %v", taps, err)
	}
	au, err := q.Stat(ctx(t), &queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "au", Namespace: "shop"}, From: &queryapi.Selector{Kind: "po", Namespace: "shop", Name: "bot-1"}})
	if err != nil || len(au.GetRows()) != 1 || au.GetRows()[0].GetName() != "web.shop.svc.cluster.local:80" || au.GetRows()[0].GetSuccessCount() != 90 {
		t.Errorf("%v %v", au, err)
	}
	for what, err := range map[string]error{
		"edges of Services": func() error {
			_, err := q.Edges(ctx(t), &queryapi.EdgesRequest{Resource: &queryapi.Selector{Kind: "svc"}})
			return err
		}(),
		"edges of authorities": func() error {
			_, err := q.Edges(ctx(t), &queryapi.EdgesRequest{Resource: &queryapi.Selector{Kind: "au"}})
			return err
		}(),
		"routes of Services": func() error {
			_, err := q.Routes(ctx(t), &queryapi.RoutesRequest{Resource: &queryapi.Selector{Kind: "svc"}})
			return err
		}(),
		"labels of authorities": func() error {
			_, err := q.Stat(ctx(t), &queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "au", LabelSelector: "a"}})
			return err
		}(),
		"an authority that asks": func() error {
			_, err := q.Stat(ctx(t), &queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "au"}, To: &queryapi.Selector{Kind: "po"}})
			return err
		}(),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Why walks the road of a connection and stops where it would.
func TestWhy(t *testing.T) {
	p := controltest.Start(t, nil, shop, `
apiVersion: v1
kind: Namespace
metadata: {name: safe, annotations: {config.tunmesh.io/default-inbound-policy: all-authenticated}}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: safe}
spec: {clusterIP: 10.96.0.2, selector: {app: vault}, ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: safe}
spec: {clusterIP: 10.96.0.3, selector: {app: none}, ports: [{name: a, port: 80}]}
`)
	p.PutPod(inShop("web-1", "10.1.0.1", "web"))
	p.PutPod(inShop("idle-1", "10.1.0.3", "idle"))
	plain := inShop("plain-1", "10.1.0.2", "plain")
	plain.Unmeshed = true
	p.PutPod(plain)
	p.PutPod(controltest.Pod{Namespace: "safe", Name: "vault-1", IP: "10.1.0.4", Labels: map[string]string{"app": "vault"}, Deployment: "vault"})
	p.Settle()
	q := queryapi.NewQueryClient(p.Ask())
	sel := func(kind, ns, name string) *queryapi.Selector {
		return &queryapi.Selector{Kind: kind, Namespace: ns, Name: name}
	}
	from, naked := sel("po", "shop", "idle-1"), sel("po", "shop", "plain-1")
	for name, c := range map[string]struct {
		req     *queryapi.WhyRequest
		verdict queryapi.WhyResponse_Verdict
		says    []string
	}{
		"a Service": {&queryapi.WhyRequest{From: from, To: sel("svc", "shop", "web")}, queryapi.WhyResponse_WORKS,
			[]string{"pod shop/idle-1 to Service shop/web port 80 would work", "10.96.0.1) has TCP port 80", "1 endpoint is ready: 10.1.0.1:8080 (shop/web-1)", "mTLS: the client proves spiffe://cluster.local/ns/shop/sa/", "lets everybody in, by default inbound policy all-unauthenticated (the mesh's own)", "No request between the two"}},
		"by its name":          {&queryapi.WhyRequest{From: from, ToHost: "web"}, queryapi.WhyResponse_WORKS, []string{`"web" is web.shop.svc.cluster.local`}},
		"by its address":       {&queryapi.WhyRequest{From: from, ToHost: "10.96.0.1"}, queryapi.WhyResponse_WORKS, []string{"10.96.0.1 is the address of Service shop/web"}},
		"a pod":                {&queryapi.WhyRequest{From: from, ToHost: "10.1.0.1", Port: 9}, queryapi.WhyResponse_WORKS, []string{"10.1.0.1 is pod shop/web-1", "pod shop/web-1 port 9 would work"}},
		"another pod's name":   {&queryapi.WhyRequest{From: from, To: sel("po", "shop", "plain-1"), Port: 8}, queryapi.WhyResponse_WORKS, []string{"No mTLS: the other end has no sidecar", "No policy"}},
		"proved":               {&queryapi.WhyRequest{From: from, ToHost: "vault.safe", Port: 80}, queryapi.WhyResponse_WORKS, []string{"lets the client in, which proves its identity, by default inbound policy all-authenticated (annotation of namespace safe)"}},
		"unproved":             {&queryapi.WhyRequest{From: naked, ToHost: "vault.safe", Port: 80}, queryapi.WhyResponse_FAILS, []string{"pod shop/plain-1 to Service safe/vault port 80 would fail", "no sidecar", "refuses the client, which proves no identity"}},
		"nobody's name":        {&queryapi.WhyRequest{From: from, ToHost: "wbe"}, queryapi.WhyResponse_FAILS, []string{`"wbe" is nobody's name in this cluster`}},
		"nobody's Service":     {&queryapi.WhyRequest{From: from, To: sel("svc", "shop", "wbe")}, queryapi.WhyResponse_FAILS, []string{`There is no service "wbe" in namespace shop`}},
		"another port":         {&queryapi.WhyRequest{From: from, ToHost: "web", Port: 81}, queryapi.WhyResponse_FAILS, []string{"has no TCP port 81 (it has [80])"}},
		"nobody behind it":     {&queryapi.WhyRequest{From: from, ToHost: "empty.safe"}, queryapi.WhyResponse_FAILS, []string{"No pod has the labels that Service safe/empty selects (app=none)"}},
		"somewhere else":       {&queryapi.WhyRequest{From: from, ToHost: "example.com"}, queryapi.WhyResponse_WORKS, []string{"leaves the mesh"}},
		"somewhere, by number": {&queryapi.WhyRequest{From: from, ToHost: "192.0.2.1"}, queryapi.WhyResponse_WORKS, []string{"nobody's address"}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := q.Why(ctx(t), c.req)
			if err != nil {
				t.Fatal(err)
			}
			text := resp.GetSummary()
			for _, r := range resp.GetReasons() {
				text += "\n" + r.GetText()
			}
			if resp.GetVerdict() != c.verdict {
				t.Errorf("verdict %v:\n%s", resp.GetVerdict(), text)
			}
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("does not say %q:\n%s", s, text)
				}
			}
		})
	}
	resp, err := q.Why(ctx(t), &queryapi.WhyRequest{From: from, ToHost: "vault.safe", Port: 80})
	if err != nil || fmt.Sprint(resp.GetNamespaces()) != "[safe shop]" {
		t.Errorf("%v %v", resp.GetNamespaces(), err)
	}
	for name, c := range map[string]struct {
		req  *queryapi.WhyRequest
		code codes.Code
	}{
		"nobody":        {&queryapi.WhyRequest{ToHost: "web"}, codes.InvalidArgument},
		"no such pod":   {&queryapi.WhyRequest{From: sel("po", "shop", "x"), ToHost: "web"}, codes.NotFound},
		"from Services": {&queryapi.WhyRequest{From: sel("svc", "shop", "web"), ToHost: "web"}, codes.InvalidArgument},
		"to nothing":    {&queryapi.WhyRequest{From: from}, codes.InvalidArgument},
		"to two":        {&queryapi.WhyRequest{From: from, ToHost: "web", To: sel("svc", "shop", "web")}, codes.InvalidArgument},
		"which port":    {&queryapi.WhyRequest{From: from, ToHost: "vault.safe"}, codes.InvalidArgument},
		"no such port":  {&queryapi.WhyRequest{From: from, ToHost: "web", Port: 1 << 20}, codes.InvalidArgument},
		"to namespaces": {&queryapi.WhyRequest{From: from, To: sel("ns", "", "safe")}, codes.InvalidArgument},
	} {
		if _, err := q.Why(ctx(t), c.req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
}
