package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

type spread struct {
	Pods      map[string]int   `json:"pods"`
	Peers     map[string]int   `json:"peers"`
	Errors    map[string]int   `json:"errors"`
	P50Us     int64            `json:"p50_us"`
	P99Us     int64            `json:"p99_us"`
	SlowestUs int64            `json:"slowest_us"`
	Start     time.Time        `json:"start"`
	FirstUs   map[string]int64 `json:"first_us"`
}

func (s spread) calls() int {
	n := 0
	for _, c := range s.Pods {
		n += c
	}
	return n
}

func (s spread) failed() int {
	n := 0
	for _, c := range s.Errors {
		n += c
	}
	return n
}

func (s spread) slowest() time.Duration { return time.Duration(s.SlowestUs) * time.Microsecond }

// TestBalance: the calls of one gRPC connection go where they are served best.
// The tests share a mesh; each leaves at least three servers that are ready.
func TestBalance(t *testing.T) {
	slow := strings.ReplaceAll(meshtest.Server("slow", 1, "--delay", "20ms"), "app: slow", "app: mixed")
	m := meshtest.Up(t, bin, "balance", meshtest.Server("server", 3), meshtest.Server("mixed", 2), slow, meshtest.Client("client", true, ""))
	t.Run("even", func(t *testing.T) { testEven(t, m) })
	t.Run("a slow pod gets less", func(t *testing.T) { testSlow(t, m) })
	t.Run("a fourth pod gets calls once ready", func(t *testing.T) { testFourth(t, m) })
	t.Run("a killed app loses only delivered calls", func(t *testing.T) { testKilledApp(t, m) })
	t.Run("a silent pod is noticed", func(t *testing.T) { testSilentPod(t, m) })
	t.Run("a killed pod loses only delivered calls", func(t *testing.T) { testKilledPod(t, m) })
}

// testEven tries again: a pod that a busy machine made wait gets less, and is to.
// Who favours or shuns a pod without a reason is never even.
func testEven(t *testing.T, m *meshtest.Mesh) {
	client := m.Pod(t, "client")
	for range 5 {
		s := meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "3000", "--parallel", "8", "server:8081")
		if s.calls() != 3000 || len(s.Pods) != 3 {
			t.Fatalf("3000 calls to 3 pods: %+v", s)
		}
		for peer := range s.Peers {
			if peer != client.IP {
				t.Errorf("the server saw %s, want the client pod's %s", peer, client.IP)
			}
		}
		t.Logf("calls by pod: %v", s.Pods)
		even := true
		for _, n := range s.Pods {
			even = even && n >= 900 && n <= 1100
		}
		if even {
			return
		}
	}
	t.Error("five times not 900 to 1100 of 3000 calls for each pod")
}

func testSlow(t *testing.T, m *meshtest.Mesh) {
	s := meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "3000", "--parallel", "8", "mixed:8081")
	if s.calls() != 3000 || len(s.Pods) != 3 {
		t.Fatalf("3000 calls to 3 pods: %+v", s)
	}
	for pod, n := range s.Pods {
		if strings.HasPrefix(pod, "slow-") && n >= 500 {
			t.Errorf("the pod that is 20 ms slower got %d of 3000 calls, want less than half of an even share (500)", n)
		}
	}
	t.Logf("calls by pod: %v", s.Pods)
}

func testFourth(t *testing.T, m *meshtest.Mesh) {
	load := background(t, m, "client", "testapp", "grpc", "--duration", "10s", "--parallel", "4", "--every", "5ms", "server:8081")
	time.Sleep(2 * time.Second)
	apply(t, m, meshtest.Server("server", 4))
	var ready time.Time
	meshtest.Eventually(t, 6*time.Second, "four pods are ready", func() bool {
		n := 0
		for _, p := range m.Pods(t) {
			if strings.HasPrefix(p.Name, "server-") && p.Ready {
				n++
			}
		}
		ready = time.Now()
		return n == 4
	})
	s := finish[spread](t, load)
	if len(s.Pods) != 4 {
		t.Fatalf("calls went to %d pods: %+v", len(s.Pods), s)
	}
	if s.failed() != 0 {
		t.Errorf("failed calls: %v", s.Errors)
	}
	last := int64(0)
	for _, us := range s.FirstUs {
		last = max(last, us)
	}
	took := s.Start.Add(time.Duration(last) * time.Microsecond).Sub(ready)
	t.Logf("the fourth pod's first call came %v after it was seen ready", took)
	if took > 2*time.Second {
		t.Errorf("the fourth pod's first call came %v after it was ready, want within 2 s", took)
	}
}

