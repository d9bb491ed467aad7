package hold

import (
	"os"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

// folder makes what a cluster leaves behind whose hold was killed.
func folder(t *testing.T, parent string) layout.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp(parent, Prefix)
	if err != nil {
		t.Fatal(err)
	}
	c := layout.Cluster{Dir: dir, Nodes: 1, Group: "tunmesh-test-nobody"}
	for _, d := range []string{c.Logs(), c.Node(1).Disk("/etc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.Log("kubelet"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	return c
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestSweep(t *testing.T) {
	parent := t.TempDir()
	left, running, fresh := folder(t, parent), folder(t, parent), folder(t, parent)
	lock, err := Claim(running.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := Claim(running.Dir); err == nil {
		t.Error("a cluster was claimed twice")
	}
	for _, c := range []layout.Cluster{left, running} {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(c.Dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if errs := Sweep(parent); errs != nil {
		t.Fatal(errs)
	}
	if exists(left.Node(1).Dir()) || !exists(left.Log("kubelet")) {
		t.Error("of what was left, the logs and nothing else should be there")
	}
	for _, c := range []layout.Cluster{running, fresh} {
		if !exists(c.Node(1).Dir()) {
			t.Errorf("%s was removed", c.Dir)
		}
	}
	if err := sweep(left.Dir, time.Now().Add(2*keepLog)); err != nil || exists(left.Dir) {
		t.Errorf("old logs are still there: %v", err)
	}
}

func TestRemove(t *testing.T) {
	c := folder(t, t.TempDir())
	if err := Remove(c, true); err != nil || exists(c.Dir) {
		t.Errorf("still there: %v", err)
	}
}
