// Package node is the machine that a local mesh believes to run on: mount,
// network, UTS, IPC and PID namespaces of its own, in which the mesh may mount,
// route and set sysctls as it likes and the real machine stays as it was. It
// owns making and furnishing them; it refuses to know what runs there.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is a command of this same program in a new node; the process is pid 1
// of it, so that its end is the end of all that runs there. It must call
// Furnish before anything else.
func Command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", args...)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	return c
}

// Config furnishes a node.
type Config struct {
	// Hostname of the node.
	Hostname string
	// Keep is a folder below /run of the machine that stays visible at its path;
	// all else there is covered by a private tmpfs. "" keeps nothing.
	Keep string
}

// Furnish gives the calling process, the first of a new node, its own /proc,
// /sys and /run, and a network with nothing but loopback that forwards.
func Furnish(cfg Config) error {
	if os.Getpid() != 1 {
		return errors.New("furnish the node: not the first process of a PID namespace")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mounts(cfg.Keep); err != nil {
		return err
	}
	if cfg.Hostname != "" {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return fmt.Errorf("set the hostname: %w", err)
		}
	}
	return network()
}

func mounts(keep string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	kept := -1
	if keep != "" {
		if !filepath.IsAbs(keep) || filepath.Dir(filepath.Clean(keep)) == "/" {
			return fmt.Errorf("keep %s: want a folder below /run", keep)
		}
		var err error
		if kept, err = unix.Open(keep, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("keep %s: %w", keep, err)
		}
		defer unix.Close(kept)
	}
	if err := unix.Mount("proc", "/proc", "proc", flags|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", flags|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	// Devices are allowed below: the sandbox makes some. Nobody but root is there.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, d := range []string{"/run/netns", "/run/tunmesh"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if keep == "" {
		return nil
	}
	if err := os.MkdirAll(keep, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", kept), keep, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep %s: %w", keep, err)
	}
	return nil
}

// network brings loopback up and lets the node forward between pods; with
// forwarding it answers "unreachable" for what it has no route to, instead of
// leaving an app to wait.
func network() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	for name, value := range map[string]string{
		"ipv4/ip_forward":              "1",
		"ipv6/conf/all/forwarding":     "1",
		"ipv6/conf/all/accept_dad":     "0",
		"ipv6/conf/default/accept_dad": "0",
	} {
		err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // IPv6 may be off
			return fmt.Errorf("set net/%s of the node: %w", name, err)
		}
	}
	return nil
}
