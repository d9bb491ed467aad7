package endurance_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// bin has the programs, built once.
var bin meshtest.Bin

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // what needs a mesh skips
	}
	dir, err := os.MkdirTemp("", "endurance")
	if err == nil {
		bin, err = meshtest.Build(dir)
	}
	if err == nil {
		err = buildOwn(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// buildOwn adds the programs that only these tests need.
func buildOwn(dir string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/",
		"github.com/tunmesh/tunmesh/test/endurance/endure", "github.com/tunmesh/tunmesh/bench/cmd/load")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w: %s", err, out)
	}
	return nil
}

// length is how long a test runs: what the environment says, or short.
func length(t *testing.T, variable string, short time.Duration) time.Duration {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return short
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 10*time.Second {
		t.Fatalf("%s is %q, need a duration of 10s or more", variable, s)
	}
	return d
}

// seeded is chance that can be had again.
func seeded(t *testing.T, variable string) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(variable); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s is %q, need a number", variable, s)
		}
	}
	t.Logf("seed %d (%s=%d chooses the same again)", seed, variable, seed)
	return rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
}
