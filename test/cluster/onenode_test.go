package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/deploy/image"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/internal/untouched"
)

// limit bounds every wait of these tests: they wait for events, not for time.
const limit = 5 * time.Minute

// server is a pod that serves on port 8080, with more of its spec as YAML lines
// indented by two.
func server(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
%[2]s
  containers:
  - name: app
    image: %[3]s
    args: [serve]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    securityContext:
      runAsUser: 65534
      runAsNonRoot: true
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
`, name, spec, cluster.TestImage)
}

func TestOneNode(t *testing.T) {
	before := machine(t)
	c := cluster.Start(t, cluster.Options{Version: os.Getenv("TUNMESH_KUBERNETES")})
	if d := cmp.Diff(before, machine(t)); d != "" {
		t.Errorf("the cluster changed the machine: %s", d)
	}
	c.Apply(t, server("one", ""))
	c.WaitFor(t, "condition=Ready", "pod/one")

	t.Run("exec and logs", func(t *testing.T) { testExec(t, c) })
	t.Run("from the machine", func(t *testing.T) { testDial(t, c) })
	t.Run("image loaded later", func(t *testing.T) { testLoadImage(t, c) })
	t.Run("node from the machine", func(t *testing.T) { testNodeCommand(t, c) })
	t.Run("restarts", func(t *testing.T) { testRestarts(t, c) })
	t.Run("control plane away", func(t *testing.T) { testControlPlane(t, c) })
	t.Run("reboot", func(t *testing.T) { testReboot(t, c) })
}

func testExec(t *testing.T, c *cluster.Cluster) {
	id := c.Kubectl(t, "exec", "one", "--", "/testapp", "id")
	for _, want := range []string{"Uid: 65534", "CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"} {
		if !strings.Contains(id, want) {
			t.Errorf("%q is not in %q", want, id)
		}
	}
	if got := c.Kubectl(t, "logs", "one"); !strings.Contains(got, "serving at :8080") {
		t.Errorf("logs: %q", got)
	}
	if got := c.Kubectl(t, "exec", "one", "--", "/testapp", "lookup", "kubernetes.default.svc.cluster.local"); got != "10.96.0.1" {
		t.Errorf("the API server's Service is %q", got)
	}
	if _, err := c.Run(t.Context(), nil, "get", "pod", "nobody"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("a pod that is not there: %v", err)
	}
}

func testDial(t *testing.T, c *cluster.Cluster) {
	ip := c.Kubectl(t, "get", "pod", "one", "-o", "jsonpath={.status.podIP}")
	client := &http.Client{Timeout: limit, Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + ip + ":8080/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	if conn, err := c.Dial(t.Context(), "tcp", "name:80"); err == nil {
		conn.Close()
		t.Error("a name was dialled")
	}
}

func testLoadImage(t *testing.T, c *cluster.Cluster) {
	const name = "docker.io/tunmesh-test/later:v7"
	file := filepath.Join(t.TempDir(), "later.tar")
	index, err := image.Build(image.Spec{Programs: map[string]string{runtime.GOARCH: testapp(t)}, Path: "/bin/later"})
	if err == nil {
		err = image.WriteTarball(file, name, index)
	}
	if err == nil {
		err = c.LoadImage(t.Context(), file)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: later}
spec:
  restartPolicy: Never
  containers: [{name: app, image: %q, args: [id]}]
`, name))
	c.WaitFor(t, "jsonpath={.status.phase}=Succeeded", "pod/later")
	if err := c.LoadImage(t.Context(), "/nowhere.tar"); err == nil || !strings.Contains(err.Error(), "node1") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// testapp builds the test's program.
