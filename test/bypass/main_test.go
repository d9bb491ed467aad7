package bypass_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// bin has the programs, built once.
var bin meshtest.Bin

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // what needs root skips
	}
	dir, err := os.MkdirTemp("", "bypass")
	if err == nil {
		err = os.Chmod(dir, 0o755) // a pod's user runs one of them from there
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
