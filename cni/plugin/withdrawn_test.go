package plugin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/plugin"
)

// The mesh is removed from a node with a meshed pod: another one is told why it
// cannot start, and the DEL of the last one takes the plugin out of the chain.
func TestMeshRemovedUnderAPod(t *testing.T) {
	w, _, c := ready(t, injected())
	net, bin := filepath.Join(w.dir, "net.d"), filepath.Join(w.dir, "opt")
	chain := []byte(`{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`)
	if err := errors.Join(os.Mkdir(net, 0o755), os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(net, "10-x.conflist"), chain, 0o600)); err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(net, install.JournalName)
	entry, err := plugin.Entry{StateDir: w.stateDir(), Journal: journal}.JSON()
	if err != nil {
		t.Fatal(err)
	}
	in := install.New(install.Config{
		NetDir: net, BinDir: bin, Program: filepath.Join(net, "10-x.conflist"), Type: plugin.Type, Entry: entry,
		Known: plugin.Versions().SupportedVersions(), StateDir: w.stateDir(), Log: quiet(),
	})
	reconcile := func() {
		t.Helper()
		if st, err := in.Reconcile(); err != nil || !st.Installed {
			t.Fatalf("%+v, %v", st, err)
		}
	}
	withdraw := func() {
		t.Helper()
		if done, err := in.Withdraw(time.Unix(1e9, 0)); done || err != nil {
			t.Fatalf("%v, %v", done, err)
		}
	}
	other := filepath.Join(w.stateDir(), install.Networks, "other.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(other), 0o700), os.WriteFile(other, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c.conf["journal"] = journal
	a := newFakeAgent()

	reconcile()
	withdraw()
	a.failAttach, a.failRelease = errors.New("nobody listens"), errors.New("nobody listens")
	pl, _ := ours(a, nil)
	wantError(t, pl.Add(t.Context(), c.skel(t)), plugin.CodeRefused, "the mesh was removed from this node at 2001-09-09T01:46:40Z")

	// It is installed again, and removed again under our pod.
	reconcile()
	a.failAttach = nil
	w.mustAdd(a, c)
	withdraw()
	a.failAttach = errors.New("nobody listens")
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	ended := ""
	last := plugin.New(plugin.Config{
		Agent: func(string) plugin.Agent { return a }, Log: quiet(), Out: os.Stderr,
		Last: func(_ context.Context, dir string) error { ended += dir; return nil },
	})
	for range 2 {
		if err := last.Del(t.Context(), w.after(c)); err != nil {
			t.Fatal(err)
		}
	}
	if ended != w.stateDir() {
		t.Errorf("what the agent left was ended in %q, want once, in %q", ended, w.stateDir())
	}
	if raw, err := os.ReadFile(filepath.Join(net, "10-x.conflist")); string(raw) != string(chain) {
		t.Errorf("the chain: %s, %v", raw, err)
	}
	for _, path := range []string{journal, filepath.Join(bin, plugin.Type)} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}
