// Package meshed is a Kubernetes cluster with the mesh in it, for tests. It owns
// the way there, which is an operator's: the programs and images are those of
// make build and make images, what meshctl prints goes through kubectl, and
// meshctl check says when it is done. It refuses to know what is tested: objects
// of the mesh are a test's to look at.
//
//	p := meshed.Build(t)                                 // once in a test binary: it links five programs
//	m := meshed.Start(t, p, meshed.Options{Nodes: 2})    // boots, installs, waits
//	m.Namespace(t, "shop", true)
//	m.Script(t, "meshctl -n shop stat deploy")
//
// Every cluster has cluster.TestImage and the sample application (Sample), too.
// Tests skip without TUNMESH_CLUSTER=1 (make e2e).
package meshed

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/tunmesh/tunmesh/test/cluster"
)

const (
	module = "github.com/tunmesh/tunmesh"
	// release is the version of what is built: no registry has it.
	release = "v1.0.0-test"
	// registry is what install asks for when nobody says otherwise.
	registry = "ghcr.io/tunmesh"
)

// Programs are the project's own, as its users get them.
type Programs struct {
	Bin      string   // a folder with meshctl
	Tarballs []string // images of the others, for Options.Images of package cluster
	Release  string   // their version, and the images' tag
	Registry string   // what the images' names begin with
}

// Build makes them in a folder of the test. It skips the test where no cluster can
// be booted.
func Build(tb testing.TB) *Programs {
	tb.Helper()
	if os.Getenv(cluster.Wanted) == "" || os.Geteuid() != 0 {
		tb.Skipf("boots a Kubernetes cluster as root: runs with %s=1, or by make e2e", cluster.Wanted)
	}
	dir := tb.TempDir()
	p := &Programs{Bin: filepath.Join(dir, "bin"), Release: release, Registry: registry}
	run := func(args ...string) {
		tb.Helper()
		cmd := exec.CommandContext(tb.Context(), "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.Fatalf("go %v: %v: %s", args, err, out)
		}
	}
	run("build", "-trimpath", "-o", p.Bin+"/", "-ldflags", "-s -w -X "+module+"/internal/version.number="+release, module+"/cmd/meshctl")
	images := filepath.Join(dir, "images")
	run("run", module+"/deploy/images", "-o", images, "-version", release, "-repository", registry, "-arch", runtime.GOARCH, "-compress=false")
	var err error
	if p.Tarballs, err = filepath.Glob(filepath.Join(images, "*.tar")); err != nil || len(p.Tarballs) == 0 {
		tb.Fatalf("no images in %s: %v", images, err)
	}
	return p
}
