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
		{in, "clusterNetworks:\n- 10.0.0.0/8\ndefault: DENY\nprobes:\n- method: GET\n  path: /<ready>\n  port: 80\n", `
{
  "default": "DENY",
  "clusterNetworks": [
    "10.0.0.0/8"
  ],
  "probes": [
    {
      "port": 80,
      "method": "GET",
      "path": "/<ready>"
    }
  ]
}
`},
		{out, "authority: web.shop.svc.cluster.local:80\nkind: SERVICE\ntraffic:\n  timeouts:\n    requestMs: \"300\"\n", `
{
  "kind": "SERVICE",
  "authority": "web.shop.svc.cluster.local:80",
  "traffic": {
    "timeouts": {
      "requestMs": "300"
    }
  }
}
`},
	} {
		golden(t, "YAML", text(t, func(b *strings.Builder) error { return render.PolicyYAML(b, c.resp) }), c.yaml)
		golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.PolicyJSON(b, c.resp) }), c.json)
	}
}

func TestEndpoints(t *testing.T) {
	rows := []*query.EndpointRow{
		{Namespace: "shop", Ip: "10.1.0.1", Port: 8080, Pod: "shop/web-1", Service: "shop/web", Identity: "spiffe://cluster.local/ns/shop/sa/web", Ready: true, Weight: 10000, Http2: true, Labels: map[string]string{"pod": "web-1"}},
		{Namespace: "back", Ip: "fd00::1", Port: 80, Pod: "/", Service: "back/db"},
		{Namespace: "shop", Ip: "10.1.0.12", Port: 8080, Pod: "shop/web-2", Service: "shop/web"},
	}
	golden(t, "table", text(t, func(b *strings.Builder) error { return render.Endpoints(b, rows) }), `
NAMESPACE   IP        PORT   POD   SERVICE   READY   IDENTITY
back        fd00::1   80     -     db.back   no      -

NAMESPACE   IP          PORT   POD     SERVICE    READY   IDENTITY
shop        10.1.0.1    8080   web-1   web.shop   yes     spiffe://cluster.local/ns/shop/sa/web
shop        10.1.0.12   8080   web-2   web.shop   no      -
`)
	golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.EndpointsJSON(b, rows[:2]) }), `
[
  {
    "namespace": "shop",
    "ip": "10.1.0.1",
    "port": 8080,
    "pod": "web-1",
    "service": "web.shop",
    "weight": 10000,
    "http2": true,
    "labels": {
      "pod": "web-1"
    },
    "ready": true,
    "identity": "spiffe://cluster.local/ns/shop/sa/web"
  },
  {
    "namespace": "back",
    "ip": "fd00::1",
    "port": 80,
    "pod": "",
    "service": "db.back",
    "weight": 0,
    "http2": false,
    "labels": {},
    "ready": false,
    "identity": ""
  }
]
`)
	golden(t, "no JSON", text(t, func(b *strings.Builder) error { return render.EndpointsJSON(b, nil) }), "[]\n")
}
