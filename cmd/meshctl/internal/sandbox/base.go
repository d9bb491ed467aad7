package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Base is what all pods of a holder share. The holder's mount namespace must be
// its own and private: everything here is mounted in it.
type Base struct {
	dir  string // a private tmpfs
	bins string
	log  *slog.Logger
}

// BaseConfig describes a Base.
type BaseConfig struct {
	// Dir is an empty folder on a tmpfs that only the holder's mount namespace has.
	Dir string
	// Bins is the folder whose programs are shown at BinDir; "" shows none.
	Bins string
	// Sealed are programs in Bins that pods may run and not read: the kernel
	// then lets nobody in the pod trace them or look into them, whatever their
	// capabilities.
	Sealed []string
	Log    *slog.Logger
}

// NewBase prepares the shared parts.
func NewBase(ctx context.Context, cfg BaseConfig) (*Base, error) {
	b := &Base{dir: cfg.Dir, bins: cfg.Bins, log: cfg.Log}
	for _, d := range []string{"proc", "sys", "dev", "bin", "pods"} {
		if err := os.Mkdir(b.path(d), 0o755); err != nil {
			return nil, fmt.Errorf("make the sandbox base: %w", err)
		}
	}
	if err := b.emptyNamespaces(ctx); err != nil {
		return nil, fmt.Errorf("make the sandbox base: %w", err)
	}
	if err := makeDev(b.path("dev")); err != nil {
		return nil, fmt.Errorf("make the sandbox base: %w", err)
	}
	if err := b.bindInit(); err != nil {
		return nil, fmt.Errorf("make the sandbox base: %w", err)
	}
	if err := b.bindBins(cfg.Sealed); err != nil {
		return nil, fmt.Errorf("make the sandbox base: %w", err)
	}
	return b, nil
}

func (b *Base) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// emptyNamespaces mounts a procfs and a sysfs of namespaces that are left at
// once. The kernel lets a user namespace mount a procfs only where it sees one
// in full already, and under a container's own lies this one, whose processes
// and devices are nobody's.
func (b *Base) emptyNamespaces(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/exe", cmdBase, b.dir)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC}
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("mount empty proc and sys: %w: %s", err, out)
	}
	return nil
}

// mountEmpty is the other side of emptyNamespaces.
func mountEmpty(dir string) error {
	if err := unix.Mount("proc", filepath.Join(dir, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := unix.Mount("sysfs", filepath.Join(dir, "sys"), "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	return nil
}

// makeDev makes the devices that containers have. There is no net/tun.
func makeDev(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount dev: %w", err)
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		p := filepath.Join(dir, d.name)
		if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("make device %s: %w", d.name, err)
		}
		if err := os.Chmod(p, 0o666); err != nil { // past the umask
			return err
		}
	}
	for link, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			return err
		}
	}
	for _, d := range []string{"pts", "shm", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, "")
}

// bindInit shows this program itself, which sets containers up.
func (b *Base) bindInit() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return b.program(exe, "init", false)
}

// bindBins shows the folder's programs, each by its inode: whoever may not
// enter the folder, or the home that it lies in, may run them all the same.
func (b *Base) bindBins(sealed []string) error {
	if b.bins == "" {
		return nil
	}
	entries, err := os.ReadDir(b.bins)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := b.program(filepath.Join(b.bins, e.Name()), "bin/"+e.Name(), slices.Contains(sealed, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// program shows a file at a place of the base. One that pods, which are other
// users, could not run, or must not read, is a copy.
func (b *Base) program(from, to string, sealed bool) error {
	fi, err := os.Stat(from)
	if err != nil {
		return err
	}
	at := b.path(to)
	switch open := fi.Mode().Perm()&0o005 == 0o005; {
	case sealed:
		return copyProgram(from, at, 0o111)
	case !open:
		return copyProgram(from, at, 0o755)
	}
	if err := touch(at); err != nil {
		return err
	}
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show %s: %w", from, err)
	}
	return nil
}

func copyProgram(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(mode)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
