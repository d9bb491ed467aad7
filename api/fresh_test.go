package api_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedCodeIsFresh generates again into a folder of its own and
// compares every file with what is checked in.
func TestGeneratedCodeIsFresh(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the generator")
	}
	readAll(t, "*/*.proto", "gen/*") // so that a change of one voids a cached result
	out := t.TempDir()
	generate(t, "..", out)
	if diff := stale(t, ".", out); len(diff) > 0 {
		t.Errorf("generated code differs from its .proto: %s; run make generate", strings.Join(diff, ", "))
	}
}

// TestStaleCodeIsNoticed is the negative case: a field more in one .proto.
func TestStaleCodeIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the generator")
	}
	src, out := t.TempDir(), t.TempDir()
	text, err := os.ReadFile("identity/identity.proto")
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(text, []byte("message WatchTrustRequest {}"), []byte("message WatchTrustRequest { string pod = 1; }"), 1)
	if bytes.Equal(changed, text) {
		t.Fatal("identity.proto no longer has the message that this test changes")
	}
	if err := os.MkdirAll(filepath.Join(src, "identity"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "identity", "identity.proto"), changed, 0o644); err != nil {
		t.Fatal(err)
	}
	generate(t, src, out)
	if diff := stale(t, ".", out); len(diff) != 1 || diff[0] != "identity/identity.pb.go" {
		t.Errorf("files noticed as stale: %q, want identity/identity.pb.go alone", diff)
	}
}

// readAll opens every file that matches, for the test cache's sake.
func readAll(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil || len(names) == 0 {
			t.Fatalf("files matching %s: %d, %v", p, len(names), err)
		}
		for _, n := range names {
			if _, err := os.ReadFile(n); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func generate(t *testing.T, src, out string) {
	t.Helper()
	cmd := exec.Command("go", "run", ".", "-src", src, "-out", out)
	cmd.Dir = "gen"
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("run the generator: %v\n%s", err, text)
	}
}

// stale lists the generated files under fresh that differ from those under dir.
func stale(t *testing.T, dir, fresh string) []string {
	t.Helper()
	made, err := filepath.Glob(filepath.Join(fresh, "*", "*.pb.go"))
	if err != nil || len(made) == 0 {
		t.Fatalf("generated files under %s: %d, %v", fresh, len(made), err)
	}
	var diff []string
	for _, path := range made {
		rel, err := filepath.Rel(fresh, path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile(filepath.Join(dir, rel)); err != nil || !bytes.Equal(have, want) {
			diff = append(diff, filepath.ToSlash(rel))
		}
	}
	return diff
}
