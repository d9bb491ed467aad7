package tunproxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestFamiliesOfRoutes: what callers and servers see of requests, by rule, is what
// happened.
func TestFamiliesOfRoutes(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		switch {
		case r.URL.Path == "/bad":
			rw.WriteHeader(500)
		case n > 0:
			_, _ = io.WriteString(rw, strings.Repeat("x", 500))
		}
	}))
	c := a.client(true)
	for range 3 {
		resp, err := c.Post("http://10.96.0.1/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	resp, err := c.Get("http://10.96.0.1/bad")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, "all are counted", func() bool { return b.metric("inbound_http_statuses_total") == 4 })
	const route, backend = "outbound_http_route_", "outbound_http_route_backend_"
	of := []string{`route_kind="default"`, `route_name="http"`}
	for _, m := range []struct {
		p      *pod
		name   string
		labels []string
		want   float64
	}{
		{a, route + "request_duration_seconds_count", of, 4},
		{a, route + "request_statuses_total", append([]string{`http_status="200"`, `error=""`}, of...), 3},
		{a, route + "request_statuses_total", append([]string{`http_status="500"`}, of...), 1},
		{a, route + "request_frame_size_bytes_bucket", []string{`le="128"`}, 3},
		{a, route + "request_frame_size_bytes_sum", nil, 15},
		{a, backend + "requests_total", append([]string{`backend_group="core"`}, of...), 4},
		{a, backend + "response_duration_seconds_bucket", []string{`le="+Inf"`}, 4},
		{a, backend + "response_statuses_total", []string{`http_status="500"`}, 1},
		{a, backend + "response_frame_size_bytes_sum", nil, 1500},
		{a, "outbound_http_balancer_queue_latency_seconds_count", nil, 4},
		{a, "outbound_http_balancer_queue_gate_open_total", nil, 1},
		{a, "outbound_http_balancer_queue_gate_timeout_seconds", nil, 3},
		{a, "outbound_http_balancer_p2c_endpoints", nil, 1},
		{a, "outbound_http_balancer_p2c_updates_total", []string{`op="Add"`}, 1},
		{a, "outbound_tcp_protocol_connections_total", []string{`protocol="detect"`}, 1},
		{a, "outbound_tcp_detect_http_results_total", []string{`result="h2"`}, 1},
		{b, "inbound_http_requests_total", []string{`parent_kind="default"`, `parent_port="80"`, `route_name="default"`}, 4},
		{b, "inbound_http_statuses_total", []string{`status="200"`}, 3},
		{b, "inbound_http_request_duration_seconds_count", nil, 4},
		{b, "inbound_http_response_duration_seconds_count", nil, 4},
		{b, "inbound_http_response_frame_size_bytes_sum", nil, 1500},
		{b, "inbound_http_request_frame_size_bytes_bucket", []string{`le="10240"`}, 3},
		{b, "inbound_tcp_detect_http_results_total", []string{`result="h2"`, `srv_port="80"`}, 1},
	} {
		if got := m.p.metric(m.name, m.labels...); got != m.want {
			t.Errorf("%s%q is %v, want %v", m.name, m.labels, got, m.want)
		}
	}
}

// TestRouteErrors: what another sidecar had to say is a status like any other.
func TestRouteErrors(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	resp, err := a.client(false).Post("http://10.96.0.1/", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, "it is counted", func() bool { return a.metric("outbound_http_route_request_duration_seconds_count") == 1 })
	// The far sidecar said 502; this one passed it on.
	if n := a.metric("outbound_http_route_request_statuses_total", `http_status="502"`, `error=""`); n != 1 || resp.StatusCode != 502 {
		t.Errorf("status %d, counted %v", resp.StatusCode, n)
	}
}

// TestFamiliesOfByteRoutes: connections that carry bytes are counted by rule.
func TestFamiliesOfByteRoutes(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:81", "10.0.0.2:81=b")
	b.serve(81, echo)
	c := a.dial("10.96.0.1:81")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if n := a.metric("outbound_tcp_route_open_total", `route_name="opaq"`); n != 1 {
		t.Errorf("%v connections were opened", n)
	}
	if n := a.metric("outbound_tcp_balancer_queue_latency_seconds_count"); n != 1 {
		t.Errorf("%v went through the balancer", n)
	}
	if n := a.metric("outbound_tcp_balancer_endpoints", `endpoint_state="ready"`); n != 1 {
		t.Errorf("%v endpoints", n)
	}
	c.Close()
	eventually(t, "the end is counted", func() bool { return a.metric("outbound_tcp_route_close_total", `error=""`) == 1 })
	if n := a.metric("outbound_tcp_detect_http_results_total", `result="not_http"`); n != 1 {
		t.Errorf("%v were found to carry bytes", n)
	}
}
