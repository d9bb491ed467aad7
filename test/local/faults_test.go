package local_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// TestFaults kills, one after the other, each part of a running mesh under
// load. The tests share the mesh: each finds what the one before it left.
func TestFaults(t *testing.T) {
	m := meshtest.Up(t, bin, "faults", meshtest.Server("server", 2), meshtest.Client("client", true, ""))
	t.Run("the client's sidecar is killed", func(t *testing.T) { testSidecarKilled(t, m, "client") })
	t.Run("a server's sidecar is killed", func(t *testing.T) { testSidecarKilled(t, m, "server") })
	t.Run("the agent is killed, then a sidecar", func(t *testing.T) { testAgentKilled(t, m) })
	t.Run("the control plane is away", func(t *testing.T) { testControlAway(t, m) })
}

// loaders are the requests in flight of each load: at most so many can have
// been delivered when something dies.
const loaders = 4

// load makes requests on connections that are kept, or on new ones.
func load(t *testing.T, m *meshtest.Mesh, d time.Duration, more ...string) *running {
	t.Helper()
	return background(t, m, "client", append([]string{"testapp", "load", "--rps", "100", "--parallel", fmt.Sprint(loaders), "--duration", d.String(), "http://server/"}, more...)...)
}

// testSidecarKilled kills a sidecar twice under load. Only what was delivered
// may fail: requests of the app's connections, which end with the sidecar.
// Connects made while there is none wait in the queue, which outlives it, and
// succeed. The first time it is started again at once, afterwards with a
// backoff (0.1 s here), so that the second gap is sure to have connects in it.
func testSidecarKilled(t *testing.T, m *meshtest.Mesh, pod string) {
	name := m.Pod(t, pod).Name
	before := m.Pod(t, pod).Restarts
	requests := load(t, m, 8*time.Second)
	connects := background(t, m, "client", "testapp", "dial", "--duration", "8s", "--parallel", "2", "--every", "5ms", "server:7000")
	time.Sleep(2 * time.Second)
	for again := range 2 {
		old := m.Pod(t, name).PIDs["mesh-proxy"]
		start := time.Now()
		kill(t, old)
		meshtest.Eventually(t, 5*time.Second, "the sidecar runs again", func() bool {
			p := m.Pod(t, name)
			return p.Restarts == before+again+1 && p.PIDs["mesh-proxy"] != old && p.PIDs["mesh-proxy"] != 0 && p.Ready
		})
		gap := time.Since(start)
		t.Logf("ready %v after kill %d", gap, again+1)
		if gap > 3*time.Second {
			t.Errorf("ready %v after it was killed, want at most 3 s", gap)
		}
		time.Sleep(time.Second)
	}
	s, d := finish[spread](t, requests), finish[dials](t, connects)
	t.Logf("%d requests, slowest %v, failed: %v; connects: %v, slowest %v", s.calls(), s.slowest(), s.Errors, d.Results, d.slowest())
	if s.failed() > 2*loaders {
		t.Errorf("failed requests: %v", s.Errors)
	}
	if s.calls() < 500 {
		t.Errorf("only %d requests in 8 s", s.calls())
	}
	if len(d.Results) != 1 || d.Results["connected"] < 200 {
		t.Errorf("connects while the sidecar was killed and away: %v", d.Results)
	}
	if pod == "client" && d.slowest() < 20*time.Millisecond {
		t.Errorf("no connect fell into a gap: the slowest took %v", d.slowest())
	}
}

