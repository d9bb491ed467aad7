package layers_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// uncontained lists the folders whose tests make network namespaces outside of a
// process whose end is theirs: by nettest.Contain, or in a mesh of meshtest.
// tests maps a folder to the text of its tests.
func uncontained(tests map[string]string) (bad []string) {
	for dir, text := range tests {
		makes := strings.Contains(text, "nettest.New") || strings.Contains(text, `"netns", "add"`)
		if makes && !strings.Contains(text, "nettest.Contain(") && !strings.Contains(text, "meshtest.Build(") {
			bad = append(bad, dir)
		}
	}
	slices.Sort(bad)
	return bad
}

// A test that is killed, or runs out of time, cleans nothing up.
func TestNamespacesAreContained(t *testing.T) {
	tests := map[string]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || d.Name() == "contained_test.go" {
			return err
		}
		raw, err := os.ReadFile(path)
		tests[filepath.Dir(path)] += string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range uncontained(tests) {
		t.Errorf("%s: tests make namespaces and TestMain does not call nettest.Contain", dir)
	}
	if got := uncontained(map[string]string{"x": `nettest.New(t, "x")`, "y": "nettest.New(t)\nnettest.Contain(m.Run)"}); !slices.Equal(got, []string{"x"}) {
		t.Errorf("the check itself: %v", got)
	}
}
