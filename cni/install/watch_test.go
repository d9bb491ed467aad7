package install_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/cni/install"
)

// limit of every wait here; events come within milliseconds.
const limit = time.Minute

func (n *node) watch() *install.Watcher {
	n.t.Helper()
	w := install.NewWatcher(n.cfg)
	ctx, cancel := context.WithCancel(n.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(ctx) }()
	n.t.Cleanup(func() { cancel(); <-ended; goleak.VerifyNone(n.t) })
	return w
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func (n *node) has(file, part string) bool {
	raw, err := os.ReadFile(filepath.Join(n.net, file))
	if err != nil {
		return false
	}
	last, err := install.Chains(raw, meshType)
	return err == nil && last && strings.Contains(string(raw), part)
}

// A CNI that arrives later, is rewritten again and again, corrupt for a while,
// and replaced by another one.
func TestWatcher(t *testing.T) {
	n := newNode(t)
	w := n.watch()
	eventually(t, "it says that no CNI is there", func() bool {
		_, err := w.Status()
		return err != nil && strings.Contains(err.Error(), "no CNI has written")
	})
	n.write("10-flannel.conflist", flannel)
	eventually(t, "it is in the chain", func() bool { return n.has("10-flannel.conflist", "cbr0") })
	for _, name := range []string{"cbr1", "cbr2", "cbr3", "cbr4", "cbr5", "cbr6"} {
		n.write("10-flannel.conflist", strings.Replace(flannel, "cbr0", name, 1))
		eventually(t, "it is in the chain of "+name, func() bool { return n.has("10-flannel.conflist", name) })
	}
	n.write("10-flannel.conflist", flannel[:40])
	eventually(t, "it says that the conflist is corrupt", func() bool {
		st, err := w.Status()
		return err != nil && strings.Contains(err.Error(), "no JSON object") && !st.Installed
	})
	n.write("10-flannel.conflist", flannel)
	eventually(t, "it is in the chain again", func() bool { st, err := w.Status(); return err == nil && st.Installed })
	n.remove("10-flannel.conflist")
	eventually(t, "it says that there is none", func() bool { _, err := w.Status(); return err != nil })
	n.write("05-other.conflist", `{"cniVersion":"1.0.0","name":"o","plugins":[{"type":"ptp"}]}`)
	eventually(t, "it is in the other's chain", func() bool { return n.has("05-other.conflist", "ptp") })
}

// The folder itself goes and comes.
func TestWatcherOfAFolderThatIsMadeAgain(t *testing.T) {
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	n.watch()
	eventually(t, "it is in the chain", func() bool { return n.has("10-flannel.conflist", "") })
	// The watcher may be at work in it, and RemoveAll does not begin again.
	eventually(t, "the folder is gone", func() bool { return os.RemoveAll(n.net) == nil })
	if err := os.Mkdir(n.net, 0o755); err != nil {
		t.Fatal(err)
	}
	n.write("10-flannel.conflist", flannel)
	eventually(t, "it is in the chain again", func() bool { return n.has("10-flannel.conflist", "") })
}
