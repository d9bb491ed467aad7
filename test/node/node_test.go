package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// limit bounds every wait: these tests wait for events, not for time.
const limit = 4 * time.Minute

// mesh is a cluster of one node with the mesh in it.
type mesh struct {
	*meshed.Mesh
	t *testing.T
}

// installed waits until the mesh is.
func (m *mesh) installed() {
	m.t.Helper()
	m.WaitFor(m.t, "condition=Available", "-n", manifest.Namespace, "deployment/mesh-control")
	m.Kubectl(m.t, "rollout", "status", "-n", manifest.CNINamespace, "daemonset/mesh-cni", "--timeout=2m")
}

const injected = "tunmesh.io/inject: enabled"

// conflist is the active one, on this machine.
func (m *mesh) conflist() string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.Node(1).Disk(meshed.NetDir), "*.conflist"))
	if err != nil || len(files) == 0 {
		m.t.Fatalf("no conflist: %v", err)
	}
	return files[0]
}

// chained waits until the plugin is the last of the chain.
func (m *mesh) chained() {
	m.t.Helper()
	cluster.Eventually(m.t, limit, "the plugin is the last of the chain", func(context.Context) error {
		raw, err := os.ReadFile(m.conflist())
		if err != nil {
			return err
		}
		if last, err := install.Chains(raw, plugin.Type); err != nil || !last {
			return fmt.Errorf("%w: %s", err, raw)
		}
		return nil
	})
}

// get asks for a URL from within a pod's app.
func (m *mesh) get(from, url string) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, from+" gets "+url, func(ctx context.Context) error {
		_, err := m.Run(ctx, nil, "exec", from, "-c", "app", "--", "/testapp", "get", url)
		return err
	})
}

// says waits until an event of the pod has the words.
func (m *mesh) says(namespace, pod, words string) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, pod+" says "+words, func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "get", "events", "-n", namespace, "--field-selector=involvedObject.name="+pod, "-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}")
		if err == nil && !strings.Contains(out, words) {
			err = errors.New(out)
		}
		return err
	})
}

func TestNode(t *testing.T) {
	m := &mesh{t: t, Mesh: meshed.Boot(t, meshed.Build(t), meshed.Options{})}
	before := m.Folders(t)
	m.Install(t)
	m.chained()
	for _, step := range []struct {
		name string
		run  func(*mesh)
	}{
		{"a meshed pod", testPod},
		{"the conflist changes", testConflist},
		{"the agent is killed", testAgentKilled},
		{"the same program in another container", testThief},
		{"the runtime is restarted", testRuntime},
		{"a rollout", testRollout},
		{"asked for and not injected", testNotInjected},
		{"a reboot", testReboot},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(&mesh{t: t, Mesh: m.Mesh}) })
	}
	t.Run("removed with meshed pods", func(t *testing.T) { testRemoved(&mesh{t: t, Mesh: m.Mesh}, before) })
}

// testPod: its traffic passes through the sidecar, which was handed its queues
// because the runtime knows it.
func testPod(m *mesh) {
	m.Apply(m.t, meshed.Server("web", injected)+meshed.Server("client", injected)+`
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 8080}]
`)
	m.WaitFor(m.t, "condition=Ready", "pod/web", "pod/client")
	m.get("client", "http://web:8080/healthz")
	cluster.Eventually(m.t, limit, "the sidecar has counted it", func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "get", "--raw", "/api/v1/namespaces/default/pods/web:4191/proxy/metrics")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "request_total{") && strings.Contains(line, `direction="inbound"`) && strings.Contains(line, `tls="true"`) {
				return nil
			}
		}
		return errors.New("no request in " + out)
	})
	if out := m.Kubectl(m.t, "exec", "web", "-c", "app", "--", "/testapp", "id"); !strings.Contains(out, "CapEff") {
		m.t.Error(out)
	}
}

// testConflist: whatever becomes of the file, pods that start afterwards are in
// the mesh.
func testConflist(m *mesh) {
	path := m.conflist()
	chained, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	owners, err := install.Remove(chained, plugin.Type)
	if err != nil {
		m.t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		m.t.Fatal(err)
	}
	write := func(content []byte) {
		m.t.Helper()
		tmp := path + ".tmp"
		if err := errors.Join(os.WriteFile(tmp, content, 0o600), os.Chmod(tmp, info.Mode()), os.Rename(tmp, path)); err != nil {
			m.t.Fatal(err)
		}
	}
	ready := func(words string) {
		m.t.Helper()
		cluster.Eventually(m.t, limit, "the agent says "+words, func(ctx context.Context) error {
			out, err := m.Node(1).Run(ctx, "curl", "-s", "http://127.0.0.1:9991/ready")
			if err == nil && !strings.Contains(out, words) {
				err = errors.New(out)
			}
			return err
		})
	}
	write(owners)
	m.chained()
	write(owners[:len(owners)/2])
	ready("cannot be taken as a CNI chain")
	write(owners)
	m.chained()
	if err := os.Remove(path); err != nil {
		m.t.Fatal(err)
	}
	ready("no CNI has written")
	write(owners)
	m.chained()
	ready("ok")
	m.Apply(m.t, meshed.Server("after", injected))
	m.WaitFor(m.t, "condition=Ready", "pod/after")
	m.get("after", "http://web:8080/healthz")
}

