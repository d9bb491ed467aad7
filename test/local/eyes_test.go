package local_test

import (
	"testing"

	"github.com/tunmesh/tunmesh/test/eyes"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

// TestEyes: what people ask of a mesh in which nothing is meshed, then of the sample
// application under its own load, and what the answers say of a load that counts for
// itself.
func TestEyes(t *testing.T) {
	m := meshtest.Up(t, bin, "eyes", meshtest.Client("outsider", false, ""))
	shell := eyes.Shell(m.Shell)
	t.Run("nothing is meshed", func(t *testing.T) {
		shell.Ask(t, append(eyes.Empty(), eyes.Local()...))
		shell.Dashboard(t, "").Empty()
	})
	apply(t, m, meshtest.Server("server", 1)+"\n---\n"+meshtest.Client("client", true, ""))
	m.WaitReady(t, limit)
	t.Run("the truth", func(t *testing.T) { testTruth(t, m) })
	apply(t, m, sample())
	m.WaitReady(t, limit)
	t.Run("live", func(t *testing.T) { shell.Ask(t, append(eyes.Live(), eyes.Local()...)) })
	t.Run("wrong", func(t *testing.T) { shell.Ask(t, eyes.Wrong()) })
	t.Run("dashboard", func(t *testing.T) { shell.Dashboard(t, "").Guarded() })
}
