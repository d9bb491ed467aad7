package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// walk is a cluster, and who works on it.
type walk struct {
	*meshed.Mesh
	t *testing.T
}

// run runs scripts word for word, one after the other in one shell, and returns what
// they printed.
func (w *walk) run(scripts ...string) string {
	w.t.Helper()
	var all strings.Builder
	for _, s := range scripts {
		text, err := os.ReadFile(filepath.Join("testdata", s))
		if err != nil {
			w.t.Fatal(err)
		}
		all.Write(text)
	}
	return w.Script(w.t, all.String())
}

// restarts are a namespace's pods with their restarts.
func (w *walk) restarts(namespace string) string {
	w.t.Helper()
	return w.Kubectl(w.t, "-n", namespace, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}{range .status.initContainerStatuses[*]} {.restartCount}{end}{range .status.containerStatuses[*]} {.restartCount}{end}{"\n"}{end}`)
}

func TestInstall(t *testing.T) {
	p := meshed.Build(t)
	t.Run("walk", func(t *testing.T) { testWalk(&walk{t: t, Mesh: meshed.Boot(t, p, meshed.Options{})}) })
	t.Run("three replicas", func(t *testing.T) { testReplicas(&walk{t: t, Mesh: meshed.Boot(t, p, meshed.Options{Nodes: 3})}) })
}

// testWalk is the walk of every introduction, other values and certificates on the
// way, and back: afterwards nothing of the mesh is left in the cluster or on its
// node, and it can be installed again.
func testWalk(w *walk) {
	t := w.t
	if err := os.WriteFile(filepath.Join(w.Dir, "emojivoto.yaml"), []byte(w.Sample()), 0o600); err != nil {
		t.Fatal(err)
	}
	before := w.Folders(t)

	out := w.run("walk.sh")
	if n := strings.Count(out, "\nStatus check results are √\n"); n != 3 {
		t.Errorf("%d of 3 checks are well:\n%s", n, out)
	}
	if want := "Proxy versions:\n\t" + w.Programs.Release + " (4 pods)\n"; !strings.Contains(out, want) {
		t.Errorf("no %q in:\n%s", want, out)
	}
	if n := strings.Count(out, "URI:spiffe://cluster.local/ns/emojivoto/sa/"); n != 4 {
		t.Errorf("%d identities of 4:\n%s", n, out)
	}
	w.sidecars()
	w.eyes()
	w.run("look.sh")
	if warning := "‼ what mesh-view has counted outlives it"; !strings.Contains(out, warning) {
		t.Errorf("without a volume no %q in:\n%s", warning, out)
	}
	w.volume()
	pods := w.restarts("emojivoto")

	w.run("change.sh")
	if d := cmp.Diff(pods, w.restarts("emojivoto")); d != "" {
		t.Errorf("the sample's pods changed with the control plane: %s", d)
	}

	if out := w.run("authority.sh", "rotate.sh"); strings.Count(out, "Issuer: CN=Our issuer") != 4 {
		t.Errorf("after the rotation:\n%s", out)
	}
	if d := cmp.Diff(pods, w.restarts("emojivoto")); d != "" {
		t.Errorf("the rotation restarted pods: %s", d)
	}

	w.run("restart.sh")
	w.run("remove.sh")
	w.gone(before)
	w.run("again.sh")
	w.gone(before)
}

// gone makes sure that nothing of the mesh is left.
func (w *walk) gone(before map[string]string) {
	w.t.Helper()
	if out := w.Kubectl(w.t, "get", "ns,clusterroles,clusterrolebindings,mutatingwebhookconfigurations", "-o", "name"); strings.Contains(out, "mesh") {
		w.t.Errorf("left in the cluster:\n%s", out)
	}
	cluster.Eventually(w.t, time.Minute, "the nodes' CNI folders are as they were", func(context.Context) error {
		if d := cmp.Diff(before, w.Folders(w.t)); d != "" {
			return errors.New(d)
		}
		return nil
	})
}

// volume gives mesh-view a volume. What it counted is there after its pod was deleted,
// and after it was killed in the middle of its work.
func (w *walk) volume() {
	w.t.Helper()
	const path = "/var/lib/volumes/metrics"
	n := w.Node(1)
	if err := os.MkdirAll(n.Disk(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	// Of a local volume, unlike of a hostPath, kubelet sets the group.
	text := fmt.Sprintf(`apiVersion: v1
kind: PersistentVolume
metadata: {name: metrics}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  local: {path: %s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}}
`, path, n.Name())
	if err := os.WriteFile(filepath.Join(w.Dir, "volume.yaml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.run("volume.sh")
	w.Kubectl(w.t, "-n", "tunmesh", "delete", "pod", "-l", "app.kubernetes.io/name=mesh-view")
	w.run("kept.sh")
	if out, err := n.Run(w.t.Context(), "pkill", "-KILL", "-f", "^/usr/local/bin/mesh-control view "); err != nil {
		w.t.Fatalf("kill mesh-view: %v: %s", err, out)
	}
	w.run("kept.sh")
	w.Kubectl(w.t, "-n", "emojivoto", "scale", "deploy/vote-bot", "--replicas=1")
	w.Kubectl(w.t, "-n", "emojivoto", "rollout", "status", "deploy/vote-bot", "--timeout=3m")
}

// warned reports whether a check has warned of anything but that figures end with
// mesh-view's pod: there are no volumes in this cluster.
func warned(out string) bool {
	return strings.Contains(strings.ReplaceAll(out, "‼ what mesh-view has counted outlives it", ""), "‼")
}

// testReplicas: each replica is on a node of its own, and all may be lost at once.
func testReplicas(w *walk) {
	out := w.run("apart.sh")
	w.emptyEyes()
	out += w.run("spread.sh")
	if n := strings.Count(out, "\nStatus check results are √\n"); n != 2 || warned(out) {
		w.t.Errorf("%d of 2 checks are well:\n%s", n, out)
	}
	on := strings.Fields(w.Kubectl(w.t, "-n", "tunmesh", "get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"))
	slices.Sort(on)
	if n := len(slices.Compact(on)); n != 3 {
		w.t.Errorf("three replicas are on %d nodes", n)
	}
	if out := w.run("lost.sh"); warned(out) {
		w.t.Errorf("after all replicas were lost:\n%s", out)
	}
}

// sidecars looks at the processes of the sample's pods: none has a capability, and
// there is no init container but the sidecar.
func (w *walk) sidecars() {
	w.t.Helper()
	names := w.Kubectl(w.t, "-n", "emojivoto", "get", "pods", "-o", "jsonpath={.items[*].spec.initContainers[*].name}")
	for name := range strings.FieldsSeq(names) {
		if name != "mesh-proxy" {
			w.t.Errorf("init container %s", name)
		}
	}
	for _, n := range w.Nodes() {
		for _, program := range []string{"mesh-proxy", "emojivoto"} {
			out, err := n.Run(w.t.Context(), "sh", "-c", "for p in $(pgrep -x "+program+"); do grep CapEff /proc/$p/status; done")
			if err != nil || !strings.Contains(out, "CapEff") || strings.Count(out, "0000000000000000") != strings.Count(out, "CapEff") {
				w.t.Errorf("%s: %v: capabilities of %s: %s", n.Name(), err, program, out)
			}
		}
	}
}