// agent is the agent's pod.
func (m *mesh) agent() string {
	m.t.Helper()
	return m.Kubectl(m.t, "get", "pod", "-n", manifest.CNINamespace, "-l", "app.kubernetes.io/name=mesh-cni", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[0].metadata.name}")
}

// testAgentKilled: the keeper outlives it and its pod, meshed pods keep working,
// and a sidecar that starts again gets its queues.
func testAgentKilled(m *mesh) {
	keeper := m.processes("keeper")
	if len(keeper) != 1 {
		m.t.Fatalf("keepers: %v", keeper)
	}
	m.kill(m.processes("agent")...)
	m.get("client", "http://web:8080/healthz")
	m.Kubectl(m.t, "delete", "pod", "-n", manifest.CNINamespace, m.agent(), "--wait")
	m.installed()
	if now := m.processes("keeper"); len(now) != 1 || now[0] != keeper[0] {
		m.t.Errorf("the keeper was %v, and is %v", keeper, now)
	}
	m.chained()
	m.get("client", "http://web:8080/healthz")

	m.kill(m.processes("mesh-proxy")...)
	m.get("client", "http://web:8080/healthz")
}

// processes are those of the node whose command line has the word, by pid.
func (m *mesh) processes(word string) []string {
	m.t.Helper()
	out, err := m.Node(1).Run(m.t.Context(), "sh", "-c", "pgrep -a -f '^[^ ]*mesh-(cni|proxy)( |$)' || [ $? = 1 ]") // 1: none
	if err != nil {
		m.t.Fatal(err)
	}
	var pids []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && (filepath.Base(f[1]) == word || len(f) > 2 && f[2] == word) {
			pids = append(pids, f[0])
		}
	}
	return pids
}

func (m *mesh) kill(pids ...string) {
	m.t.Helper()
	if _, err := m.Node(1).Run(m.t.Context(), append([]string{"kill", "-9"}, pids...)...); err != nil {
		m.t.Fatal(err)
	}
}

// testThief: the sidecar's own program, with its uid and in its pod, gets nothing
// in another container, however often it asks and whoever holds the queues. The
// same program in a pod outside of the chain says so with a code of its own.
func testThief(m *mesh) {
	thief := fmt.Sprintf(`
  - name: thief
    image: %s/mesh-proxy:%s
    securityContext: {runAsUser: 2102, runAsGroup: 2102, capabilities: {add: [NET_ADMIN, SYS_PTRACE]}}
    terminationMessagePolicy: FallbackToLogsOnError
`, m.Programs.Registry, m.Programs.Release)
	m.Apply(m.t, meshed.Server("robbed", injected)+thief+`
---
apiVersion: v1
kind: Service
metadata: {name: robbed}
spec:
  selector: {app: robbed}
  publishNotReadyAddresses: true
  ports: [{port: 8080}]
`)
	outside := meshed.Server("outside", "") + thief
	m.Apply(m.t, strings.ReplaceAll(outside, "name: outside", "namespace: kube-system, name: outside"))
	ended := func(namespace, pod string, code int, words string) {
		m.t.Helper()
		cluster.Eventually(m.t, limit, fmt.Sprintf("it ends with %d in %s", code, pod), func(ctx context.Context) error {
			out, err := m.Run(ctx, nil, "get", "pod", "-n", namespace, pod, "-o", `jsonpath={.status.containerStatuses[?(@.name=="thief")]}`)
			if err == nil && (!strings.Contains(out, fmt.Sprintf(`"exitCode":%d,`, code)) || !strings.Contains(out, words)) {
				err = errors.New(out)
			}
			return err
		})
	}
	ended("default", "robbed", 4, "the process is not in container mesh-proxy")
	ended("kube-system", "outside", 3, "without the tunmesh CNI plugin")
	for range 2 { // the kubelet waits longer each time
		m.kill(m.processes("mesh-proxy")...)
		m.get("client", "http://robbed.default.svc:8080/healthz")
	}
	ended("default", "robbed", 4, "refused the queues")
	m.Kubectl(m.t, "delete", "pod,service", "robbed", "--wait=false")
	m.Kubectl(m.t, "delete", "pod", "-n", "kube-system", "outside", "--wait=false")
}

