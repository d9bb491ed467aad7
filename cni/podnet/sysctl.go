package podnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctl is a path below /proc/sys and its value.
type sysctl struct{ path, value string }

const procSys = "/proc/sys/"

// setSysctls writes those that differ, in order.
func (s *space) setSysctls(all []sysctl) error {
	return s.do(func() error {
		for _, c := range all {
			if err := c.set(); err != nil {
				return fmt.Errorf("in %s: %w", s.path, err)
			}
		}
		return nil
	})
}

func (c sysctl) set() error {
	if got, err := readSysctl(c.path); err == nil && got == c.value {
		return nil
	}
	// No O_CREATE and no truncation: this is no file.
	f, err := os.OpenFile(procSys+c.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	_, err = f.WriteString(c.value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", c.path, c.value, err)
	}
	return nil
}

func readSysctl(path string) (string, error) {
	raw, err := os.ReadFile(procSys + path)
	return strings.TrimSpace(string(raw)), err
}

// differingSysctls says which do not have their value.
func (s *space) differingSysctls(all []sysctl) (diffs []string, err error) {
	err = s.do(func() error {
		for _, c := range all {
			got, err := readSysctl(c.path)
			if err != nil {
				return fmt.Errorf("read sysctl in %s: %w", s.path, err)
			}
			if got != c.value {
				diffs = append(diffs, fmt.Sprintf("sysctl %s is %s, not %s", c.path, got, c.value))
			}
		}
		return nil
	})
	return diffs, err
}

// linkSysctlDirs are those whose content the kernel makes anew when an
// interface changes its namespace.
func linkSysctlDirs(link string) []string {
	return []string{"net/ipv4/conf/" + link, "net/ipv6/conf/" + link, "net/ipv4/neigh/" + link, "net/ipv6/neigh/" + link}
}

func (s *space) linkSysctls(link string) (all map[string]string, err error) {
	all = map[string]string{}
	err = s.do(func() error {
		for _, dir := range linkSysctlDirs(link) {
			files, err := os.ReadDir(procSys + dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a kernel without IPv6
			}
			if err != nil {
				return fmt.Errorf("list sysctls in %s: %w", s.path, err)
			}
			for _, f := range files {
				path := filepath.Join(dir, f.Name())
				info, err := f.Info()
				if err != nil || info.Mode()&0o200 == 0 {
					continue // read-only: not for us to keep
				}
				if v, err := readSysctl(path); err == nil { // a secret that was never set has no value
					all[path] = v
				}
			}
		}
		return nil
	})
	return all, err
}

// hasIPv6 reports whether the kernel has it.
func (s *space) hasIPv6() bool { return s.hasSysctl("net/ipv6/conf") }

// hasSysctl reports whether the kernel knows it.
func (s *space) hasSysctl(path string) (has bool) {
	_ = s.do(func() error {
		_, err := os.Stat(procSys + path)
		has = err == nil
		return nil
	})
	return has
}
