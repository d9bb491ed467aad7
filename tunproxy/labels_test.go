package tunproxy_test

import (
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/discover"
)

// talk asks for a page at port 80 of 10.96.0.1, and has bytes echoed by port 81, over
// connections that stay; it returns the latter.
func (p *pod) talk(t *testing.T) net.Conn {
	t.Helper()
	resp, err := p.client(true).Get("http://10.96.0.1/")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	c := p.dial("10.96.0.1:81")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPooledConnectionsAreNamed: a connection that carries requests says in
// metrics whose it is, as one that carries bytes does.
func TestPooledConnectionsAreNamed(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, whoami("b"))
	b.serve(81, echo)
	w.service("10.96.0.1:81", "10.0.0.2:81=b")
	a.talk(t)
	for _, port := range []string{"80", "81"} {
		if n := a.metric("tcp_open_connections", `peer="dst"`, `target_port="`+port+`"`, `dst_pod="b"`); n != 1 {
			t.Errorf("port %s: %v open connections to pod b, want 1\n%s", port, n, a.metrics.Registry.Text())
		}
	}
}

// TestMalformedRequestsAreCounted: what the sidecar refuses to understand is in
// its metrics, by reason.
func TestMalformedRequestsAreCounted(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	b.serveHTTP(80, whoami("b"))
	c := out.dial("10.0.0.2:80")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
	answer, _ := io.ReadAll(c)
	if n := b.metric("inbound_http_errors_total"); n != 1 {
		t.Errorf("%v errors counted for %q, want 1", n, answer)
	}
}

// TestLabelsAreLinkerds: the families that dashboards and alerts ask for have the
// labels that Linkerd's have, which their queries group and match by.
func TestLabelsAreLinkerds(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	dst := map[string]string{"deployment": "b", "namespace": "test", "serviceaccount": "b", "pod_template_hash": "5d8c"}
	for vip, to := range map[string]string{"10.96.0.1:80": "10.0.0.2:80", "10.96.0.1:81": "10.0.0.2:81"} {
		w.target(vip, &discover.Snapshot{
			Kind: discover.Service, Authority: "b.test.svc.cluster.local:80", Labels: map[string]string{"service": "b"},
			Ref: discover.Ref{Kind: "Service", Namespace: "test", Name: "b", Port: 80},
			Endpoints: []discover.Endpoint{{
				Addr: netip.MustParseAddrPort(to), Weight: 10000, Own: discover.LabelsOf(map[string]string{"pod": "b-1"}),
				Workload: discover.WorkloadOf("zone-1", id("b"), discover.LabelsOf(dst)),
			}},
		})
	}
	b.serveHTTP(80, whoami("b"))
	b.serve(81, echo)
	a.talk(t)
	for _, p := range []*pod{a, b} {
		eventually(t, "the response is counted", func() bool { return p.metric("response_total") == 1 })
	}
	const (
		to      = "direction target_addr target_ip target_port tls "
		server  = "srv_group srv_kind srv_name srv_port "
		route   = "route_group route_kind route_name "
		by      = "authz_group authz_kind authz_name "
		whom    = "server_id dst_deployment dst_namespace dst_pod dst_pod_template_hash dst_service dst_serviceaccount dst_zone "
		parent  = "parent_group parent_kind parent_namespace parent_name parent_port parent_section_name "
		rule    = "route_group route_kind route_namespace route_name "
		backend = "backend_group backend_kind backend_namespace backend_name backend_port backend_section_name "
	)
	for _, k := range []struct {
		p    *pod
		line string // how one begins, and has
		want string
	}{
		{b, `request_total `, to + "authority client_id " + server + route + by},
		{b, `response_total `, to + "authority client_id " + server + route + by + "status_code classification"},
		{b, `response_latency_ms_bucket `, to + "authority client_id " + server + route + by + "status_code le"},
		{b, `inbound_http_authz_allow_total `, to + "client_id " + server + route + by},
		{b, `inbound_tcp_authz_allow_total `, to + "client_id " + server + by},
		{b, `tcp_open_total peer="src" target_port="80" client_id`, to + "peer client_id " + server},
		{b, `tcp_open_total peer="src" target_port="81" client_id`, to + "peer client_id " + server + by},
		{b, `tcp_open_total peer="dst"`, to + "peer no_tls_reason"},
		{a, `request_total `, to + "authority " + whom},
		{a, `response_total `, to + "authority " + whom + "status_code classification"},
		{a, `tcp_open_total peer="dst" target_port="80"`, to + "peer authority " + whom},
		{a, `tcp_open_total peer="dst" target_port="81"`, to + "peer authority " + whom},
		{a, `tcp_open_total peer="src"`, to + "peer authority no_tls_reason dst_service"},
		{a, `outbound_http_route_request_statuses_total `, parent + rule + "hostname http_status error"},
		{a, `outbound_http_route_backend_response_statuses_total `, parent + rule + backend + "http_status error"},
		{a, `outbound_http_balancer_endpoints `, parent + backend + "endpoint_state"},
		{a, `outbound_tcp_protocol_connections_total `, parent + "protocol"},
		{a, `outbound_tcp_route_open_total `, parent + rule},
		{b, `process_network_receive_bytes_total`, ""},
		{b, `process_network_transmit_bytes_total`, ""},
	} {
		text := string(k.p.metrics.Registry.Text())
		got := labelsOf(text, strings.Fields(k.line))
		if want := slices.Sorted(slices.Values(strings.Fields(k.want))); !slices.Equal(got, want) {
			t.Errorf("%s\nhas  %q\nwant %q\n%s", k.line, got, want, text)
		}
	}
	if n := b.metric("tcp_open_total", `peer="src"`, `srv_name="all-unauthenticated"`, `srv_port="80"`); n == 0 {
		t.Error("a connection does not name the policy's server")
	}
	if n := b.metric("process_network_receive_bytes_total"); n != b.metric("netstack_rx_bytes_total", `side="wire"`) || n == 0 {
		t.Errorf("%v bytes from the network", n)
	}
}

// labelsOf are the names of the labels of the first sample of a family that has
// the given parts, sorted.
func labelsOf(text string, parts []string) []string {
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "{")
		labels, _, labelled := strings.Cut(rest, "} ")
		if !labelled {
			name, _, _ = strings.Cut(name, " ")
		}
		if name != parts[0] || slices.ContainsFunc(parts[1:], func(p string) bool { return !strings.Contains(labels, p) }) {
			continue
		}
		names := map[string]bool{}
		for l := range strings.SplitSeq(labels, `",`) {
			if n, _, ok := strings.Cut(l, "="); ok {
				names[n] = true
			}
		}
		return slices.Sorted(maps.Keys(names))
	}
	return []string{"no such sample"}
}
