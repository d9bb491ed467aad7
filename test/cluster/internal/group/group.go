// Package group removes the cgroups of pods that run no more. It owns nothing.
package group

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// emptyTime bounds how long the kernel takes to let go of processes that ended.
const emptyTime = 2 * time.Minute

// Remove removes a cgroup and those in it, in all hierarchies, as soon as
// the kernel lets go of their processes.
func Remove(name string) error {
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