// inFlight is how many calls the loads below have open at any moment: at most
// so many can have been delivered to a server that dies.
const inFlight = 4

func testKilledApp(t *testing.T, m *meshtest.Mesh) {
	m.WaitReady(t, 30*time.Second)
	load := background(t, m, "client", "testapp", "grpc", "--duration", "6s", "--parallel", "4", "--every", "2ms", "server:8081")
	time.Sleep(2 * time.Second)
	kill(t, m.Pod(t, "server").PIDs["app"])
	s := finish[spread](t, load)
	if s.failed() > inFlight {
		t.Errorf("failed calls: %v", s.Errors)
	}
	if s.calls() < 1000 {
		t.Errorf("only %d calls in 6 s", s.calls())
	}
	t.Logf("%d calls, slowest %v, failed: %v", s.calls(), s.slowest(), s.Errors)
}

// testSilentPod stops a sidecar: its TCP lives in the process, so that nothing
// answers its peers any more and nobody is told anything.
func testSilentPod(t *testing.T, m *meshtest.Mesh) {
	m.WaitReady(t, 30*time.Second)
	load := background(t, m, "client", "testapp", "grpc", "--duration", "10s", "--parallel", "4", "--every", "2ms", "server:8081")
	time.Sleep(2 * time.Second)
	victim := m.Pod(t, "server").PIDs["mesh-proxy"]
	signal(t, victim, syscall.SIGSTOP)
	defer signal(t, victim, syscall.SIGCONT)
	noticed(t, finish[spread](t, load))
}

// testKilledPod kills a pod's first process, and so everything in it, and its
// network namespace with the link: no RST and no FIN tells its peers.
func testKilledPod(t *testing.T, m *meshtest.Mesh) {
	m.WaitReady(t, 30*time.Second)
	load := background(t, m, "client", "testapp", "grpc", "--duration", "10s", "--parallel", "4", "--every", "2ms", "server:8081")
	time.Sleep(2 * time.Second)
	victim := m.Pod(t, "server")
	kill(t, parentOf(t, victim.PIDs["app"]))
	noticed(t, finish[spread](t, load))
	meshtest.Eventually(t, 20*time.Second, "the pod is back", func() bool {
		p := m.Pod(t, victim.Name)
		return p.Ready && p.PIDs["app"] != victim.PIDs["app"]
	})
}

// noticed judges a load on a Service of which one server fell silent: no call
// waited for it longer than 5 s, and only delivered ones failed.
func noticed(t *testing.T, s spread) {
	t.Helper()
	if s.failed() > inFlight {
		t.Errorf("failed calls: %v", s.Errors)
	}
	if s.calls() < 1000 {
		t.Errorf("only %d calls: the dead peer held them up", s.calls())
	}
	// The half second is the machine's, which may be busy.
	if s.slowest() > 5500*time.Millisecond {
		t.Errorf("a call waited %v for a dead peer, want at most 5 s", s.slowest())
	}
	t.Logf("%d calls, p99 %d µs, slowest %v, failed: %v", s.calls(), s.P99Us, s.slowest(), s.Errors)
}

// running is a command that runs in a pod.
type running struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// background starts a command in a pod; finish waits for it.
func background(t *testing.T, m *meshtest.Mesh, pod string, command ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	r := &running{cmd: m.Command(ctx, append([]string{"local", "exec", pod, "--"}, command...)...)}
	r.cmd.WaitDelay = 5 * time.Second
	r.cmd.Stdout = &r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// finish waits for the command and decodes what it printed.
func finish[T any](t *testing.T, r *running) T {
	t.Helper()
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &r.out)
	}
	var v T
	if err := json.Unmarshal(bytes.TrimSpace(r.out.Bytes()), &v); err != nil {
		t.Fatalf("%v: %s", err, &r.out)
	}
	return v
}

func apply(t *testing.T, m *meshtest.Mesh, manifest string) {
	t.Helper()
	cmd := m.Command(t.Context(), "local", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("meshctl local apply: %v: %s", err, out)
	}
}
