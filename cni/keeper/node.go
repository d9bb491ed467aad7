package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// OnNode makes this process one of the node's instead of its container's, and
// then program with args: it leaves the container's namespaces and cgroups for
// those of the node's first process. A container runtime ends what is in the
// container's cgroups, and a keeper has to outlive the agent's pod. It needs the
// node's PID namespace (hostPID) and all capabilities; program is a path on the
// node. It returns only if that failed.
func OnNode(program string, args ...string) error {
	runtime.LockOSThread() // namespaces are a thread's; execve makes this one the process
	cgroups, err := cgroupsOf("/proc/1/cgroup")
	if err != nil {
		return err
	}
	// A thread may change its mount namespace once its working folder is its own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the container: unshare: %w", err)
	}
	kinds := []string{"cgroup", "ipc", "uts", "net", "mnt"} // mnt last: /proc may be another one after it
	fds := make([]int, len(kinds))
	for i, kind := range kinds {
		if fds[i], err = unix.Open("/proc/1/ns/"+kind, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("leave the container: open the node's %s namespace: %w", kind, err)
		}
	}
	for i, kind := range kinds {
		if err := unix.Setns(fds[i], 0); err != nil {
			return fmt.Errorf("leave the container: enter the node's %s namespace: %w", kind, err)
		}
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("leave the container: %w", err)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return fmt.Errorf("leave the container: %w", err)
	}
	if err := enter(cgroups, string(mounts)); err != nil {
		return fmt.Errorf("leave the container's cgroups: %w", err)
	}
	err = unix.Exec(program, append([]string{filepath.Base(program)}, args...), os.Environ())
	return fmt.Errorf("run %s on the node: %w", program, err)
}

// cgroup is a line of /proc/PID/cgroup: the controllers of a hierarchy ("" of
// version 2) and the path in it.
type cgroup struct{ controllers, path string }

func cgroupsOf(file string) ([]cgroup, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the cgroups of the node's first process: %w", err)
	}
	return parseCgroups(string(raw)), nil
}

func parseCgroups(text string) (out []cgroup) {
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if controllers, path, ok := strings.Cut(rest, ":"); ok {
			out = append(out, cgroup{controllers, path})
		}
	}
	return out
}

// enter moves this process.
func enter(to []cgroup, mountinfo string) error {
	var errs []error
	for _, c := range to {
		dir, ok := place(c, mountinfo)
		if !ok {
			continue // not mounted: nobody finds processes by it
		}
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s is no cgroup", dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// place is the folder of a cgroup by /proc/PID/mountinfo.
func place(c cgroup, mountinfo string) (dir string, ok bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !found || len(f) < 5 || len(g) < 3 {
			continue
		}
		root, point, kind, options := f[3], f[4], g[0], ","+g[2]+","
		switch {
		case c.controllers == "" && kind == "cgroup2":
		case c.controllers != "" && kind == "cgroup" && hasAll(options, c.controllers):
		default:
			continue
		}
		rel, err := filepath.Rel(root, c.path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") || !filepath.IsAbs(point) {
			continue // another part of the hierarchy is mounted there
		}
		return filepath.Join(point, rel), true
	}
	return "", false
}

func hasAll(options, controllers string) bool {
	for one := range strings.SplitSeq(controllers, ",") {
		if !strings.Contains(options, ","+one+",") {
			return false
		}
	}
	return true
}
