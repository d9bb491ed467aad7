package render_test

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func TestPolicy(t *testing.T) {
	in := &query.PolicyResponse{Policy: &query.PolicyResponse_Inbound{Inbound: &policy.InboundPolicy{
		Default: policy.Default_DENY, ClusterNetworks: []string{"10.0.0.0/8"}, Probes: []*policy.Probe{{Port: 80, Method: "GET", Path: "/<ready>"}},
	}}}
	out := &query.PolicyResponse{Policy: &query.PolicyResponse_Outbound{Outbound: &destination.Target{
		Kind: destination.Kind_SERVICE, Authority: "web.shop.svc.cluster.local:80",
		Traffic: &destination.Traffic{Timeouts: &destination.Timeouts{RequestMs: 300}},
	}}}
	for _, c := range []struct {
		resp       *query.PolicyResponse
		yaml, json string
	}{
		{in, "clusterNetworks:\n- 10.0.0.0/8\ndefault: DENY\nprobes:\n- method: GET\n  path: /<ready>\n  port: 80\n", `"path": "/<ready>"`},
		{out, "authority: web.shop.svc.cluster.local:80\nkind: SERVICE\ntraffic:\n  timeouts:\n    requestMs: \"300\"\n", `"kind": "SERVICE"`},
	} {
		var y, j strings.Builder
		if err := render.PolicyYAML(&y, c.resp); err != nil || y.String() != c.yaml {
			t.Errorf("%v:\n%s\nwant:\n%s", err, y.String(), c.yaml)
		}
		if err := render.PolicyJSON(&j, c.resp); err != nil || !strings.Contains(j.String(), c.json) {
			t.Errorf("%v:\n%s\nwant %s in it", err, j.String(), c.json)
		}
	}
}

func TestEndpoints(t *testing.T) {
	rows := []*query.EndpointRow{
		{Namespace: "shop", Ip: "10.1.0.1", Port: 8080, Pod: "shop/web-1", Service: "shop/web", Identity: "spiffe://cluster.local/ns/shop/sa/web", Ready: true, Weight: 10000, Labels: map[string]string{"pod": "web-1"}},
		{Namespace: "back", Ip: "fd00::1", Port: 80, Pod: "/", Service: "back/db"},
		{Namespace: "shop", Ip: "10.1.0.12", Port: 8080, Pod: "shop/web-2", Service: "shop/web"},
	}
	var b strings.Builder
	if err := render.Endpoints(&b, rows); err != nil {
		t.Fatal(err)
	}
	if got, want := "\n"+b.String(), `
NAMESPACE   IP        PORT   POD   SERVICE   READY   IDENTITY
back        fd00::1   80     -     db.back   no      -

NAMESPACE   IP          PORT   POD     SERVICE    READY   IDENTITY
shop        10.1.0.1    8080   web-1   web.shop   yes     spiffe://cluster.local/ns/shop/sa/web
shop        10.1.0.12   8080   web-2   web.shop   no      -
`; got != want {
		t.Errorf("%s\nwant:%s", got, want)
	}
	b.Reset()
	if err := render.EndpointsJSON(&b, rows[:1]); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"namespace": "shop"`, `"ip": "10.1.0.1"`, `"port": 8080`, `"pod": "web-1"`, `"service": "web.shop"`, `"weight": 10000`, `"labels": {`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, b.String())
		}
	}
	b.Reset()
	if err := render.EndpointsJSON(&b, nil); err != nil || b.String() != "[]\n" {
		t.Errorf("%q %v", b.String(), err)
	}
}
