package nettest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// CNIPlugins returns a folder with the CNI reference plugins bridge, ptp,
// host-local, portmap and loopback, of the version in go.mod. They are built
// once, into the user's cache.
func CNIPlugins(tb TB) string {
	tb.Helper()
	const module = "github.com/containernetworking/plugins"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		tb.Fatalf("find the version of %s: %v", module, explain(err))
	}
	version := strings.TrimSpace(string(out))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "tunmesh", "cni-plugins-"+version)
	if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
		return dir
	}
	// A folder of our own, renamed when whole: several test programs may build
	// at once, and the first wins.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		tb.Fatal(err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		tb.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	args := []string{"build", "-trimpath", "-o", tmp}
	for _, p := range []string{"main/bridge", "main/ptp", "main/loopback", "ipam/host-local", "meta/portmap"} {
		args = append(args, module+"/plugins/"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build the CNI reference plugins (go %s): %v\n%s", strings.Join(args, " "), err, out)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, serr := os.Stat(filepath.Join(dir, "bridge")); serr != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func explain(err error) error {
	var e *exec.ExitError
	if errors.As(err, &e) && len(e.Stderr) > 0 {
		return errors.New(strings.TrimSpace(string(e.Stderr)))
	}
	return err
}
