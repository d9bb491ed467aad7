package files_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

// cluster is a folder as sourcetest wants it: a file for each object.
type cluster struct {
	dir string
	c   *catalog.Catalog
}

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, cfg catalog.Config) sourcetest.Cluster {
		t.Helper()
		c, err := catalog.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		cl := &cluster{dir: t.TempDir(), c: c}
		s, err := files.NewSource(files.SourceConfig{Dirs: []string{cl.dir}, Catalog: c})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return cl
	})
}

func (cl *cluster) Catalog() *catalog.Catalog { return cl.c }

func (cl *cluster) Apply(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		name := cl.file(t, o)
		tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name))
		if err := os.WriteFile(tmp, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, name); err != nil {
			t.Fatal(err)
		}
	}
}

func (cl *cluster) Delete(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	for _, o := range objects {
		if err := os.Remove(cl.file(t, o)); err != nil {
			t.Fatal(err)
		}
	}
}

func (cl *cluster) file(t *testing.T, o runtime.Object) string {
	t.Helper()
	m, err := meta.Accessor(o)
	if err != nil {
		t.Fatal(err)
	}
	kind := strings.ToLower(o.GetObjectKind().GroupVersionKind().Kind)
	if _, ok := o.(*corev1.Pod); ok {
		kind = "pod"
	}
	return filepath.Join(cl.dir, kind+"-"+m.GetName()+".yaml")
}
