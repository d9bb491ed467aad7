package hold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/group"
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

// Remove removes all of a cluster that does not run: its cgroups and its
// folder, or all of it but the logs.
func Remove(c layout.Cluster, logs bool) error {
	var errs []error
	for _, n := range c.AllNodes() {
		errs = append(errs, group.Remove(n.Group()))
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
