package meshed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/deploy"
	"github.com/tunmesh/tunmesh/test/cluster"
)

// scriptTime bounds a script, and a command of meshctl: the longest wait for
// images, rollouts and votes.
const scriptTime = 8 * time.Minute

// Options say what a cluster with the mesh is. The zero value is one node, and
// what meshctl install prints without flags.
type Options struct {
	// Nodes, 1 to 3; 0 is 1.
	Nodes int
	// DualStack gives nodes, pods and Services IPv6 addresses, too.
	DualStack bool
	// Install are more arguments of meshctl install, such as --ha.
	Install []string
	// Images are more tarballs for the nodes.
	Images []string
}

// Mesh is a cluster, and a folder from which somebody works on it.
type Mesh struct {
	*cluster.Cluster
	Programs *Programs
	Dir      string // where scripts run
}

// Start boots a cluster with the mesh in it, healthy as meshctl check says. It goes
// with the test.
func Start(tb testing.TB, p *Programs, o Options) *Mesh {
	tb.Helper()
	m := Boot(tb, p, o)
	m.Install(tb, o.Install...)
	return m
}

// Boot boots a cluster of that kind without the mesh.
func Boot(tb testing.TB, p *Programs, o Options) *Mesh {
	tb.Helper()
	return &Mesh{Programs: p, Dir: tb.TempDir(), Cluster: cluster.Start(tb, cluster.Options{
		Version: os.Getenv("TUNMESH_KUBERNETES"), Nodes: o.Nodes, DualStack: o.DualStack, Images: slices.Concat(p.Tarballs, o.Images),
	})}
}

// Install puts the mesh into the cluster and waits until it is healthy.
func (m *Mesh) Install(tb testing.TB, args ...string) {
	tb.Helper()
	m.Apply(tb, m.Meshctl(tb, append([]string{"install"}, args...)...))
	m.Meshctl(tb, "check", "--wait", (scriptTime / 2).String())
}

// Meshctl runs meshctl and returns what it printed to its output; the test fails
// when it does.
func (m *Mesh) Meshctl(tb testing.TB, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), scriptTime)
	defer cancel()
	out, err := m.RunMeshctl(ctx, args...)
	if err != nil {
		tb.Fatalf("%v\n%s\n%s", err, out, m.State(tb))
	}
	return out
}

// RunMeshctl is Meshctl for one that may fail; the error has what it said.
func (m *Mesh) RunMeshctl(ctx context.Context, args ...string) (string, error) {
	cmd := m.Here(ctx, "meshctl", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("meshctl %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), err
}

// Script runs a script of bash as somebody types it, in the folder Dir with meshctl and
// kubectl in the path, and returns all that was printed. The test fails with its
// first command that does.
func (m *Mesh) Script(tb testing.TB, text string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), scriptTime)
	defer cancel()
	cmd := m.Here(ctx, "bash", "-euo", "pipefail", "-c", text)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not within %s: %w", scriptTime, err)
	}
	if err != nil {
		tb.Fatalf("%v\n%s\n%s", err, out, m.State(tb))
	}
	return string(out)
}

// Here is a program on this machine, in the folder Dir, which finds the cluster
// and the mesh's programs.
func (m *Mesh) Here(ctx context.Context, name string, args ...string) *exec.Cmd {
	if name == "meshctl" {
		name = filepath.Join(m.Programs.Bin, name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = m.Dir
	cmd.Env = append(os.Environ(), "PATH="+m.Programs.Bin+":"+m.Bin()+":"+os.Getenv("PATH"),
		"KUBECONFIG="+m.Kubeconfig(), "KUBECACHEDIR="+filepath.Join(m.Dir, ".kubectl-cache"))
	cmd.WaitDelay = time.Second
	return cmd
}

// Namespace makes a namespace in which pods can be made at once, meshed ones when
// injected.
func (m *Mesh) Namespace(tb testing.TB, name string, injected bool) {
	tb.Helper()
	ask := "{}"
	if injected {
		ask = "{tunmesh.io/inject: enabled}"
	}
	m.Apply(tb, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, annotations: %s}}", name, ask))
	cluster.Eventually(tb, time.Minute, "the ServiceAccount of namespace "+name, func(ctx context.Context) error {
		_, err := m.Run(ctx, nil, "-n", name, "get", "serviceaccount", "default")
		return err
	})
}

// Server is the manifest of a pod that serves on port 8080, with more annotations as
// YAML.
func Server(name, annotations string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}, annotations: {%[2]s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: %[3]s
    args: [serve]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`, name, annotations, cluster.TestImage)
}

// Sample is the manifest of the sample application, in namespace emojivoto and not
// meshed, with the images that every cluster has.
func (m *Mesh) Sample() string {
	return strings.ReplaceAll(string(deploy.Emojivoto()), "emojivoto:latest", "emojivoto:"+m.Programs.Release)
}

// State is what somebody looks at when something fails: pods, what became of
// their containers, events, and the last words of the mesh's own pods.
func (m *Mesh) State(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", "tunmesh", "-l", "app.kubernetes.io/name", "--all-containers", "--prefix", "--tail=40"},
		{"logs", "-n", "tunmesh-cni", "-l", "app.kubernetes.io/name", "--all-containers", "--prefix", "--tail=40"},
	} {
		out, err := m.Run(ctx, nil, args...)
		fmt.Fprintf(&b, "kubectl %s:\n%s\n", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}
