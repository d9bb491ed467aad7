package local_test

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
	dir, err := os.MkdirTemp("", "meshtest")
	if err == nil {
		bin, err = meshtest.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
