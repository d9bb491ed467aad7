package files_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/files"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder is a watched folder with its catalog.
type folder struct {
	t      *testing.T
	dir    string
	c      *catalog.Catalog
	source *files.Source
}

func newFolder(t *testing.T, initial map[string]string) *folder {
	t.Helper()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f := &folder{t: t, dir: t.TempDir(), c: c}
	for name, text := range initial {
		f.write(name, text)
	}
	if f.source, err = files.NewSource(files.SourceConfig{Dirs: []string{f.dir}, Catalog: c}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go f.run(ctx, ended)
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *folder) run(ctx context.Context, ended chan<- error) { ended <- f.source.Run(ctx) }

func (f *folder) write(name, text string) {
	f.t.Helper()
	tmp := filepath.Join(f.dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// eventually waits until a condition holds.
func (f *folder) eventually(what string, cond func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			f.t.Fatalf("not within 5 s: %s (problem: %v)", what, f.source.Problem())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (f *folder) synced() bool {
	select {
	case <-f.c.Synced():
		return true
	default:
		return false
	}
}

func (f *folder) has(service string) func() bool {
	return func() bool {
		_, ok := f.c.Service(catalog.Key{Namespace: "default", Name: service})
		return ok
	}
}

func (f *folder) troubled(with string) func() bool {
	return func() bool { p := f.source.Problem(); return p != nil && strings.Contains(p.Error(), with) }
}

func svc(name string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}\n"
}

const runningPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"default","uid":"u1","labels":{"app":"web"},"annotations":{"tunmesh.io/injected":"1"}},
"spec":{"containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running","podIP":"10.1.0.1","conditions":[{"type":"Ready","status":"True"}]}}`

func TestSourceFollowsAFolder(t *testing.T) {
	f := newFolder(t, map[string]string{"web.yaml": svc("web")})
	f.eventually("synced", f.synced)
	f.eventually("web", f.has("web"))
	w := f.c.Watch(netip.MustParseAddrPort("10.96.0.1:80"))
	defer w.Close()
	endpoints := func(n int) func() bool { return func() bool { return len(w.Load().Endpoints) == n } }
	f.write("a.json", runningPod)
	f.eventually("an endpoint", endpoints(1))
	f.write("a.json", strings.Replace(runningPod, `"True"`, `"False"`, 1))
	f.eventually("not ready: no endpoint", endpoints(0))
	f.write("a.json", runningPod)
	f.eventually("an endpoint again", endpoints(1))
	f.remove("a.json")
	f.eventually("the pod is gone", endpoints(0))
	f.remove("web.yaml")
	f.eventually("the service is gone", func() bool { return w.Load().Kind != catalog.TargetService })
	for _, name := range []string{"default"} {
		if _, ok := f.c.Namespace(name); !ok {
			t.Errorf("no namespace %q", name)
		}
	}
	if _, ok := f.c.ServiceAccount(catalog.Key{Namespace: "default", Name: "default"}); !ok {
		t.Error("no default service account")
	}
}

func TestSourceKeepsTheLastGoodState(t *testing.T) {
	f := newFolder(t, map[string]string{"web.yaml": svc("web"), "a.json": runningPod})
	f.eventually("synced", f.synced)
	steps := []struct{ name, text, trouble string }{
		{"web.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {prots: []}\n", "spec.prots: unknown field"},
		{"web.yaml", "a: [", "did not find expected node content"},
		{"web.yaml", svc("web") + "---\n" + svc("web"), "written before"},
		{"web.yaml", strings.Replace(svc("web"), "metadata: {", "metadata: {namespace: nowhere, ", 1), `namespace "nowhere" is not declared`},
		{"other.yaml", "kind: Thing\napiVersion: v1\nmetadata: {name: a}\n", "Thing of v1 is not known"},
		{"a.json", "{", "a.json, document 1"},
	}
	for _, s := range steps {
		f.write(s.name, s.text)
		f.eventually("trouble: "+s.trouble, f.troubled(s.trouble))
		if !f.has("web")() {
			t.Fatalf("%s: the service is lost", s.trouble)
		}
		if _, ok := f.c.PodByUID("u1"); !ok {
			t.Fatalf("%s: the pod is lost", s.trouble)
		}
	}
	// A running pod is told of whatever the manifests are like.
	f.write("b.json", strings.NewReplacer(`"name":"a"`, `"name":"b"`, "u1", "u2").Replace(runningPod))
	f.eventually("another pod", func() bool { _, ok := f.c.PodByUID("u2"); return ok })
	f.write("web.yaml", svc("web"))
	f.remove("other.yaml")
	f.write("a.json", runningPod)
	f.eventually("all is well", func() bool { return f.source.Problem() == nil })
}

func TestSourceTellsNothingOfHalfACluster(t *testing.T) {
	f := newFolder(t, map[string]string{"web.yaml": svc("web"), "bad.yaml": "kind: [\n", "a.json": runningPod})
	f.eventually("trouble", f.troubled("bad.yaml"))
	time.Sleep(100 * time.Millisecond)
	if f.synced() || f.has("web")() {
		t.Error("told of a cluster that could not be read whole")
	}
	f.remove("bad.yaml")
	f.eventually("synced", f.synced)
	f.eventually("web", f.has("web"))
}

func TestSourceKeepsStateWhenItsFolderIsGone(t *testing.T) {
	f := newFolder(t, map[string]string{"web.yaml": svc("web")})
	f.eventually("synced", f.synced)
	if err := os.Rename(f.dir, f.dir+"x"); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(f.dir + "x")
	f.eventually("trouble", f.troubled("list manifests"))
	if !f.has("web")() {
		t.Error("the service is lost")
	}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f.write("other.yaml", svc("other"))
	f.eventually("the new folder's service", f.has("other"))
	if f.has("web")() {
		t.Error("the old folder's service stayed")
	}
}

func TestNewSourceErrors(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, dirs := range [][]string{nil, {"/nonexistent"}, {"/dev/null"}} {
		if _, err := files.NewSource(files.SourceConfig{Dirs: dirs, Catalog: c}); err == nil {
			t.Errorf("%v was accepted", dirs)
		}
	}
}
