package netstack_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/refs"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// TestMain finds goroutines and packets that a test left behind: gVisor counts
// every packet, segment and chunk while it is told to look for leaks. The
// kernel's part, namespaces and devices, ends with the process.
func TestMain(m *testing.M) {
	os.Exit(nettest.Contain(func() int { return run(m) }))
}

func run(m *testing.M) int {
	refs.SetLeakMode(refs.LeaksPanic)
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/tunmesh/tunmesh/internal/nettest.echo")); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
		refs.DoLeakCheck() // panics with what is left
	}
	return code
}
