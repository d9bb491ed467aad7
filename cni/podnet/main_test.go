package podnet_test

import (
	"os"
	"testing"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// The tests' namespaces end with them, however they end.
func TestMain(m *testing.M) { os.Exit(nettest.Contain(m.Run)) }
