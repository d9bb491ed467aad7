package tunproxy_test

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// TestConnectionsAreListed: those with peers, with who they are, and no others.
func TestConnectionsAreListed(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	w.service("10.96.0.1:81", "10.0.0.2:81=b")
	b.serveHTTP(80, whoami("b"))
	b.serve(81, echo)
	c := a.talk(t)
	find := func(all []wire.Connection, port string) *wire.Connection {
		for i := range all {
			if strings.HasSuffix(all[i].Remote, ":"+port) || strings.HasSuffix(all[i].Local, ":"+port) {
				return &all[i]
			}
		}
		t.Fatalf("none of port %s in %+v", port, all)
		return nil
	}
	for _, side := range []struct {
		p             *pod
		direction, id string
		in, out       uint64
		other         string
	}{{a, "outbound", "server_id", 2, 2, "10.0.0.2"}, {b, "inbound", "client_id", 2, 2, "10.0.0.1"}} {
		all, total := side.p.proxy.Connections(t.Context(), 0)
		if len(all) != 2 || total != 2 {
			t.Fatalf("%d of %d connections: %+v", len(all), total, all)
		}
		bytes, requests := find(all, "81"), find(all, "80")
		if bytes.Protocol != "opaque" || bytes.Direction != side.direction || bytes.BytesIn != side.in || bytes.BytesOut != side.out || bytes.Labels["tls"] != "true" || bytes.Labels[side.id] == "" {
			t.Errorf("bytes: %+v", bytes)
		}
		if requests.Protocol != "http/2" || !strings.HasPrefix(requests.Remote, side.other+":") || requests.BytesIn == 0 || requests.RTTUS == 0 || requests.AgeUS == 0 {
			t.Errorf("requests: %+v", requests)
		}
		if few, total := side.p.proxy.Connections(t.Context(), 1); len(few) != 1 || total != 2 {
			t.Errorf("%d of %d, want 1 of 2", len(few), total)
		}
	}
	c.Close()
	eventually(t, "it is gone", func() bool { _, total := a.proxy.Connections(t.Context(), 0); return total == 1 })
}
