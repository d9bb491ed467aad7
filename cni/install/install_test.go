package install_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// Mounts of these tests end with their process.
func TestMain(m *testing.M) { os.Exit(nettest.Contain(m.Run)) }

// node is a node's folders.
type node struct {
	t             *testing.T
	net, bin, run string
	cfg           install.Config
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, net: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin"), run: filepath.Join(dir, "run")}
	for _, d := range []string{n.net, n.bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("the plugin"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.cfg = install.Config{
		NetDir: n.net, BinDir: n.bin, Program: program, Type: meshType, Entry: entry, Known: known,
		StateDir: n.run, Log: slog.New(slog.DiscardHandler),
	}
	return n
}

func (n *node) write(name, content string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.net, name), []byte(content), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// picture is every file below the CNI folders, with its mode.
func (n *node) picture() map[string]string {
	n.t.Helper()
	out := map[string]string{}
	for _, root := range []string{n.net, n.bin} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(path)
			out[path] = info.Mode().String() + " " + string(raw)
			return err
		})
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return out
}

func (n *node) reconcile() install.Status {
	n.t.Helper()
	st, err := install.New(n.cfg).Reconcile()
	if err != nil {
		n.t.Fatal(err)
	}
	return st
}

// chained makes sure that the first configuration of the folder has ours last.
func (n *node) chained(file string) {
	n.t.Helper()
	raw, err := os.ReadFile(filepath.Join(n.net, file))
	if err != nil {
		n.t.Fatal(err)
	}
	if last, err := install.Chains(raw, meshType); err != nil || !last {
		n.t.Errorf("%s: last is not ours: %v: %s", file, err, raw)
	}
}

// pod makes the file that the plugin has for a meshed pod.
func (n *node) pod(id string) (end func()) {
	n.t.Helper()
	path := filepath.Join(n.run, install.Networks, id+".json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{}"), 0o600)); err != nil {
		n.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) journal() string { return filepath.Join(n.net, install.JournalName) }

func (n *node) withdraw() bool {
	n.t.Helper()
	done, err := install.New(n.cfg).Withdraw(time.Unix(1e9, 0))
	if err != nil {
		n.t.Fatal(err)
	}
	return done
}

const flannel = `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},{"type":"portmap"}]}`

// Every shape: in, looked at again, out; then every byte is what it was.
func TestInAndOut(t *testing.T) {
	for _, path := range shapes(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			n := newNode(t)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(path)
			n.write(name, string(raw))
			n.write("99-loopback.conf", `{"type":"loopback"}`)
			if err := os.Chmod(filepath.Join(n.net, name), 0o640); err != nil {
				t.Fatal(err)
			}
			before := n.picture()

			st := n.reconcile()
			want := strings.TrimSuffix(name, filepath.Ext(name)) + ".conflist"
			if !st.Installed || !st.Edited || st.File != want {
				t.Errorf("%+v, want %s", st, want)
			}
			n.chained(want)
			if info, err := os.Stat(filepath.Join(n.net, want)); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if _, err := os.Stat(filepath.Join(n.net, name)); (err == nil) != (name == want) {
				t.Errorf("%s: %v", name, err)
			}
			in := n.picture()
			if st := n.reconcile(); st.Edited || !st.Installed {
				t.Errorf("a second look: %+v", st)
			}
			if d := cmp.Diff(in, n.picture()); d != "" {
				t.Errorf("a second look changed: %s", d)
			}
			if !n.withdraw() {
				t.Error("not undone at once, though no pod is there")
			}
			if d := cmp.Diff(before, n.picture()); d != "" {
				t.Errorf("not as it was: %s", d)
			}
		})
	}
}