// testRuntime: containerd and the kubelet start again, and the agent finds the
// new one at its socket.
func testRuntime(m *mesh) {
	for _, name := range []string{"containerd", "kubelet"} {
		if err := m.Node(1).Process(name).Restart(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
	m.get("client", "http://web:8080/healthz")
	m.Apply(m.t, meshed.Server("restarted", injected))
	m.WaitFor(m.t, "condition=Ready", "pod/restarted")
	m.get("restarted", "http://web:8080/healthz")
	m.Kubectl(m.t, "delete", "pod", "restarted", "--wait=false")
}

// testReboot: every namespace of the node is gone, its disk is not.
func testReboot(m *mesh) {
	if err := m.Node(1).Reboot(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.get("client", "http://web:8080/healthz")
	m.installed()
	m.chained()
	if keepers := m.processes("keeper"); len(keepers) != 1 {
		m.t.Errorf("keepers: %v", keepers)
	}
}

// testRollout: of many pods that start while the DaemonSet is replaced none is
// outside of the chain. The sidecar of one that is would end with its own code.
func testRollout(m *mesh) {
	many := 100
	if testing.Short() {
		many = 20
	}
	m.Kubectl(m.t, "rollout", "restart", "-n", manifest.CNINamespace, "daemonset/mesh-cni")
	var text strings.Builder
	var names []string
	for i := range many {
		name := fmt.Sprintf("roll-%d", i)
		text.WriteString(meshed.Server(name, injected))
		names = append(names, "pod/"+name)
	}
	m.Apply(m.t, text.String())
	m.installed()
	// They start in any order: each has the time of all.
	cluster.Eventually(m.t, time.Duration(many)*10*time.Second, "all are Ready", func(ctx context.Context) error {
		_, err := m.Run(ctx, nil, append([]string{"wait", "--for=condition=Ready", "--timeout=20s"}, names...)...)
		return err
	})
	out := m.Kubectl(m.t, "get", "pod", "-o", `jsonpath={range .items[*]}{.metadata.name} injected {.metadata.annotations.tunmesh\.io/injected} ended {.status.initContainerStatuses[*].lastState.terminated}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "roll-") {
			continue
		}
		if !strings.Contains(line, "injected "+m.Programs.Release+" ") || strings.Contains(line, `"exitCode":3,`) {
			m.t.Errorf("outside of the chain: %s", line)
		}
		if strings.Contains(line, `"exitCode"`) { // nobody asked it to
			name, _, _ := strings.Cut(line, " ")
			said, _ := m.Run(m.t.Context(), nil, "logs", name, "-c", "mesh-proxy", "--previous")
			m.t.Errorf("a sidecar started again: %s%s", line, said)
		}
	}
	m.Kubectl(m.t, append([]string{"delete", "--wait=false"}, names...)...)
}

// testNotInjected: the injector leaves kube-system out, so a pod there that asks
// for the mesh comes without a sidecar.
func testNotInjected(m *mesh) {
	m.Kubectl(m.t, "run", "asks", "-n", "kube-system", "--image="+cluster.TestImage, "--annotations=tunmesh.io/inject=enabled")
	m.says("kube-system", "asks", "was not injected")
	m.Kubectl(m.t, "delete", "pod", "-n", "kube-system", "asks", "--wait=false")
	m.Kubectl(m.t, "run", "asks-not", "-n", "kube-system", "--image="+cluster.TestImage)
	m.WaitFor(m.t, "condition=Ready", "-n", "kube-system", "pod/asks-not")
	m.Kubectl(m.t, "delete", "pod", "-n", "kube-system", "asks-not", "--wait=false")
}

// testRemoved: meshed pods keep working, one that is injected all the same is
// told why it cannot start, and the last one takes everything with it.
func testRemoved(m *mesh, before map[string]string) {
	// The DaemonSet first, as uninstall has it: while it stands, an end of its pods with their namespace looks like a restart.
	m.Script(m.t, "kubectl -n tunmesh-cni delete daemonset mesh-cni --wait=false\nmeshctl install-cni | kubectl delete --ignore-not-found -f -")
	cluster.Eventually(m.t, limit, "the agent has ended", func(context.Context) error {
		if pids := m.processes("agent"); len(pids) > 0 {
			return fmt.Errorf("it is process %v", pids)
		}
		return nil
	})
	m.chained()
	m.get("client", "http://web:8080/healthz")
	m.Apply(m.t, meshed.Server("late", injected))
	m.says("default", "late", "the mesh was removed from this node")
	m.Kubectl(m.t, "delete", "pod", "--all", "--wait=true")
	cluster.Eventually(m.t, limit, "the node's folders are as they were", func(context.Context) error {
		if d := cmp.Diff(before, m.Folders(m.t)); d != "" {
			return errors.New(d)
		}
		return nil
	})
	if out, err := m.Node(1).Run(m.t.Context(), "ls", "-A", "/run/tunmesh"); err == nil && strings.TrimSpace(out) != "" {
		m.t.Errorf("left in /run/tunmesh: %s", out)
	}
	if pids := append(m.processes("keeper"), m.processes("mesh-cni")...); len(pids) > 0 {
		m.t.Errorf("still running: %v", pids)
	}
}
