package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/group"
)

const groupRoot = "/sys/fs/cgroup"

// groups makes the cgroup that kubelet expects to find, in every hierarchy. What
// is in it from before a reboot goes first, as it would with a kernel that
// starts: kubelet's start takes seconds longer for each container that it finds.
func (n *node) groups() error {
	if err := group.Remove(n.Group()); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(groupRoot, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", groupRoot, err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return n.unified()
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	hierarchies := v1Hierarchies(string(mounts))
	if len(hierarchies) == 0 {
		return errors.New("no cgroup hierarchy is mounted in " + groupRoot)
	}
	for _, h := range hierarchies {
		dir := filepath.Join(h, n.Group())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// Without processors and memory of its own a cpuset takes no process.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			raw, err := os.ReadFile(filepath.Join(h, f))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, f), raw, 0o644)
			}
			if err != nil {
				return fmt.Errorf("give the node's cgroup all processors: %w", err)
			}
		}
	}
	return nil
}

// unified makes the group where there is one hierarchy for all controllers.
func (n *node) unified() error {
	raw, err := os.ReadFile(filepath.Join(groupRoot, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, dir := range []string{groupRoot, filepath.Join(groupRoot, n.Group())} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, c := range strings.Fields(string(raw)) {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
				return fmt.Errorf("hand the cgroup controller %s down in %s: %w", c, dir, err)
			}
		}
	}
	return nil
}

// v1Hierarchies lists the mounts of version 1 below the root of cgroups.
func v1Hierarchies(mountinfo string) (out []string) {
	for _, l := range strings.Split(mountinfo, "\n") {
		before, after, ok := strings.Cut(l, " - ")
		f := strings.Fields(before)
		if ok && len(f) > 4 && strings.HasPrefix(after, "cgroup ") && strings.HasPrefix(f[4], groupRoot+"/") {
			out = append(out, f[4])
		}
	}
	return out
}
