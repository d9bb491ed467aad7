package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/deploy"
	"github.com/tunmesh/tunmesh/deploy/image"
	"github.com/tunmesh/tunmesh/test/cluster"
)

const (
	release  = "v1.0.0-test"
	registry = "ghcr.io/tunmesh" // what install asks for when nobody says otherwise
	// scriptTime bounds one script: the longest waits for images, rollouts and a vote.
	scriptTime = 8 * time.Minute
)

// build makes meshctl in dir, and tarballs of the images.
func build(t *testing.T, dir string) (tarballs []string) {
	t.Helper()
	for name, user := range map[string]string{"meshctl": "", "mesh-cni": "", "mesh-control": "2103:2103", "mesh-proxy": "2102:2102", "emojivoto": "65534:65534"} {
		program := filepath.Join(dir, name)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program,
			"-ldflags", "-s -w -X github.com/tunmesh/tunmesh/internal/version.number="+release, "../../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", name, err, out)
		}
		if name == "meshctl" {
			continue
		}
		index, err := image.Build(image.Spec{Programs: map[string]string{runtime.GOARCH: program}, Path: "/usr/local/bin/" + name, User: user})
		if err == nil {
			err = image.WriteTarball(program+".tar", registry+"/"+name+":"+release, index)
		}
		if err != nil {
			t.Fatal(err)
		}
		tarballs = append(tarballs, program+".tar")
	}
	return tarballs
}

// walk is a cluster, and a folder from which somebody works on it.
type walk struct {
	*cluster.Cluster
	t   *testing.T
	bin string // meshctl
	dir string // where scripts run
}

// run runs a script word for word and returns what it printed.
func (w *walk) run(script string) string {
	w.t.Helper()
	file, err := filepath.Abs(filepath.Join("testdata", script))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), scriptTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", file)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "PATH="+w.bin+":"+w.Bin()+":"+os.Getenv("PATH"), "KUBECONFIG="+w.Kubeconfig(), "KUBECACHEDIR="+filepath.Join(w.dir, "cache"))
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		pods, _ := w.Run(w.t.Context(), nil, "get", "pods", "-A", "-o", "wide")
		events, _ := w.Run(w.t.Context(), nil, "get", "events", "-A", "--sort-by=.lastTimestamp")
		w.t.Fatalf("%s: %v\n%s\n%s\n%s", script, err, out, pods, events)
	}
	return string(out)
}

// folders are the sums of everything in the node's CNI folders.
func (w *walk) folders() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, n := range w.Nodes() {
		for _, dir := range []string{"/etc/cni/net.d", "/opt/cni/bin"} {
			root := n.Disk(dir)
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				text, err := os.ReadFile(path)
				out[n.Name()+strings.TrimPrefix(path, n.Disk(""))] = fmt.Sprintf("%s %x", info.Mode(), sha256.Sum256(text))
				return err
			})
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return out
}

// restarts are the sample's pods with their restarts.
func (w *walk) restarts() string {
	w.t.Helper()
	return w.Kubectl(w.t, "-n", "emojivoto", "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}{range .status.initContainerStatuses[*]} {.restartCount}{end}{range .status.containerStatuses[*]} {.restartCount}{end}{"\n"}{end}`)
}

func TestInstall(t *testing.T) {
	bin := t.TempDir()
	var tarballs []string
	if os.Getenv(cluster.Wanted) != "" {
		tarballs = build(t, bin)
	}
	start := func(t *testing.T, nodes int) *walk {
		t.Helper()
		return &walk{t: t, bin: bin, dir: t.TempDir(), Cluster: cluster.Start(t, cluster.Options{
			Version: os.Getenv("TUNMESH_KUBERNETES"), Nodes: nodes, Images: tarballs,
		})}
	}
	t.Run("walk", func(t *testing.T) { testWalk(start(t, 1)) })
	t.Run("three replicas", func(t *testing.T) { testReplicas(start(t, 3)) })
}

// testWalk is the walk of every introduction, other values and certificates on the
// way, and back: afterwards nothing of the mesh is left in the cluster or on its
// node, and it can be installed again.
func testWalk(w *walk) {
	t := w.t
	sample := bytes.ReplaceAll(deploy.Emojivoto(), []byte("emojivoto:latest"), []byte("emojivoto:"+release))
	if err := os.WriteFile(filepath.Join(w.dir, "emojivoto.yaml"), sample, 0o600); err != nil {
		t.Fatal(err)
	}
	before := w.folders()

	out := w.run("walk.sh")
	if n := strings.Count(out, "\nStatus check results are √\n"); n != 3 {
		t.Errorf("%d of 3 checks are well:\n%s", n, out)
	}
	if want := "Proxy versions:\n\t" + release + " (4 pods)\n"; !strings.Contains(out, want) {
		t.Errorf("no %q in:\n%s", want, out)
	}
	if n := strings.Count(out, "URI:spiffe://cluster.local/ns/emojivoto/sa/"); n != 4 {
		t.Errorf("%d identities of 4:\n%s", n, out)
	}
	w.sidecars()
	pods := w.restarts()

	w.run("change.sh")
	if d := cmp.Diff(pods, w.restarts()); d != "" {
		t.Errorf("the sample's pods changed with the control plane: %s", d)
	}

	if out := w.run("rotate.sh"); strings.Count(out, "Issuer: CN=Our issuer") != 4 {
		t.Errorf("after the rotation:\n%s", out)
	}
	if d := cmp.Diff(pods, w.restarts()); d != "" {
		t.Errorf("the rotation restarted pods: %s", d)
	}

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
		if d := cmp.Diff(before, w.folders()); d != "" {
			return errors.New(d)
		}
		return nil
	})
}

// testReplicas: each replica is on a node of its own, and all may be lost at once.
func testReplicas(w *walk) {
	out := w.run("apart.sh")
	if n := strings.Count(out, "\nStatus check results are √\n"); n != 2 || strings.Contains(out, "‼") {
		w.t.Errorf("%d of 2 checks are well:\n%s", n, out)
	}
	on := strings.Fields(w.Kubectl(w.t, "-n", "tunmesh", "get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"))
	slices.Sort(on)
	if n := len(slices.Compact(on)); n != 3 {
		w.t.Errorf("three replicas are on %d nodes", n)
	}
	if out := w.run("lost.sh"); strings.Contains(out, "‼") {
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
