package telemetry_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// TestOff: every handle of metrics that are off counts nothing and breaks nothing,
// and what the process itself says is there all the same.
func TestOff(t *testing.T) {
	m := telemetry.New(telemetry.Config{Off: true}, "1")
	if !m.Off() || telemetry.New(telemetry.Config{}, "1").Off() {
		t.Error("it does not say whether it is off")
	}
	at := netip.MustParseAddrPort("10.0.0.1:80")
	l := telemetry.Labels{Direction: flow.Outbound, Target: at}
	parent := telemetry.Parent{Kind: "Service", Name: "web", Port: 80}
	for range 2 {
		h := m.HTTP.Handle(&l)
		h.Request()
		h.Response(telemetry.Response{Status: 200})
		h.Release()
		c := m.TCP.Handle(&l, telemetry.Src)
		c.Open()
		c.Read(1)
		c.Wrote(1)
		c.Went(telemetry.Network{RTT: time.Millisecond, Retransmits: 1})
		c.Close("")
		c.Release()
		b := m.Balancers.Handle(parent, time.Second)
		b.Endpoints(1, 1)
		b.Waited(time.Second)
		b.Gate(true)
		b.Release()
		r := m.Routes.Handle(parent, telemetry.Ref{})
		r.Sent()
		r.Answered(telemetry.Answer{Status: 200})
		r.Ended(telemetry.Answer{Status: 200}, telemetry.Frames{Bytes: 1})
		r.Release()
		s := m.Served.Handle(telemetry.Server{}, telemetry.Ref{})
		s.Request()
		s.Ended(telemetry.Answer{Status: 200}, time.Second, telemetry.Frames{})
		s.Release()
		to := m.Connections.Handle(parent, telemetry.Ref{})
		to.Begun(telemetry.KnownHTTP1)
		to.Opened()
		to.Closed("")
		to.Release()
		d := m.Detections[flow.Inbound].To(parent)
		d.Result(telemetry.HTTP1, time.Second)
		d.Release()
		u := m.Datagrams.Flow(flow.Outbound, at)
		u.Packet(true, 1)
		u.Close()
		n := m.Datagrams.Name("a.b", "A")
		n.Asked()
		n.Answered(0, 1, time.Second)
		n.Unanswered()
		n.Release()
		call := m.Control.Call("x:1", "x", "y")
		call.Request()
		call.Release()
		m.TCPError(flow.Outbound, "refused")
	}
	text := string(m.Registry.Text())
	for _, name := range []string{"request_total", "tcp_open_total", "outbound_", "udp_flows_total", "dns_queries_total"} {
		if strings.Contains(text, "\n"+name) {
			t.Errorf("%s is printed", name)
		}
	}
	if !strings.Contains(text, "\ngo_memstats_mallocs_total ") || !strings.Contains(text, "\nproxy_build_info{") || !strings.Contains(text, "\ntelemetry_label_sets 0\n") {
		t.Errorf("the process says too little:\n%s", text)
	}
}
