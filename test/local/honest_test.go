package local_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

type dials struct {
	Results   map[string]int `json:"results"`
	MedianUs  int64          `json:"median_us"`
	SlowestUs int64          `json:"slowest_us"`
}

func (d dials) slowest() time.Duration { return time.Duration(d.SlowestUs) * time.Microsecond }

type banner struct {
	Banner   string `json:"banner"`
	MedianUs int64  `json:"median_us"`
	Error    string `json:"error"`
}

type transfer struct {
	Same  bool    `json:"same"`
	Peer  string  `json:"peer"`
	Bytes int64   `json:"bytes"`
	Error string  `json:"error"`
	Secs  float64 `json:"seconds"`
}

// honest is one mesh for all that must be as without a mesh.
func honest(t *testing.T) *meshtest.Mesh {
	t.Helper()
	return meshtest.Up(t, bin, "honest",
		meshtest.Server("server", 1),
		meshtest.Service("nobody", "nothing-has-this-label"),
		meshtest.Client("client", true, ""),
		strings.ReplaceAll(meshtest.Server("plain", 1), "tunmesh.io/inject: enabled", "tunmesh.io/inject: disabled"),
		meshtest.Client("outsider", false, ""),
	)
}

func TestHonest(t *testing.T) {
	m := honest(t)
	server, plain, client := m.Pod(t, "server"), m.Pod(t, "plain"), m.Pod(t, "client")

	t.Run("server-first", func(t *testing.T) {
		for _, port := range []string{"2525", "2222"} {
			direct := meshtest.JSON[banner](t, m, "outsider", "testapp", "banner", plain.IP+":"+port)
			svc := map[string]string{"2525": "25", "2222": "22"}[port]
			meshed := meshtest.JSON[banner](t, m, "client", "testapp", "banner", "server:"+svc)
			if direct.Error != "" || meshed.Error != "" || meshed.Banner != direct.Banner {
				t.Fatalf("direct %+v, meshed %+v", direct, meshed)
			}
			added := time.Duration(meshed.MedianUs-direct.MedianUs) * time.Microsecond
			t.Logf("%s: direct %d µs, meshed %d µs", meshed.Banner, direct.MedianUs, meshed.MedianUs)
			if added > 50*time.Millisecond {
				t.Errorf("%s: %v added, want at most 50 ms", meshed.Banner, added)
			}
		}
	})

	t.Run("refused is refused", func(t *testing.T) {
		for what, addr := range map[string]string{
			"a Service without endpoints":               "nobody:80",
			"a pod's closed port":                       server.IP + ":9998",
			"a Service whose target port is closed":     "server:9999",
			"an unmeshed host's closed port":            plain.IP + ":9998",
			"a port that the Service does not have":     "server:12345",
			"an address of the mesh that nobody has":    strings.TrimSuffix(server.IP, lastOctet(server.IP)) + "250:80",
			"an address outside that nothing routes to": "192.0.2.1:80",
		} {
			// The first asks the control plane; what is known is what an app feels.
			meshtest.JSON[dials](t, m, "client", "testapp", "dial", addr)
			d := meshtest.JSON[dials](t, m, "client", "testapp", "dial", "-n", "5", addr)
			if what == "an address outside that nothing routes to" {
				if d.Results["connected"] != 0 {
					t.Errorf("%s: %v", what, d.Results)
				}
				continue
			}
			if d.Results["refused"] != 5 {
				t.Errorf("%s (%s): %v, want refused", what, addr, d.Results)
			} else if d.MedianUs > 10_000 {
				t.Errorf("%s (%s): refused after %d µs, want at most 10 ms", what, addr, d.MedianUs)
			}
			t.Logf("%s: %v, after %d µs", what, d.Results, d.MedianUs)
		}
	})

	t.Run("true client address", func(t *testing.T) {
		up := meshtest.JSON[transfer](t, m, "client", "testapp", "upload", "--bytes", "10", "server:7001")
		if up.Peer != client.IP {
			t.Errorf("L4: the server saw %s, want %s", up.Peer, client.IP)
		}
		h := meshtest.JSON[spread](t, m, "client", "testapp", "load", "--rps", "50", "--duration", "1s", "http://server/")
		if len(h.Errors) != 0 || len(h.Peers) != 1 || h.Peers[client.IP] == 0 {
			t.Errorf("HTTP: the server saw %v (errors %v), want %s", h.Peers, h.Errors, client.IP)
		}
		out := m.Pod(t, "outsider")
		up = meshtest.JSON[transfer](t, m, "outsider", "testapp", "upload", "--bytes", "10", server.IP+":7001")
		if up.Peer != out.IP {
			t.Errorf("from outside: the server saw %s, want %s (%s)", up.Peer, out.IP, up.Error)
		}
	})

	t.Run("half-closed upload", func(t *testing.T) {
		up := meshtest.JSON[transfer](t, m, "client", "testapp", "upload", "--bytes", fmt.Sprint(64<<20), "server:7001")
		if !up.Same || up.Error != "" {
			t.Errorf("%+v", up)
		}
	})

	t.Run("1 GiB", func(t *testing.T) {
		down := meshtest.JSON[transfer](t, m, "client", "testapp", "upload", "--receive", "--bytes", fmt.Sprint(1<<30), "server:7003")
		if !down.Same || down.Bytes != 1<<30 {
			t.Errorf("%+v", down)
		}
		t.Logf("1 GiB in %.1f s", down.Secs)
	})

	t.Run("UDP and DNS", func(t *testing.T) {
		u := meshtest.JSON[transfer](t, m, "client", "testapp", "udp", server.IP+":5353")
		if u.Error != "" || u.Peer != client.IP {
			t.Errorf("UDP: %+v, want peer %s", u, client.IP)
		}
		for _, name := range []string{"server", "server.default", "server.default.svc", "server.default.svc.cluster.local"} {
			d := meshtest.JSON[dials](t, m, "client", "testapp", "dial", name+":80")
			if d.Results["connected"] != 1 {
				t.Errorf("name %s: %v", name, d.Results)
			}
		}
		d := meshtest.JSON[dials](t, m, "client", "testapp", "dial", "nosuchname.default:80")
		for r := range d.Results {
			if !strings.Contains(r, "no such host") {
				t.Errorf("unknown name: %s", r)
			}
		}
	})

	t.Run("the app's own TLS", func(t *testing.T) {
		for _, to := range []string{"server:443", plain.IP + ":8443"} {
			r := meshtest.JSON[map[string]any](t, m, "client", "testapp", "tls", to)
			if r["error"] != "" {
				t.Errorf("%s: %v", to, r)
			}
		}
	})
}

func lastOctet(ip string) string { return ip[strings.LastIndex(ip, ".")+1:] }
