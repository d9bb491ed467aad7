package local_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// TestTwoQueues runs both ends with two queues on each side of their sidecars,
// so that packets of a flow can arrive where another loop has its connection,
// and kills what hands queues over and what holds them. A queue too many, or
// one that nobody reads, would swallow half of all new flows.
func TestTwoQueues(t *testing.T) {
	two := `config.tunmesh.io/proxy-queues: "2"`
	m := meshtest.Up(t, bin, "queues",
		strings.Replace(meshtest.Server("server", 1), "{tunmesh.io/inject: enabled}", "{tunmesh.io/inject: enabled, "+two+"}", 1),
		meshtest.Client("client", true, "    "+two+"\n"),
		meshtest.Client("outsider", false, ""))
	twoEach(t, m)
	t.Run("every protocol", func(t *testing.T) { testProtocols(t, m) })
	t.Run("flows that pause", func(t *testing.T) { testPauses(t, m) })
	t.Run("no flow vanishes", func(t *testing.T) { testFlows(t, m) })
	for _, pod := range []string{"client", "server"} {
		t.Run("the "+pod+"'s sidecar is killed", func(t *testing.T) { testSidecarKilled(t, m, pod) })
	}
	t.Run("the agent is killed, then both sidecars", func(t *testing.T) {
		agent := m.Part("mesh-cni", "agent")
		kill(t, agent)
		testFlows(t, m)
		meshtest.Eventually(t, 20*time.Second, "the agent runs again", func() bool {
			pid := m.Part("mesh-cni", "agent")
			return pid != 0 && pid != agent
		})
		for _, pod := range []string{"client", "server"} {
			old := m.Pod(t, pod).PIDs["mesh-proxy"]
			kill(t, old)
			meshtest.Eventually(t, 30*time.Second, "the sidecar of "+pod+" runs again", func() bool {
				p := m.Pod(t, pod)
				return p.Ready && p.PIDs["mesh-proxy"] != old && p.PIDs["mesh-proxy"] != 0
			})
		}
	})
	twoEach(t, m)
	t.Run("no flow vanishes afterwards", func(t *testing.T) { testFlows(t, m) })
}

// twoEach expects two queues on each side of both sidecars.
func twoEach(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	for _, pod := range []string{"client", "server"} {
		if n := tuns(t, m.Pod(t, pod).PIDs["mesh-proxy"]); n != 4 {
			t.Errorf("%s: the sidecar holds %d TUN queues, want two on each of two sides", pod, n)
		}
	}
}

func testProtocols(t *testing.T, m *meshtest.Mesh) {
	server := m.Pod(t, "server")
	for what, more := range map[string][]string{"kept": nil, "new": {"--fresh"}} {
		if s := finish[spread](t, load(t, m, 2*time.Second, more...)); s.failed() != 0 || s.calls() < 50 {
			t.Errorf("HTTP on %s connections: %d answered, failed: %v", what, s.calls(), s.Errors)
		}
	}
	if s := meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "500", "--parallel", "8", "server:8081"); s.failed() != 0 || s.calls() != 500 {
		t.Errorf("gRPC: %d answered, failed: %v", s.calls(), s.Errors)
	}
	if b := meshtest.JSON[banner](t, m, "client", "testapp", "banner", "server:25"); b.Error != "" {
		t.Errorf("server-first: %+v", b)
	}
	if u := meshtest.JSON[transfer](t, m, "client", "testapp", "udp", server.IP+":5353"); u.Error != "" {
		t.Errorf("UDP: %+v", u)
	}
	for _, from := range []string{"client", "outsider"} {
		if r := meshtest.JSON[transfer](t, m, from, "testapp", "upload", "--bytes", fmt.Sprint(10<<20), server.IP+":7001"); !r.Same || r.Error != "" {
			t.Errorf("upload by %s: %+v", from, r)
		}
		if r := meshtest.JSON[transfer](t, m, from, "testapp", "upload", "--receive", "--bytes", fmt.Sprint(10<<20), server.IP+":7003"); !r.Same || r.Error != "" {
			t.Errorf("download by %s: %+v", from, r)
		}
	}
}

// testPauses is silent for longer than the kernel remembers which queue a flow
// was seen on (3 s).
func testPauses(t *testing.T, m *meshtest.Mesh) {
	var calls []*running
	for range 6 {
		calls = append(calls, background(t, m, "client", "testapp", "grpc", "-n", "3", "--every", "4s", "server:8081"))
	}
	for _, c := range calls {
		if s := finish[spread](t, c); s.failed() != 0 || s.calls() != 3 {
			t.Errorf("calls with pauses: %d answered, failed: %v", s.calls(), s.Errors)
		}
	}
}

// testFlows makes connections by every road, and has bytes echoed on each.
func testFlows(t *testing.T, m *meshtest.Mesh) {
	server := m.Pod(t, "server")
	for from, to := range map[string]string{"client": "server:7000", "outsider": server.IP + ":7000"} {
		d := meshtest.JSON[dials](t, m, from, "testapp", "dial", "-n", "400", "--parallel", "8", to)
		if d.Results["connected"] != 400 {
			t.Errorf("400 connects from %s: %v", from, d.Results)
		}
		r := meshtest.JSON[struct{ Open, Failed int }](t, m, from, "testapp", "idle", "--opaque", "-n", "200", "--hold", "0s", to)
		if r.Open != 200 || r.Failed != 0 {
			t.Errorf("200 echoes to %s: %+v", from, r)
		}
	}
	r := meshtest.JSON[struct{ Open, Failed int }](t, m, "client", "testapp", "idle", "-n", "200", "--hold", "0s", "server:80")
	if r.Open != 200 || r.Failed != 0 {
		t.Errorf("200 requests, each on its own connection: %+v", r)
	}
}
