package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/test/cluster"
)

func goCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "go", args...)
}

// TestNodes is what needs more than one node, and both families.
func TestNodes(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Version: os.Getenv("TUNMESH_KUBERNETES"), Nodes: 3, DualStack: true})
	for n := 1; n <= 3; n++ {
		spec := fmt.Sprintf("  nodeName: node%d", n)
		if n == 2 {
			spec += "\n  hostname: two\n  subdomain: headless"
		}
		c.Apply(t, server(fmt.Sprintf("on%d", n), spec))
	}
	c.Apply(t, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: on2}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: self}
spec:
  selector: {app: on1}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: on2}
  ports: [{port: 8080}]
`)
	c.WaitFor(t, "condition=Ready", "pod/on1", "pod/on2", "pod/on3")
	t.Run("pods of all nodes", func(t *testing.T) { testPodToPod(t, c) })
	t.Run("services", func(t *testing.T) { testServices(t, c) })
	t.Run("host port", func(t *testing.T) { testHostPort(t, c) })
	t.Run("user namespace", func(t *testing.T) { testUserNamespace(t, c) })
}

// get asks from a pod; what it says begins with who answers.
func get(c *cluster.Cluster, from, url, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := c.Run(ctx, nil, "exec", from, "--", "/testapp", "get", url)
		if err == nil && !strings.HasPrefix(out, want+" ") {
			err = fmt.Errorf("%s from %s: %q is not by %s", url, from, out, want)
		}
		return err
	}
}

func podIPs(t *testing.T, c *cluster.Cluster, pod string) (ips []netip.Addr) {
	t.Helper()
	for _, s := range strings.Fields(c.Kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}")) {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		ips = append(ips, ip)
	}
	if len(ips) != 2 || !ips[0].Is4() || !ips[1].Is6() {
		t.Fatalf("%s has %v", pod, ips)
	}
	return ips
}

func testPodToPod(t *testing.T, c *cluster.Cluster) {
	for _, to := range []string{"on1", "on2", "on3"} {
		for _, ip := range podIPs(t, c, to) {
			url := "http://" + netip.AddrPortFrom(ip, 8080).String()
			if err := get(c, "on1", url, strings.Replace(to, "on2", "two", 1))(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

func testServices(t *testing.T, c *cluster.Cluster) {
	ips := strings.Fields(c.Kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIPs[*]}"))
	if len(ips) != 2 {
		t.Fatalf("the Service has %v", ips)
	}
	urls := []string{"http://web/", "http://web.default.svc.cluster.local/", "http://two.headless.default.svc.cluster.local:8080/"}
	for _, s := range ips {
		urls = append(urls, "http://"+netip.AddrPortFrom(netip.MustParseAddr(s), 80).String()+"/")
	}
	for _, n := range c.Nodes() {
		for _, a := range n.Addrs() {
			urls = append(urls, "http://"+netip.AddrPortFrom(a, 30080).String()+"/")
		}
	}
	for _, url := range urls {
		cluster.Eventually(t, limit, url, get(c, "on1", url, "two"))
	}
	// A pod that a Service sends to itself, and to its neighbour on one bridge.
	cluster.Eventually(t, limit, "a pod by its own Service", get(c, "on1", "http://self/", "on1"))
	c.Apply(t, server("beside1", "  nodeName: node1"))
	c.WaitFor(t, "condition=Ready", "pod/beside1")
	cluster.Eventually(t, limit, "a neighbour by its Service", get(c, "beside1", "http://self/", "on1"))
	lookup := strings.Fields(c.Kubectl(t, "exec", "on3", "--", "/testapp", "lookup", "headless"))
	want := podIPs(t, c, "on2")
	if len(lookup) != 2 || lookup[0] != want[0].String() || lookup[1] != want[1].String() {
		t.Errorf("the headless Service has %v, want %v", lookup, want)
	}
}

func testHostPort(t *testing.T, c *cluster.Cluster) {
	yaml := strings.Replace(server("hostport", "  nodeName: node3"), "{containerPort: 8080}", "{containerPort: 8080, hostPort: 18080}", 1)
	c.Apply(t, yaml)
	c.WaitFor(t, "condition=Ready", "pod/hostport")
	for _, a := range c.Node(3).Addrs() {
		url := "http://" + netip.AddrPortFrom(a, 18080).String()
		cluster.Eventually(t, limit, url, get(c, "on1", url, "hostport"))
	}
}

func testUserNamespace(t *testing.T, c *cluster.Cluster) {
	c.Apply(t, server("mapped", "  hostUsers: false\n  nodeName: node2"))
	c.WaitFor(t, "condition=Ready", "pod/mapped")
	_, ids, ok := strings.Cut(c.Kubectl(t, "exec", "mapped", "--", "/testapp", "id"), "Map: ")
	if f := strings.Fields(ids); !ok || len(f) != 3 || f[0] != "0" || f[1] == "0" {
		t.Errorf("its user ids are mapped as %q", ids)
	}
	if _, ids, _ := strings.Cut(c.Kubectl(t, "exec", "on1", "--", "/testapp", "id"), "Map: "); !strings.HasPrefix(ids, "0 0 ") {
		t.Errorf("another pod's user ids are mapped as %q: the check itself", ids)
	}
}

// TestNothingIsLeft kills a cluster's owner while pods run. What other deaths
// leave is tested without Kubernetes in internal/hold.
func TestNothingIsLeft(t *testing.T) {
	if os.Getenv(cluster.Wanted) == "" || os.Geteuid() != 0 {
		t.Skipf("boots a Kubernetes cluster as root: runs with %s=1, or by make e2e", cluster.Wanted)
	}
	program := filepath.Join(t.TempDir(), "cluster")
	if out, err := goCommand(t, "build", "-o", program, "./cmd/cluster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := shortDir(t)
	cmd := owner(t, program, dir)
	if len(processes(t, dir)) < 10 || len(groups(t, dir)) == 0 {
		t.Fatalf("the check itself: %v, %v", processes(t, dir), groups(t, dir))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	gone(t, dir)
	onlyLogs(t, dir)
}

// owner starts a cluster in a process of its own; TMPDIR tells its things apart.
func owner(t *testing.T, program, tmp string) *exec.Cmd {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), program, "up", "-kubernetes", os.Getenv("TUNMESH_KUBERNETES"))
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it was waited for where it ended
		if t.Failed() {
			raw, _ := os.ReadFile(log)
			t.Logf("cluster up: %s", raw)
		}
	})
	cluster.Eventually(t, 2*limit, "a cluster", func(context.Context) error {
		raw, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(raw), "export KUBECONFIG=") {
			err = errors.New("not up yet")
		}
		return err
	})
	return cmd
}

// processes lists those that have to do with a folder: by its arguments, or,
// for what is in a pod, by its cgroup.
func processes(t *testing.T, dir string) (pids []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	clusters, _ := filepath.Glob(filepath.Join(dir, "tunmesh-cluster-*"))
	for _, d := range dirs {
		args, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(d, "cgroup"))
		for _, c := range clusters {
			if strings.Contains(string(args), c) || strings.Contains(string(groups), filepath.Base(c)) {
				pids = append(pids, filepath.Base(d)+" "+strings.ReplaceAll(string(args), "\x00", " "))
			}
		}
	}
	return pids
}

func groups(t *testing.T, dir string) (out []string) {
	t.Helper()
	clusters, _ := filepath.Glob(filepath.Join(dir, "tunmesh-cluster-*"))
	for _, c := range clusters {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			found, _ := filepath.Glob(pattern + filepath.Base(c) + "*")
			out = append(out, found...)
		}
	}
	return out
}

// gone waits until no process is left.
func gone(t *testing.T, dir string) {
	t.Helper()
	cluster.Eventually(t, limit, "all processes have ended", func(context.Context) error {
		if left := processes(t, dir); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

// onlyLogs checks that of a cluster's folder only the logs are there.
func onlyLogs(t *testing.T, dir string) {
	t.Helper()
	cluster.Eventually(t, limit, "only logs are left", func(context.Context) error {
		left := groups(t, dir)
		found, err := filepath.Glob(filepath.Join(dir, "tunmesh-cluster-*", "*"))
		for _, f := range found {
			if b := filepath.Base(f); b != "logs" && b != "lock" {
				left = append(left, f)
			}
		}
		if len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return err
	})
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "left-") // sockets bear no test's long name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
