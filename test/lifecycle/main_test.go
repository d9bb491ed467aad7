package lifecycle

import (
	"fmt"
	"os"
	"testing"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// bin has the programs, built once.
var bin meshtest.Bin

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test skips
	}
	dir, err := os.MkdirTemp("", "lifecycle")
	if err == nil {
		err = os.Chmod(dir, 0o755) // TestNotRoot is somebody else
	}
	if err == nil {
		bin, err = meshtest.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes user, mount and network namespaces")
	}
}
