package local_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

const annotated = `apiVersion: v1
kind: Pod
metadata:
  name: annotated
  namespace: default
  labels: {app: annotated}
  annotations:
    tunmesh.io/inject: enabled
    config.tunmesh.io/proxy-queues: "2"
    config.tunmesh.io/allow-ip-protocols: "47"
    config.tunmesh.io/opaque-ports: "8080"
    config.tunmesh.io/proxy-log-level: debug
    config.tunmesh.io/shutdown-grace-period: 7s
spec:
  containers:
    - name: app
      image: testapp
      command: [testapp, serve]
      readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
`

// TestAnnotationsHaveTheirEffect holds a pod with every annotation of the data
// plane against one without.
func TestAnnotationsHaveTheirEffect(t *testing.T) {
	ordinary := strings.ReplaceAll(strings.SplitN(annotated, "    config.", 2)[0], "annotated", "ordinary") + annotated[strings.Index(annotated, "spec:"):]
	m := meshtest.Up(t, bin, "annotations", annotated, ordinary, meshtest.Client("client", true, ""))
	admin := func(pod, path string) string {
		t.Helper()
		return meshtest.JSON[response](t, m, pod, "testapp", "http", "http://127.0.0.1:4191"+path).Body
	}
	for name, want := range map[string]struct {
		queues, forwarded, requests int
		grace, level                string
	}{
		"annotated": {2, 1, 0, "7s", "debug"},
		"ordinary":  {1, 0, 3, "2m0s", "info"},
	} {
		pod := m.Pod(t, name)
		if n := tuns(t, pod.PIDs["mesh-proxy"]); n != 2*want.queues {
			t.Errorf("%s: the sidecar holds %d TUN queues, want %d on each of two sides", name, n, want.queues)
		}
		if level := strings.TrimSpace(admin(name, "/log-level")); level != want.level {
			t.Errorf("%s: log level %q, want %s", name, level, want.level)
		}
		var config struct{ Grace string }
		if err := json.Unmarshal([]byte(admin(name, "/config")), &config); err != nil || config.Grace != want.grace {
			t.Errorf("%s: drains for %q, want %s (%v)", name, config.Grace, want.grace, err)
		}
		for range 3 {
			if r := meshtest.JSON[response](t, m, "client", "testapp", "http", fmt.Sprintf("http://%s:8080/", pod.IP)); r.Status != 200 {
				t.Fatalf("%s: %+v", name, r)
			}
		}
		sendGRE(t, pod.PIDs["app"], m.Pod(t, "client").IP)
		meshtest.Eventually(t, 5*time.Second, name+"'s counters", func() bool {
			text := admin(name, "/metrics")
			return sum(text, "request_total", `direction="inbound"`, `target_port="8080"`) == want.requests &&
				sum(text, "tcp_open_total", `direction="inbound"`, `peer="src"`, `target_port="8080"`, `tls="true"`) > 0 &&
				sum(text, "netstack_forwarded_other_total", `side="app"`) == want.forwarded &&
				sum(text, "netstack_drops_total", `side="app"`, `reason="protocol"`) == 1-want.forwarded
		})
	}
}

// tuns counts a process's descriptors of TUN queues.
func tuns(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no descriptors of process %d: %v", pid, err)
	}
	for _, f := range files {
		if to, _ := os.Readlink(f); to == "/dev/net/tun" {
			n++
		}
	}
	return n
}

// sendGRE sends one packet of IP protocol 47 from the network of a process.
func sendGRE(t *testing.T, pid int, to string) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- greFrom(pid, to) }()
	if err := <-done; err != nil {
		t.Fatalf("send GRE to %s: %v", to, err)
	}
}

// greFrom spoils its thread, which ends with the goroutine.
func greFrom(pid int, to string) error {
	runtime.LockOSThread()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var a [4]byte
	if _, err := fmt.Sscanf(to, "%d.%d.%d.%d", &a[0], &a[1], &a[2], &a[3]); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte{0, 0, 8, 0, 1, 2, 3, 4}, 0, &unix.SockaddrInet4{Addr: a})
}

// sum adds up the samples of a metric whose lines have all parts.
func sum(text, name string, parts ...string) int {
	total := 0
lines:
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1:], &v); err == nil {
			total += int(v)
		}
	}
	return total
}