// While a meshed pod is there all stays, and the last DEL undoes it.
func TestWithdrawnWithPods(t *testing.T) {
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	before := n.picture()
	n.reconcile()
	one, two := n.pod("one"), n.pod("two")
	finish := func() bool {
		t.Helper()
		done, err := install.Finish(n.journal(), meshType, n.cfg.Log)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if finish() {
		t.Error("a DEL undid what nobody withdrew")
	}
	if n.withdraw() {
		t.Error("undone under meshed pods")
	}
	n.chained("10-flannel.conflist")
	if j, err := install.ReadJournal(n.journal()); err != nil || j.Withdrawn.IsZero() {
		t.Errorf("journal: %+v, %v", j, err)
	}
	if _, err := os.Stat(filepath.Join(n.bin, meshType)); err != nil {
		t.Error(err)
	}
	one()
	if finish() {
		t.Error("undone with a pod left")
	}
	two()
	if !finish() || finish() {
		t.Error("want it undone by the last DEL, and only then")
	}
	if d := cmp.Diff(before, n.picture()); d != "" {
		t.Errorf("not as it was: %s", d)
	}
}

// An agent that comes back means that the mesh is installed.
func TestInstalledAgain(t *testing.T) {
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	before := n.picture()
	n.reconcile()
	end := n.pod("one")
	n.withdraw()
	n.reconcile()
	end()
	if done, err := install.Finish(n.journal(), meshType, n.cfg.Log); done || err != nil {
		t.Errorf("undone by a DEL after the mesh came back: %v, %v", done, err)
	}
	n.chained("10-flannel.conflist")
	n.withdraw()
	if d := cmp.Diff(before, n.picture()); d != "" {
		t.Errorf("not as it was: %s", d)
	}
}

// A reboot empties /run, and the agent never comes: a DEL of one of the old
// sandboxes undoes.
func TestWithdrawnAndRebooted(t *testing.T) {
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	before := n.picture()
	n.reconcile()
	n.pod("one")
	n.withdraw()
	if err := os.RemoveAll(n.run); err != nil {
		t.Fatal(err)
	}
	if done, err := install.Finish(n.journal(), meshType, n.cfg.Log); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	if d := cmp.Diff(before, n.picture()); d != "" {
		t.Errorf("not as it was: %s", d)
	}
}

// What others do to the folder, and what we make of it.
func TestRepairs(t *testing.T) {
	const cilium = `{"cniVersion":"0.3.1","name":"cilium","plugins":[{"type":"cilium-cni"}]}`
	for name, c := range map[string]struct {
		then func(*node)
		file string // with our entry last, after that
		// is what the folder has after a withdrawal, by name.
		is map[string]string
	}{
		"rewritten by its owner": {
			func(n *node) { n.write("10-flannel.conflist", strings.Replace(flannel, "cbr0", "cbr1", 1)) },
			"10-flannel.conflist", map[string]string{"10-flannel.conflist": strings.Replace(flannel, "cbr0", "cbr1", 1)},
		},
		"our entry removed": {
			func(n *node) { n.write("10-flannel.conflist", flannel) },
			"10-flannel.conflist", map[string]string{"10-flannel.conflist": flannel},
		},
		"a plugin appended after ours": {
			func(n *node) {
				n.write("10-flannel.conflist", `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},`+string(entry)+`,{"type":"istio-cni"}]}`)
			},
			"10-flannel.conflist", map[string]string{"10-flannel.conflist": `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},{"type":"istio-cni"}]}`},
		},
		"another CNI comes first": {
			func(n *node) { n.write("05-cilium.conflist", cilium) },
			"05-cilium.conflist", map[string]string{"05-cilium.conflist": cilium, "10-flannel.conflist": flannel},
		},
		"another CNI comes first, as a single plugin": {
			func(n *node) { n.write("05-x.conf", `{"cniVersion":"1.0.0","name":"x","type":"ptp"}`) },
			"05-x.conflist", map[string]string{"05-x.conf": `{"cniVersion":"1.0.0","name":"x","type":"ptp"}`, "10-flannel.conflist": flannel},
		},
		"its owner removed it, another one is there": {
			func(n *node) {
				n.write("20-cilium.conflist", cilium)
				n.remove("10-flannel.conflist")
			},
			"20-cilium.conflist", map[string]string{"20-cilium.conflist": cilium},
		},
		"the journal removed": {
			func(n *node) { n.remove(install.JournalName) },
			"10-flannel.conflist", map[string]string{"10-flannel.conflist": flannel},
		},
		"the journal damaged": {
			func(n *node) { n.write(install.JournalName, "{") },
			"10-flannel.conflist", map[string]string{"10-flannel.conflist": flannel},
		},
		"a new version of ours": {
			func(n *node) { n.cfg.Entry = []byte(`{"type":"mesh-cni","journal":"/elsewhere"}`) },
			"10-flannel.conflist", map[string]string{"10-flannel.conflist": flannel},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.write("10-flannel.conflist", flannel)
			n.reconcile()
			c.then(n)
			if st := n.reconcile(); !st.Installed || st.File != c.file {
				t.Fatalf("%+v", st)
			}
			n.chained(c.file)
			if !n.withdraw() {
				t.Fatal("not undone")
			}
			got := map[string]string{}
			for path, content := range n.picture() {
				_, content, _ = strings.Cut(content, " ")
				got[filepath.Base(path)] = content
			}
			if d := cmp.Diff(c.is, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func (n *node) remove(name string) {
	n.t.Helper()
	if err := os.Remove(filepath.Join(n.net, name)); err != nil {
		n.t.Fatal(err)
	}
}

// A list that we made of a single plugin's file is ours to make again.
func TestRemovedListOfASinglePlugin(t *testing.T) {
	const single = `{"cniVersion":"1.0.0","name":"x","type":"ptp"}`
	n := newNode(t)
	n.write("05-x.conf", single)
	before := n.picture()
	n.reconcile()
	n.remove("05-x.conflist")
	if st := n.reconcile(); !st.Installed || st.File != "05-x.conflist" {
		t.Fatalf("%+v", st)
	}
	n.chained("05-x.conflist")

	// Its owner writes it anew, with something else in it.
	n.write("05-x.conf", strings.Replace(single, "ptp", "bridge", 1))
	n.reconcile()
	raw, err := os.ReadFile(filepath.Join(n.net, "05-x.conflist"))
	if err != nil || types(t, raw) != "bridge mesh-cni" {
		t.Errorf("%v: %s", err, raw)
	}
	n.write("05-x.conf", single)
	n.withdraw()
	if d := cmp.Diff(before, n.picture()); d != "" {
		t.Errorf("not as it was: %s", d)
	}
}

// A conflist that stays damaged is written again as it was; one that is being
// written, or that nobody knows, is not.
func TestDamaged(t *testing.T) {
	const single = `{"cniVersion":"1.0.0","name":"x","type":"ptp"}`
	for _, c := range []struct{ file, content, list string }{
		{"10-flannel.conflist", flannel, "10-flannel.conflist"},
		{"05-x.conf", single, "05-x.conflist"},
	} {
		for _, damaged := range []string{"", `{"name":`} {
			n := newNode(t)
			n.write(c.file, c.content)
			before := n.picture()
			n.reconcile()
			n.write(c.list, damaged)
			if st, err := install.New(n.cfg).Reconcile(); err == nil || st.Edited {
				t.Errorf("%s, %q: %+v, %v", c.file, damaged, st, err)
			}
			n.cfg.DamagedFor = time.Nanosecond
			if st := n.reconcile(); !st.Edited || !st.Installed {
				t.Errorf("%s, %q: %+v", c.file, damaged, st)
			}
			n.chained(c.list)
			if st := n.reconcile(); st.Edited {
				t.Errorf("%s, %q: a second look: %+v", c.file, damaged, st)
			}
			n.withdraw()
			if d := cmp.Diff(before, n.picture()); d != "" {
				t.Errorf("%s, %q: not as it was: %s", c.file, damaged, d)
			}
		}
	}

	// Every change begins the time anew.
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	n.cfg.DamagedFor = time.Hour
	in := install.New(n.cfg)
	for _, content := range []string{flannel, "{", `{"`, "{"} {
		n.write("10-flannel.conflist", content)
		if _, err := in.Reconcile(); (err == nil) != (content == flannel) {
			t.Errorf("%q: %v", content, err)
		}
	}
	// And what nobody knows is left alone.
	m := newNode(t)
	m.cfg.DamagedFor = time.Nanosecond
	m.write("10-other.conflist", "{")
	if st, err := install.New(m.cfg).Reconcile(); err == nil || st.Edited {
		t.Errorf("a damaged conflist that was never whole: %+v, %v", st, err)
	}
}

// What cannot be a chain stays as it is, and is named.
func TestLeftAlone(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"corrupt":             {"10-a.conflist", `{"cniVersion":"1.0.0","plugins":[{"type`, "no JSON object"},
		"empty":               {"10-a.conflist", ``, "no JSON object"},
		"without a version":   {"10-a.conflist", `{"plugins":[{"type":"a"}]}`, "no cniVersion"},
		"a list in a .conf":   {"10-a.conf", flannel, "called .conflist"},
		"corrupt single":      {"10-a.conf", `{`, "no JSON object"},
		"single and list too": {"20-b.conf", `{"cniVersion":"1.0.0","name":"x","type":"ptp"}`, "20-b.conflist is there already"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.write(c.file, c.content)
			n.write("20-b.conflist", flannel)
			before := n.picture()
			st, err := install.New(n.cfg).Reconcile()
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) || st.Installed {
				t.Errorf("%+v, %v, want %q", st, err, c.want)
			}
			n.withdraw()
			if d := cmp.Diff(before, n.picture()); d != "" {
				t.Errorf("changed: %s", d)
			}
		})
	}
}

// No disk space: nothing is lost, nothing half written stays, and it is done
// when there is space again.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	n := newNode(t)
	if err := unix.Mount("tmpfs", n.net, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(n.net, unix.MNT_DETACH) })
	n.write("10-flannel.conflist", flannel)
	before := n.picture()
	fill := filepath.Join(n.net, "filler")
	full := func() {
		t.Helper()
		f, err := os.Create(fill)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	picture := func() map[string]string {
		p := n.picture()
		delete(p, fill)
		delete(p, filepath.Join(n.bin, meshType))
		return p
	}

	full()
	if _, err := install.New(n.cfg).Reconcile(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("want no space left, got %v", err)
	}
	if d := cmp.Diff(before, picture()); d != "" {
		t.Errorf("a full disk: %s", d)
	}
	_ = os.Remove(fill)
	n.reconcile()
	n.chained("10-flannel.conflist")

	// Full while somebody rewrites it, then while it is to be undone.
	in := picture()
	full()
	end := n.pod("one")
	if _, err := install.New(n.cfg).Withdraw(time.Now()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("want no space left, got %v", err)
	}
	if d := cmp.Diff(in, picture()); d != "" {
		t.Errorf("a full disk: %s", d)
	}
	end()
	_ = os.Remove(fill)
	n.withdraw()
	if d := cmp.Diff(before, picture()); d != "" {
		t.Errorf("not as it was: %s", d)
	}
}

// A program that somebody removed or changed is copied again.
func TestProgram(t *testing.T) {
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	in := install.New(n.cfg)
	path := filepath.Join(n.bin, meshType)
	look := func() {
		t.Helper()
		if _, err := in.Reconcile(); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || string(raw) != "the plugin" || info.Mode().Perm() != 0o755 {
			t.Errorf("%q, %v, %v, %v", raw, info.Mode(), err, serr)
		}
	}
	look()
	_ = os.Remove(path)
	look()
	_ = os.WriteFile(path, []byte("the plugln"), 0o755)
	look()
	_ = os.Chmod(path, 0o644)
	look()
	if files, _ := filepath.Glob(filepath.Join(n.bin, ".*")); len(files) > 0 {
		t.Errorf("left over: %v", files)
	}
}

// Two writers at once: whatever their turns, what the other one wrote last is
// there in the end, with ours.
func TestRewrittenMeanwhile(t *testing.T) {
	n := newNode(t)
	n.write("10-flannel.conflist", flannel)
	in := install.New(n.cfg)
	last := ""
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for i := range 300 {
			last = strings.Replace(flannel, "cbr0", "cbr"+strings.Repeat("x", i%50), 1)
			tmp := filepath.Join(n.net, "flannel.tmp")
			_ = os.WriteFile(tmp, []byte(last), 0o600)
			_ = os.Rename(tmp, filepath.Join(n.net, "10-flannel.conflist"))
		}
	}()
	for done := false; !done; {
		select {
		case <-writing:
			done = true
		default:
		}
		_, _ = in.Reconcile()
	}
	n.reconcile()
	raw, err := os.ReadFile(filepath.Join(n.net, "10-flannel.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := install.Remove(raw, meshType); err != nil || !bytes.Equal(back, []byte(last)) {
		t.Errorf("%v\nhas   %s\nwants %s", err, back, last)
	}
	n.withdraw()
	if files, _ := filepath.Glob(filepath.Join(n.net, ".*")); len(files) > 0 {
		t.Errorf("left over: %v", files)
	}
}