func testapp(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "testapp")
	cmd := goCommand(t, "build", "-o", file, "./testapp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

func testNodeCommand(t *testing.T, c *cluster.Cluster) {
	n := c.Node(1)
	run := func(argv ...string) string {
		t.Helper()
		out, err := n.Run(t.Context(), argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := strings.TrimSpace(run("hostname")); got != "node1" {
		t.Errorf("it calls itself %q", got)
	}
	if got := run("ip", "-4", "addr", "show", "eth0"); !strings.Contains(got, "172.18.0.11/24") {
		t.Errorf("its address: %s", got)
	}
	// The folder is the node's, and is seen from the machine.
	run("sh", "-c", "echo hello >/etc/cni/hello")
	if raw, err := os.ReadFile(n.Disk("/etc/cni/hello")); err != nil || string(raw) != "hello\n" {
		t.Errorf("%q, %v", raw, err)
	}
	if _, err := os.Stat("/etc/cni/hello"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine has the node's file: %v", err)
	}
	if _, err := n.Run(t.Context(), "sh", "-c", "touch /usr/x"); err == nil {
		t.Error("the machine's programs can be changed by a node")
	}
	if got := strings.TrimSpace(run("cat", "/proc/sys/kernel/panic")); got != "10" {
		t.Errorf("kubelet does not see what it wants: kernel.panic is %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := n.Run(ctx, "sleep", "1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that hangs: %v", err)
	}
	cluster.Eventually(t, limit, "the command that hung is gone", func(ctx context.Context) error {
		if out, err := n.Run(ctx, "pgrep", "-x", "sleep"); err == nil {
			return errors.New(out)
		}
		return nil
	})
}

// machine is what a cluster must leave alone.
func machine(t *testing.T) []string {
	t.Helper()
	return untouched.State(t, "/etc/cni", "/opt/cni", "/var/lib/kubelet", "/var/lib/cni", "/run/netns")
}

// testRestarts kills what keeps pods running: they keep running.
func testRestarts(t *testing.T, c *cluster.Cluster) {
	started := func() string {
		return c.Kubectl(t, "get", "pod", "one", "-o", "jsonpath={.status.containerStatuses[0].state.running.startedAt}")
	}
	before := started()
	for _, name := range []string{"kubelet", "containerd", "kube-proxy"} {
		p := c.Node(1).Process(name)
		old, err := p.PID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, err := p.PID(t.Context()); err != nil || now == 0 || now == old {
			t.Errorf("%s: process %d, then %d, %v", name, old, now, err)
		}
	}
	c.Apply(t, server("two", ""))
	c.WaitFor(t, "condition=Ready", "pod/two")
	if after := started(); before != after {
		t.Errorf("the pod's container started at %s, and again at %s", before, after)
	}
	c.Kubectl(t, "delete", "pod", "two", "--wait=false")
}

func testControlPlane(t *testing.T, c *cluster.Cluster) {
	api := c.Process("kube-apiserver")
	if err := api.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(t.Context(), nil, "get", "--raw", "/readyz"); err == nil {
		t.Error("the API server answers though it was killed")
	}
	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, limit, "the API server is back", func(ctx context.Context) error {
		_, err := c.Run(ctx, nil, "get", "pod", "one")
		return err
	})
}

// testReboot: the node's disk stays, everything else of it is new.
func testReboot(t *testing.T, c *cluster.Cluster) {
	n := c.Node(1)
	boot := func() string {
		return c.Kubectl(t, "get", "pod", "one", "-o", "jsonpath={.status.containerStatuses[0].restartCount}{.status.conditions[?(@.type=='Ready')].status}")
	}
	if got := boot(); got != "0True" {
		t.Fatalf("before: %s", got)
	}
	if out, err := n.Run(t.Context(), "touch", "/run/netns/old", "/var/lib/old"); err != nil {
		t.Fatal(out, err)
	}
	if err := n.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, limit, "the pod runs again", func(context.Context) error {
		if got := boot(); got != "1True" {
			return errors.New(got)
		}
		return nil
	})
	if _, err := n.Run(t.Context(), "test", "-e", "/run/netns/old"); err == nil {
		t.Error("/run outlived a reboot")
	}
	if _, err := n.Run(t.Context(), "test", "-e", "/var/lib/old"); err != nil {
		t.Error("the disk did not outlive a reboot")
	}
}
