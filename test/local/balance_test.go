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
	Pods    map[string]int   `json:"pods"`
	Peers   map[string]int   `json:"peers"`
	Errors  map[string]int   `json:"errors"`
	P50Us   int64            `json:"p50_us"`
	P99Us   int64            `json:"p99_us"`
	FirstUs map[string]int64 `json:"first_us"`
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

func TestOneGRPCConnectionSpreadsEvenly(t *testing.T) {
	m := meshtest.Up(t, bin, "even", meshtest.Server("server", 3), meshtest.Client("client", true, ""))
	s := meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "3000", "--parallel", "8", "server:8081")
	if s.calls() != 3000 || len(s.Pods) != 3 {
		t.Fatalf("3000 calls to 3 pods: %+v", s)
	}
	for pod, n := range s.Pods {
		if n < 900 || n > 1100 {
			t.Errorf("%s got %d of 3000 calls, want 900 to 1100", pod, n)
		}
	}
	t.Logf("calls by pod: %v", s.Pods)
	client := m.Pod(t, "client")
	for peer := range s.Peers {
		if peer != client.IP {
			t.Errorf("the server saw %s, want the client pod's %s", peer, client.IP)
		}
	}
}

func TestFourthPodGetsCallsOnceReady(t *testing.T) {
	m := meshtest.Up(t, bin, "fourth", meshtest.Server("server", 3), meshtest.Client("client", true, ""))
	cmd, out := background(t, m, "client", "testapp", "grpc", "--duration", "20s", "--parallel", "4", "--every", "5ms", "server:8081")
	time.Sleep(2 * time.Second)
	start := time.Now()
	apply(t, m, meshtest.Server("server", 4))
	var ready time.Duration
	meshtest.Eventually(t, 15*time.Second, "four pods are ready", func() bool {
		n := 0
		for _, p := range m.Pods(t) {
			if strings.HasPrefix(p.Name, "server-") && p.Ready {
				n++
			}
		}
		ready = time.Since(start)
		return n == 4
	})
	s := finish(t, cmd, out)
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
	took := time.Duration(last)*time.Microsecond - 2*time.Second
	t.Logf("ready after %v, first call after %v", ready, took)
	if took > ready+2*time.Second {
		t.Errorf("the fourth pod's first call came %v after it was ready, want within 2 s", took-ready)
	}
}

func TestSlowPodGetsLess(t *testing.T) {
	slow := strings.ReplaceAll(meshtest.Server("slow", 1, "--delay", "20ms"), "app: slow", "app: server")
	m := meshtest.Up(t, bin, "slow", meshtest.Server("server", 2), slow, meshtest.Client("client", true, ""))
	s := meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "3000", "--parallel", "8", "server:8081")
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

func TestKilledAppLosesOnlyDeliveredCalls(t *testing.T) {
	m := meshtest.Up(t, bin, "killapp", meshtest.Server("server", 3), meshtest.Client("client", true, ""))
	cmd, out := background(t, m, "client", "testapp", "grpc", "--duration", "6s", "--parallel", "4", "--every", "2ms", "server:8081")
	time.Sleep(2 * time.Second)
	kill(t, m.Pod(t, "server").PIDs["app"])
	s := finish(t, cmd, out)
	// At most what was in flight at the moment of the kill.
	if s.failed() > 4 {
		t.Errorf("failed calls: %v", s.Errors)
	}
	if s.calls() < 1000 {
		t.Errorf("only %d calls in 6 s", s.calls())
	}
	t.Logf("%d calls, failed: %v", s.calls(), s.Errors)
}

func TestDeadPodIsNoticed(t *testing.T) {
	m := meshtest.Up(t, bin, "killpod", meshtest.Server("server", 3), meshtest.Client("client", true, ""))
	cmd, out := background(t, m, "client", "testapp", "grpc", "--duration", "14s", "--parallel", "4", "--every", "2ms", "server:8081")
	time.Sleep(2 * time.Second)
	// A whole pod, silently: its processes are killed while its link is down,
	// so that nobody is told anything.
	victim := m.Pod(t, "server")
	start := time.Now()
	for name, pid := range victim.PIDs {
		if name == "mesh-proxy" {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := finish(t, cmd, out)
	for _, pid := range victim.PIDs {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	// Calls in flight on it fail or are answered elsewhere within 5 s; the rest go on.
	if s.failed() > 4 {
		t.Errorf("failed calls: %v", s.Errors)
	}
	if s.calls() < 2000 {
		t.Errorf("only %d calls: the dead peer held them up (after %v)", s.calls(), time.Since(start))
	}
	t.Logf("%d calls, p99 %d µs, failed: %v", s.calls(), s.P99Us, s.Errors)
}

// background starts a command in a pod; finish waits for it.
func background(t *testing.T, m *meshtest.Mesh, pod string, command ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := m.Command(ctx, append([]string{"local", "exec", pod, "--"}, command...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

func finish(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer) spread {
	t.Helper()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var s spread
	if err := json.Unmarshal(bytes.TrimSpace(out.Bytes()), &s); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

func apply(t *testing.T, m *meshtest.Mesh, manifest string) {
	t.Helper()
	cmd := m.Command(t.Context(), "local", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("meshctl local apply: %v: %s", err, out)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process to kill: %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
