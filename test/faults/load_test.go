package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/deploy/image"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

const (
	// limit bounds every wait: these tests wait for events, not for time.
	limit = 4 * time.Minute
	// rate is how many requests a second there are.
	rate = 200
	// kinds are the requests, in turn. What is not idempotent no client library sends
	// again by itself.
	kinds = "h1-post,h2-post,grpc"

	endureImage = "docker.io/tunmesh-test/endure:v1"
	// endure is the program in its image.
	endure = "/usr/local/bin/endure"
)

// mesh is a cluster with the mesh in it.
type mesh struct {
	*meshed.Mesh
	t *testing.T
}

// in is the same mesh for a subtest.
func (m *mesh) in(t *testing.T) *mesh { return &mesh{Mesh: m.Mesh, t: t} }

// images are those of servers and clients.
func images(t *testing.T) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "endure")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "github.com/tunmesh/tunmesh/test/endurance/endure")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build endure: %v: %s", err, out)
	}
	index, err := image.Build(image.Spec{Programs: map[string]string{runtime.GOARCH: program}, Path: endure, User: "65534:65534"})
	if err == nil {
		err = image.WriteTarball(program+".tar", endureImage, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	return []string{program + ".tar"}
}

// server is a Deployment of servers with their Service: HTTP at port 80, gRPC at 8081.
func server(name string, replicas int) string {
	return fmt.Sprintf(`
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: %[3]s
        args: [serve]
        ports: [{containerPort: 8080}, {containerPort: 8081}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: tmp, mountPath: /tmp}]
      volumes: [{name: tmp, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 8081}]
`, name, replicas, endureImage)
}

// client is a pod that asks a Service until its time is over or it is told to end.
func client(name, service string, rate int, d time.Duration) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: client}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: %s
    args: [ask, --rate=%d, --duration=%s, "--kinds=%s", %s]
