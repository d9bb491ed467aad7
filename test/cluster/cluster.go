// Package cluster boots a real Kubernetes for tests: API server, scheduler,
// controllers, etcd, and one to three nodes with kubelet, kube-proxy and
// containerd, built from their Go modules and run in namespaces of their own.
// It owns the cluster's life and the ways in; it refuses to know what is
// tested with it.
//
//  1. Up builds what the cache lacks (package programs) and makes a folder with
//     certificates, images and the layout.
//  2. It starts the holder (internal/hold), which starts the cluster's first
//     process in new namespaces (internal/fabric), which starts the control
//     plane and, again in new namespaces, the nodes (internal/node).
//  3. Up waits until nodes and DNS are ready. Tests use Kubectl, Node, LoadImage
//     and the faults of Process.
//  4. When the owner ends, also by kill -9, the holder ends and removes all.
//
// Nothing is reachable from the machine's own network but the API server, at a
// port of the loopback interface.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster/internal/apiclient"
	"github.com/tunmesh/tunmesh/test/cluster/internal/fabric"
	"github.com/tunmesh/tunmesh/test/cluster/internal/hold"
	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
)

// Cluster is a running cluster.
type Cluster struct {
	layout   layout.Cluster
	began    time.Time
	progress func(string, ...any)
	api      *apiclient.Client
	hold     *exec.Cmd
	word     io.WriteCloser // the holder's input: its end is the cluster's
	reports  chan fabric.Report
	ended    chan struct{} // closed when the holder has ended
	why      atomic.Pointer[string]
}

func arch() string { return runtime.GOARCH }

// Kubeconfig is a file for kubectl and others on this machine.
func (c *Cluster) Kubeconfig() string { return c.layout.Kubeconfig() }

// Bin is a folder with a kubectl of the cluster's version.
func (c *Cluster) Bin() string { return filepath.Join(c.layout.Dir, "bin") }

// Logs is the folder with the logs of every process.
func (c *Cluster) Logs() string { return c.layout.Logs() }

// Version is the release of Kubernetes.
func (c *Cluster) Version() string { return c.layout.Programs.Release }

// Ended is closed when the cluster is no more, whatever the reason.
func (c *Cluster) Ended() <-chan struct{} { return c.ended }

// downTime bounds the removal of a cluster.
const downTime = 5 * time.Minute

// Down ends the cluster and removes everything; keepLogs leaves its logs.
func (c *Cluster) Down(ctx context.Context, keepLogs bool) error {
	word := hold.Clean
	if keepLogs {
		word = hold.Keep
	}
	_, werr := io.WriteString(c.word, word) // a holder that has ended reads nothing
	_ = c.word.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTime)
	defer cancel()
	select {
	case <-c.ended:
	case <-ctx.Done():
		_ = c.hold.Process.Kill()
		return fmt.Errorf("the cluster in %s was not removed within %s", c.layout.Dir, downTime)
	}
	if c.why.Load() == nil && werr == nil {
		return nil
	}
	err := c.failure()
	if _, serr := layout.Load(c.layout.Dir); serr == nil { // the holder was killed before it could
		err = errors.Join(err, hold.Remove(c.layout, !keepLogs))
	}
	return err
}

// Run runs kubectl on this machine; in may be nil. The error has what kubectl
// said.
func (c *Cluster) Run(ctx context.Context, in io.Reader, args ...string) (string, error) {
	cmd := c.KubectlCommand(ctx, args...)
	cmd.Stdin = in
	return output(ctx, cmd, "kubectl "+strings.Join(args, " "))
}

// KubectlCommand is kubectl as a command to be run, for what Run can't do.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin(), "kubectl"), args...)
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBECACHEDIR="+filepath.Join(c.layout.Dir, "kubectl-cache"))
	return cmd
}

func output(ctx context.Context, cmd *exec.Cmd, what string) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Process finds a process of the control plane: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler.
func (c *Cluster) Process(name string) Process {
	return Process{name: name, client: supervise.Client{Path: c.layout.Control()}}
}

// Node is node n, counted from 1.
func (c *Cluster) Node(n int) Node {
	return Node{c: c, layout: c.layout.Node(n)}
}

// Nodes lists all nodes.
func (c *Cluster) Nodes() (out []Node) {
	for n := range c.layout.Nodes {
		out = append(out, c.Node(n+1))
	}
	return out
}

// LoadImage gives an image to every node: a tarball as deploy/image writes it.
func (c *Cluster) LoadImage(ctx context.Context, tarball string) error {
	var errs []error
	for _, n := range c.Nodes() {
		errs = append(errs, n.LoadImage(ctx, tarball))
	}
	return errors.Join(errs...)
}

// Command is a command in the control plane's namespaces, from where pods and
// nodes can be reached.
func (c *Cluster) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	return inside(ctx, c.layout.Control(), argv)
}

// inside prepares a command in the namespaces of a supervisor. It ends with its
// context, and with this process.
func inside(ctx context.Context, control string, argv []string) (*exec.Cmd, error) {
	pid, err := supervise.Client{Path: control}.PID(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the machine to run %s on: %w", argv[0], err)
	}
	args := []string{"--target", fmt.Sprint(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd", "--", "setpriv", "--pdeathsig", "KILL", "--"}
	return exec.CommandContext(ctx, "nsenter", append(args, argv...)...), nil
}
