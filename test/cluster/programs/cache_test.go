package programs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func testBuilder(t *testing.T) *builder {
	t.Helper()
	return &builder{cache: t.TempDir(), progress: t.Logf}
}

// fake is a program whose build counts.
func fake(key string, builds *int) program {
	return program{name: "fake", title: "fake", key: []string{key}, build: func(_ context.Context, to string) error {
		*builds++
		return os.WriteFile(filepath.Join(to, "fake"), []byte(key), 0o755)
	}}
}

func TestCached(t *testing.T) {
	b := testBuilder(t)
	builds := 0
	one, err := b.cached(t.Context(), fake("a", &builds))
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.cached(t.Context(), fake("a", &builds))
	if err != nil || again != one || builds != 1 {
		t.Errorf("%s and %s after %d builds, %v", one, again, builds, err)
	}
	other, err := b.cached(t.Context(), fake("b", &builds))
	if err != nil || other == one || builds != 2 {
		t.Errorf("another key gave %s after %d builds, %v", other, builds, err)
	}
	// What nobody asked for in a long time goes with the next build.
	old := time.Now().Add(-2 * unused)
	if err := os.Chtimes(filepath.Dir(other), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := b.cached(t.Context(), fake("c", &builds)); err != nil {
		t.Fatal(err)
	}
	if exists(other) || !exists(one) {
		t.Error("the wrong entries are left")
	}
}

func TestFailedBuildIsNotKept(t *testing.T) {
	b := testBuilder(t)
	p := program{name: "fake", title: "fake", build: func(_ context.Context, to string) error {
		return errors.Join(os.WriteFile(filepath.Join(to, "fake"), nil, 0o755), errors.New("half"))
	}}
	for range 2 {
		if _, err := b.cached(t.Context(), p); err == nil || !strings.Contains(err.Error(), "build fake: half") {
			t.Errorf("%v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(b.cache, "*.tmp-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	p.need = func() error { return errors.New("a compiler") }
	if _, err := b.cached(t.Context(), p); err == nil || err.Error() != "a compiler" {
		t.Errorf("%v", err)
	}
}

func TestBuildersWait(t *testing.T) {
	b := testBuilder(t)
	builds := 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := b.cached(t.Context(), fake("a", &builds)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
	unlock, err := lock(t.Context(), filepath.Join(b.cache, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, filepath.Join(b.cache, "x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock was taken twice: %v", err)
	}
}

func TestGomod(t *testing.T) {
	const theirs = `module k8s.io/kubernetes

go 1.23.0

godebug default=go1.23

require (
	k8s.io/api v0.0.0
)

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/apiserver => ./staging/src/k8s.io/apiserver
)
`
	got, err := gomod(theirs, "1.32.13")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"go 1.23.0\n", "godebug default=go1.23\n", "require k8s.io/kubernetes v1.32.13\n",
		"replace k8s.io/api => k8s.io/api v0.32.13\n", "replace k8s.io/apiserver => k8s.io/apiserver v0.32.13\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if _, err := gomod("module k8s.io/kubernetes\n", "1.40.0"); err == nil {
		t.Error("a go.mod without staging folders was taken")
	}
}

// The committed files must be those of the range's ends: other releases are derived
// at each build, and nothing vouches that these were not.
func TestEndsOfTheRange(t *testing.T) {
	all := Kubernetes()
	for name, release := range map[string]string{"go": all[0], all[len(all)-1]: all[len(all)-1]} {
		var text string
		for _, ending := range []string{".mod", ".sum"} {
			raw, err := os.ReadFile(filepath.Join("../modules/kubernetes", name+ending))
			if err != nil {
				t.Fatal(err)
			}
			text += string(raw)
		}
		staged := "v0" + strings.TrimPrefix(release, "1")
		for _, want := range []string{"k8s.io/kubernetes v" + release + "\n", "k8s.io/api => k8s.io/api " + staged + "\n", "k8s.io/kubernetes v" + release + " h1:", "k8s.io/api " + staged + " h1:"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in ../modules/kubernetes/%s.mod and .sum", want, name)
			}
		}
	}
}