// testAgentKilled kills the agent: the sidecars keep their queues and serve, no
// request fails, and 1,000 new connections succeed. Then a sidecar is killed as
// well: it gets its queues from the agent that was started again.
func testAgentKilled(t *testing.T, m *meshtest.Mesh) {
	requests := load(t, m, 8*time.Second)
	fresh := load(t, m, 8*time.Second, "--fresh")
	time.Sleep(time.Second)
	old := m.Part("mesh-cni", "agent")
	kill(t, old)
	d := meshtest.JSON[dials](t, m, "client", "testapp", "dial", "-n", "1000", "--parallel", "8", "server:7000")
	t.Logf("connects after the agent's death: %v, slowest %v", d.Results, d.slowest())
	if d.Results["connected"] != 1000 {
		t.Errorf("1,000 connections after the agent's death: %v", d.Results)
	}
	if d.slowest() > 3*time.Second {
		t.Errorf("a connection took %v", d.slowest())
	}
	meshtest.Eventually(t, 10*time.Second, "the agent runs again", func() bool {
		pid := m.Part("mesh-cni", "agent")
		return pid != 0 && pid != old
	})
	for what, r := range map[string]*running{"kept connections": requests, "new connections": fresh} {
		s := finish[spread](t, r)
		t.Logf("%s: %d requests, slowest %v, failed: %v", what, s.calls(), s.slowest(), s.Errors)
		if s.failed() != 0 || s.calls() < 500 {
			t.Errorf("%s while the agent was started again: %d answered, failed: %v", what, s.calls(), s.Errors)
		}
	}

	// Both at once: the sidecar finds no agent, asks until there is one.
	p := m.Pod(t, "client")
	kill(t, m.Part("mesh-cni", "agent"))
	kill(t, p.PIDs["mesh-proxy"])
	d = meshtest.JSON[dials](t, m, "client", "testapp", "dial", "-n", "1000", "--parallel", "8", "server:7000")
	t.Logf("connects after the death of agent and sidecar: %v, slowest %v", d.Results, d.slowest())
	if d.Results["connected"] != 1000 {
		t.Errorf("1,000 connections after the death of agent and sidecar: %v", d.Results)
	}
	meshtest.Eventually(t, 10*time.Second, "the sidecar runs again", func() bool {
		now := m.Pod(t, "client")
		return now.Ready && now.PIDs["mesh-proxy"] != p.PIDs["mesh-proxy"]
	})
	// Had it got another queue beside a live one, flows would vanish.
	if n := tuns(t, m.Pod(t, "client").PIDs["mesh-proxy"]); n != 2 {
		t.Errorf("the sidecar holds %d queues, want one of each side", n)
	}
}

// testControlAway keeps the control plane from running for a minute (10 s with
// -short): the sidecars serve with the last good state, on kept connections and
// on new ones to targets that they know. Afterwards changes arrive again.
func testControlAway(t *testing.T, m *meshtest.Mesh) {
	away := time.Minute
	if testing.Short() {
		away = 10 * time.Second
	}
	whole := away + 4*time.Second
	requests, fresh := load(t, m, whole), load(t, m, whole, "--fresh")
	connects := background(t, m, "client", "testapp", "dial", "--duration", whole.String(), "--every", "20ms", "server:7000")
	time.Sleep(2 * time.Second)
	kills := 0
	for end := time.Now().Add(away); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if pid := m.Part("mesh-control"); pid != 0 {
			kill(t, pid)
			kills++
		}
	}
	for what, r := range map[string]*running{"kept connections": requests, "new connections": fresh} {
		s := finish[spread](t, r)
		t.Logf("%s: %d requests, slowest %v, failed: %v (control plane killed %d times in %v)", what, s.calls(), s.slowest(), s.Errors, kills, away)
		if s.failed() != 0 || s.calls() < 50*int(whole/time.Second) {
			t.Errorf("%s without a control plane: %d answered, failed: %v", what, s.calls(), s.Errors)
		}
	}
	if d := finish[dials](t, connects); len(d.Results) != 1 || d.Results["connected"] == 0 {
		t.Errorf("connects without a control plane: %v", d.Results)
	}

	// The runtime starts it again within 5 s, the sidecars ask again within as much.
	apply(t, m, meshtest.Server("server", 3))
	start := time.Now()
	meshtest.Eventually(t, 30*time.Second, "a new endpoint gets requests", func() bool {
		return len(finish[spread](t, load(t, m, 500*time.Millisecond)).Pods) == 3
	})
	t.Logf("a new pod gets requests %v after it was asked for", time.Since(start))
	m.WaitReady(t, 15*time.Second)
}

