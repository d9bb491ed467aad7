package faults

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// view matches mesh-view's command line.
const view = "^/usr/local/bin/mesh-control view "

// viewDisk is the node of mesh-view, and where that has its store.
func (m *mesh) viewDisk() (n cluster.Node, dir string) {
	m.t.Helper()
	f := strings.Fields(m.Kubectl(m.t, "-n", "tunmesh", "get", "pods", "-l", "app.kubernetes.io/name=mesh-view", "-o", "jsonpath={.items[0].spec.nodeName} {.items[0].metadata.uid}"))
	for _, n = range m.Nodes() {
		if n.Name() == f[0] {
			return n, filepath.Join("/var/lib/kubelet/pods", f[1], "volumes/kubernetes.io~empty-dir/metrics")
		}
	}
	m.t.Fatalf("mesh-view is on node %q", f[0])
	return n, ""
}

// checked waits until check says something.
func (m *mesh) checked(words ...string) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, "meshctl check says "+words[0], func(ctx context.Context) error {
		out, err := m.RunMeshctl(ctx, "check", "--wait", "1s")
		for _, w := range words {
			if !strings.Contains(out, w) {
				return errors.Join(errors.New(out), err)
			}
		}
		return nil
	})
}

// testViewKilled: mesh-view's process is killed until the kubelet waits before it
// starts it again, then it starts without the disk of its store. Traffic goes on, check
// names both, and with the disk figures are kept again.
func (m *mesh) testViewKilled() {
	n, dir := m.viewDisk()
	as := func(argv ...string) {
		m.t.Helper()
		if out, err := n.Run(m.t.Context(), argv...); err != nil {
			m.t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	m.under(func() {
		as("chmod", "0000", dir)
		cluster.Eventually(m.t, limit, "meshctl check names mesh-view, which does not run", func(ctx context.Context) error {
			if pids := m.processes(n, view); len(pids) > 0 {
				m.kill(n, pids...)
			}
			out, err := m.RunMeshctl(ctx, "check", "--wait", (100 * time.Millisecond).String())
			if err == nil || !strings.Contains(out, "× mesh-view is ready") {
				return errors.Join(errors.New("it says:\n"+out), err)
			}
			return nil
		})
		if out, err := m.RunMeshctl(m.t.Context(), "stat", "deploy", "-n", ns); err == nil || out != "" {
			m.t.Errorf("stat without mesh-view: %v %s", err, out)
		}
		m.checked("‼ what sidecars count is kept", "permission denied", "√ mesh-view is ready")
		as("chmod", "2777", dir)
		m.kill(n, m.processes(n, view)...)
		m.checked("√ what sidecars count is kept", "√ mesh-view is ready")
		cluster.Eventually(m.t, limit, "meshctl stat has figures again", func(ctx context.Context) error {
			out, err := m.RunMeshctl(ctx, "stat", "deploy/web", "-n", ns)
			if err == nil && !strings.Contains(out, "100.00%") {
				err = errors.New(out)
			}
			return err
		})
	})
}