`, name, endureImage, rate, d, kinds, service)
}

// tally is what a client prints.
type tally struct {
	Asked    map[string]int `json:"asked"`
	Sent     map[string]int `json:"sent"`
	Good     map[string]int `json:"good"`
	Failures []failure      `json:"failures"`
	P50Ms    float64        `json:"p50_ms"`
	P99Ms    float64        `json:"p99_ms"`
	MaxMs    float64        `json:"max_ms"`
}

type failure struct {
	Kind   string `json:"kind"`
	Start  int64  `json:"start"`
	End    int64  `json:"end"`
	What   string `json:"what"`
	Pod    string `json:"pod"`
	Sender string `json:"sender"`
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func (r tally) String() string {
	var each []string
	for _, k := range slices.Sorted(maps.Keys(r.Asked)) {
		each = append(each, fmt.Sprintf("%s %d/%d", k, r.Good[k], r.Asked[k]))
	}
	return fmt.Sprintf("%d requests, %d failed (good/all: %s); p50 %.1f ms, p99 %.1f ms, longest %.0f ms",
		total(r.Asked), len(r.Failures), strings.Join(each, ", "), r.P50Ms, r.P99Ms, r.MaxMs)
}

// flawless makes sure that every request was answered, and sent once.
func (r tally) flawless(t *testing.T) {
	t.Helper()
	t.Log(r)
	asked := total(r.Asked)
	if good := total(r.Good); asked == 0 || good != asked || len(r.Failures) > 0 {
		t.Errorf("%d of %d requests were answered well", good, asked)
	}
	if sent := total(r.Sent); sent != asked {
		t.Errorf("%d requests were sent %d times", asked, sent)
	}
	for _, f := range r.Failures[:min(len(r.Failures), 10)] {
		t.Errorf("%s at %s after %d ms: %s (pod %q, sender %q)", f.Kind, time.Unix(0, f.Start).Format("15:04:05.000"), (f.End-f.Start)/1e6, f.What, f.Pod, f.Sender)
	}
}

// load is a client that asks all the while.
type load struct {
	m         *mesh
	namespace string
	began     time.Time
}

const client0 = "client"

// begin starts to ask Service web of a namespace, at the usual rate.
func (m *mesh) begin(namespace string) *load {
	m.t.Helper()
	m.Kubectl(m.t, "-n", namespace, "delete", "pod", client0, "--ignore-not-found", "--wait") // the one before it may still be ending
	m.apply(namespace, client(client0, "web", rate, time.Hour))
	m.WaitFor(m.t, "condition=Ready", "-n", namespace, "pod/"+client0)
	return &load{m: m, namespace: namespace, began: time.Now()}
}

// end tells the client to end and returns what it counted.
func (l *load) end() tally {
	l.m.t.Helper()
	found := false
	for _, n := range l.m.Nodes() {
		for _, pid := range l.m.processes(n, "^"+endure+" ask --rate="+fmt.Sprint(rate)) {
			found = true
			if _, err := n.Run(l.m.t.Context(), "kill", "-TERM", pid); err != nil {
				l.m.t.Fatal(err)
			}
		}
	}
	if !found {
		l.m.t.Error("the client does not run any more")
	}
	r, err := l.m.counted(l.m.t.Context(), l.namespace, client0)
	if err != nil {
		l.m.t.Fatal(err)
	}
	l.m.t.Logf("asked for %s", time.Since(l.began).Round(time.Second))
	return r
}

// counted waits for the end of a client, removes it, and returns what it counted.
// It is an error that its sidecar was started again.
func (m *mesh) counted(ctx context.Context, namespace, pod string) (r tally, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Its phase waits for the sidecar, too.
	const ended = `jsonpath={.status.containerStatuses[0].state.terminated.exitCode}`
	if _, err := m.Run(ctx, nil, "-n", namespace, "wait", "--for="+ended, "--timeout="+limit.String(), "pod/"+pod); err != nil {
		return r, err
	}
	out, err := m.Run(ctx, nil, "-n", namespace, "logs", pod, "-c", "app")
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	if err != nil {
		return r, fmt.Errorf("%s counted %q: %w", pod, out, err)
	}
	restarts, err := m.Run(ctx, nil, "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.initContainerStatuses[0].restartCount}")
	if err == nil && restarts != "0" {
		err = fmt.Errorf("the sidecar of %s was started again: %q", pod, restarts)
	}
	if err != nil {
		return r, err
	}
	_, err = m.Run(ctx, nil, "-n", namespace, "delete", "pod", pod, "--wait=false")
	return r, err
}

// apply applies to a namespace.
func (m *mesh) apply(namespace, yaml string) {
	m.t.Helper()
	if err := m.tryApply(m.t.Context(), namespace, yaml); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) tryApply(ctx context.Context, namespace, yaml string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := m.Run(ctx, strings.NewReader(yaml), "-n", namespace, "apply", "-f", "-")
	return err
}

// processes are those of a node whose command lines match.
func (m *mesh) processes(n cluster.Node, pattern string) []string {
	m.t.Helper()
	out, err := n.Run(m.t.Context(), "sh", "-c", "pgrep -f -- '"+pattern+"' || [ $? = 1 ]") // 1: none
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.Fields(out)
}

// sidecar is the node of a pod, and the process of its sidecar.
func (m *mesh) sidecar(namespace, pod string) (n cluster.Node, pid string) {
	m.t.Helper()
	f := strings.Fields(m.Kubectl(m.t, "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName} {.metadata.uid}"))
	for _, n = range m.Nodes() {
		if n.Name() != f[0] {
			continue
		}
		out, err := n.Run(m.t.Context(), "sh", "-c", "for p in $(pgrep -x mesh-proxy); do grep -q "+f[1]+" /proc/$p/cgroup && echo $p; done; true")
		if pids := strings.Fields(out); err == nil && len(pids) == 1 {
			return n, pids[0]
		}
		m.t.Fatalf("the sidecar of %s: %q, %v", pod, out, err)
	}
	m.t.Fatalf("%s is on node %q", pod, f[0])
	return n, ""
}

// kill ends processes of a node by SIGKILL.
func (m *mesh) kill(n cluster.Node, pids ...string) {
	m.t.Helper()
	if len(pids) == 0 {
		m.t.Fatal("there is no process to kill")
	}
	if _, err := n.Run(m.t.Context(), append([]string{"kill", "-9"}, pids...)...); err != nil {
		m.t.Fatal(err)
	}
}

// restarts are the servers that are asked with the restarts of their containers.
func (m *mesh) restarts(namespace string) string {
	m.t.Helper()
	return m.Kubectl(m.t, "-n", namespace, "get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.metadata.name}{range .status.initContainerStatuses[*]} {.restartCount}{end}{range .status.containerStatuses[*]} {.restartCount}{end}{"\n"}{end}`)
}

// serves says whether a pod's sidecar has counted a request of a meshed client.
func (m *mesh) serves(ctx context.Context, namespace, pod string) error {
	out, err := m.Run(ctx, nil, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+":4191/proxy/metrics")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "request_total{") && strings.Contains(line, `direction="inbound"`) && strings.Contains(line, `tls="true"`) {
			return nil
		}
	}
	return errors.New("it has counted no request")
}

// says waits until what a command prints has the words.
func (m *mesh) says(words string, args ...string) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, fmt.Sprintf("kubectl %v says %q", args, words), func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, args...)
		if err == nil && !strings.Contains(out, words) {
			err = errors.New(out)
		}
		return err
	})
}

// rollout waits for a Deployment.
func (m *mesh) rollout(namespace, name string) {
	m.t.Helper()
	m.Kubectl(m.t, "-n", namespace, "rollout", "status", "deploy/"+name, "--timeout=170s")
}

// whole skips what takes minutes: the short run of make e2e rotates and loses
// replicas in test/install, without load.
func whole(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes: not in a short run")
	}
}