// TestManyAndSlowClients holds many connections open for nothing, and sends
// requests a byte at a time beside them. All are answered, the memory of both
// sidecars is bounded, and it all goes back when they end: connections,
// descriptors, goroutines, and in half a minute memory.
func TestManyAndSlowClients(t *testing.T) {
	n, every := 10_000, 300*time.Millisecond // 8 s for a head, of the 10 it may take
	if testing.Short() {
		n, every = 2_000, 100*time.Millisecond
	}
	m := meshtest.Up(t, bin, "many", meshtest.Server("server", 1), meshtest.Client("client", true, ""))
	// What a sidecar keeps once it has worked is not a leak.
	meshtest.JSON[dials](t, m, "client", "testapp", "dial", "-n", "10", "server:7000")
	if s := finish[spread](t, load(t, m, time.Second)); s.failed() != 0 {
		t.Fatalf("%+v", s)
	}
	sides := []string{"client", "server"}
	before := map[string]use{}
	meshtest.Eventually(t, 20*time.Second, "the first load's connections are closed", func() bool {
		for _, pod := range sides {
			before[pod] = used(t, m, pod)
		}
		return before["client"].conns <= slack && before["server"].conns <= slack
	})

	trickle := []*running{
		background(t, m, "client", "testapp", "trickle", "--every", every.String(), "server:80"),
		background(t, m, "client", "testapp", "trickle", "--every", every.String(), m.Pod(t, "server").IP+":8080"),
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	idle := m.Command(ctx, "local", "exec", "client", "--", "testapp", "idle", "-n", fmt.Sprint(n), "--hold", "10m", "server:80")
	idle.WaitDelay = 5 * time.Second
	stdout, err := idle.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var r struct{ Open, Failed int }
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), &r)
	}
	if err != nil || r.Open != n || r.Failed != 0 {
		t.Errorf("%d connections: %q, %v", n, line, err)
	}
	t.Logf("%d connections were answered in %v", r.Open, time.Since(start))
	for _, pod := range sides {
		vm, _ := rss(t, m.Pod(t, pod).PIDs["mesh-proxy"])
		t.Logf("%s: VmRSS %.1f MB with %d idle connections, %.1f before", pod, vm, n, before[pod].rss)
		// As much for each as the 1,000 of TestMemoryOfIdleConnections may take.
		if most := limitIdleMB * float64(n) / 1000; vm-before[pod].rss > most {
			t.Errorf("%s: %.1f MB more with %d idle connections, want at most %.0f", pod, vm-before[pod].rss, n, most)
		}
	}
	// Others are served meanwhile.
	if s := finish[spread](t, load(t, m, time.Second)); s.failed() != 0 {
		t.Errorf("beside %d idle connections: %+v", n, s)
	}
	for _, c := range trickle {
		if r := finish[response](t, c); r.Status != 200 {
			t.Errorf("a client of one byte each %v: %+v", every, r)
		}
	}

	cancel() // the client ends, and its connections with it
	_ = idle.Wait()
	now, end := map[string]use{}, time.Now().Add(30*time.Second)
	for {
		for _, pod := range sides {
			now[pod] = used(t, m, pod)
		}
		if now["client"].within(before["client"]) && now["server"].within(before["server"]) {
			break
		}
		if time.Now().After(end) {
			t.Errorf("not given back in 30 s: before %+v, now %+v", before, now)
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("before: %+v, after: %+v", before, now)
	meshtest.Eventually(t, 90*time.Second, "memory is given back", func() bool {
		for _, pod := range sides {
			if now[pod] = used(t, m, pod); now[pod].rss > before[pod].rss+limitIdleMB {
				return false
			}
		}
		return true
	})
	t.Logf("before: %+v, in the end: %+v", before, now)
}

// use is what a sidecar holds.
type use struct {
	conns, fds, goroutines int
	rss                    float64 // MB
}

// slack is by how much a sidecar at rest differs from itself: a scrape or a
// stream that comes and goes.
const slack = 4

func (u use) within(before use) bool {
	return u.conns <= before.conns+slack && u.fds <= before.fds+slack && u.goroutines <= before.goroutines+slack
}

// used asks the sidecar itself, on the pod's loopback.
func used(t *testing.T, m *meshtest.Mesh, pod string) use {
	t.Helper()
	admin := func(path string) string {
		t.Helper()
		r := meshtest.JSON[response](t, m, m.Pod(t, pod).Name, "testapp", "http", "http://127.0.0.1:4191"+path)
		if r.Status != 200 {
			t.Fatalf("%s of %s: %+v", path, pod, r)
		}
		return r.Body
	}
	pid := m.Pod(t, pod).PIDs["mesh-proxy"]
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	vm, _ := rss(t, pid)
	goroutines := strings.Count("\n"+admin("/debug/goroutines"), "\ngoroutine ")
	if goroutines == 0 || len(fds) == 0 {
		t.Fatalf("%s: %d goroutines, %d descriptors", pod, goroutines, len(fds))
	}
	return use{conns: sum(admin("/metrics"), "tcp_open_connections"), fds: len(fds), goroutines: goroutines, rss: vm}
}
