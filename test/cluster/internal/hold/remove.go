package hold

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

// Claim takes a cluster's folder: the lock says that somebody cares for it. It is
// handed over to hold, and ends when the last process that has the file ends.
func Claim(dir string) (lock *os.File, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the cluster in %s runs: %w", dir, err)
	}
	return f, nil
}

// young is how old a folder without an owner must be before it is removed: its
// owner may be about to claim it. Logs of tests that failed are kept longer.
const (
	young   = time.Minute
	keepLog = 24 * time.Hour
)

// Sweep removes what clusters left behind whose hold was killed.
func Sweep(parent string) (errs []error) {
	dirs, _ := filepath.Glob(filepath.Join(parent, Prefix+"*"))
	for _, dir := range dirs {
		if err := sweep(dir, time.Now()); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func sweep(dir string, now time.Time) error {
	fi, err := os.Stat(dir)
	if err != nil || now.Sub(fi.ModTime()) < young {
		return nil // gone, or about to be claimed
	}
	lock, err := Claim(dir)
	if err != nil {
		return nil // it runs
	}
	defer lock.Close()
	c, err := layout.Load(dir)
	if err != nil {
		if now.Sub(fi.ModTime()) < keepLog {
			return nil // only logs are left
		}
		return os.RemoveAll(dir)
	}
	return Remove(c, false)
}

// emptyTime bounds the wait for the kernel to end the cluster's processes.
const emptyTime = 2 * time.Minute

// Remove removes all of a cluster that does not run: its cgroups and its
// folder, or all of it but the logs.
func Remove(c layout.Cluster, logs bool) error {
	var errs []error
	for _, n := range c.AllNodes() {
		errs = append(errs, removeGroups(n.Group()))
	}
	if logs {
		errs = append(errs, os.RemoveAll(c.Dir))
		return errors.Join(errs...)
	}
	entries, err := os.ReadDir(c.Dir)
	errs = append(errs, err)
	for _, e := range entries {
		if name := e.Name(); name != "logs" && name != "lock" {
			errs = append(errs, os.RemoveAll(filepath.Join(c.Dir, name)))
		}
	}
	return errors.Join(errs...)
}

// removeGroups removes a cgroup and those in it, in all hierarchies, as soon as
// the kernel lets go of their processes.
func removeGroups(name string) error {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		found, _ := filepath.Glob(pattern)
		dirs = append(dirs, found...)
	}
	end := time.Now().Add(emptyTime)
	for _, dir := range dirs {
		for {
			err := removeTree(dir)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes the folders of a cgroup, the deepest first: its files
// can't be removed and needn't be.
func removeTree(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if err := unix.Rmdir(all[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
