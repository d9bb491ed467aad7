package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/wire"
)

// What the supervisor gives to a container's first process, beside the gate (3).
const (
	fdStdout = 4
	fdStderr = 5
)

// runContainer is the first process of a container until its program begins:
// it mounts what is the container's own, waits for the word, gives up what the
// program may not have and becomes it.
func runContainer() error {
	// What follows changes the thread; execve leaves only that one.
	runtime.LockOSThread()
	gate, err := wire.Of(os.NewFile(3, "gate"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "container:", err)
		os.Exit(125)
	}
	err = becomeContainer(gate)
	_ = gate.Send(wire.Message{Err: err.Error()}, nil)
	os.Exit(127)
	return err
}

// becomeContainer returns only with an error.
func becomeContainer(gate *wire.Channel) error {
	m, _, err := gate.Receive()
	if err != nil {
		return err
	}
	var c Container
	if err := with(m, func(v Container) error { c = v; return nil }); err != nil {
		return err
	}
	if err := mountAll(c.Mounts); err != nil {
		return err
	}
	if c.ReadOnly {
		if err := closeTemporary(); err != nil {
			return err
		}
	}
	if err := sendNamespaces(gate); err != nil {
		return err
	}
	if _, _, err := gate.Receive(); err != nil {
		return fmt.Errorf("wait for the word: %w", err)
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter workingDir %s: %w", dir, err)
	}
	unix.Umask(0o022)
	for at, fd := range map[int]int{1: fdStdout, 2: fdStderr} {
		if err := unix.Dup3(fd, at, 0); err != nil {
			return fmt.Errorf("take the output: %w", err)
		}
	}
	if err := become(c.Identity); err != nil {
		return err
	}
	// Looked up as the one who will run it.
	prog, err := lookPath(c.Argv, c.Env)
	if err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", prog, unix.Exec(prog, c.Argv, c.Env))
}

func sendNamespaces(gate *wire.Channel) error {
	var fds []int
	for _, n := range []string{"mnt", "pid"} {
		f, err := os.Open("/proc/self/ns/" + n)
		if err != nil {
			return fmt.Errorf("open own namespace: %w", err)
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	return gate.Send(wire.Message{Op: opStart}, nil, fds...)
}

// lookPath finds the program as a shell would, with the container's PATH.
func lookPath(argv, env []string) (string, error) {
	if len(argv) == 0 {
		return "", errors.New("no command")
	}
	if strings.Contains(argv[0], "/") {
		return argv[0], nil
	}
	list := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			list = v
		}
	}
	for _, d := range filepath.SplitList(list) {
		p := filepath.Join(d, argv[0])
		if fi, err := os.Stat(p); err == nil && !fi.IsDir() && unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %q is not in PATH (%s); containers run programs of this machine", argv[0], list)
}

// mountAll makes the container's own mounts over the pod's tree.
func mountAll(mounts []Mount) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct {
		to, kind string
		flags    uintptr
		data     string
	}{
		{"/proc", "proc", flags | unix.MS_NOEXEC, ""},
		{"/sys", "sysfs", flags | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"/tmp", "tmpfs", flags, "mode=1777,size=256m"},
		{"/run", "tmpfs", flags, "mode=755,size=64m"},
		{"/var/tmp", "tmpfs", flags, "mode=1777,size=256m"},
	} {
		err := unix.Mount(m.kind, m.to, m.kind, m.flags, m.data)
		if err != nil && !(m.to == "/var/tmp" && errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	for _, m := range mounts {
		if err := bindVolume(m); err != nil {
			return fmt.Errorf("mount volume %s at %s: %w", m.Volume, m.Path, err)
		}
	}
	for _, name := range []string{"hosts", "resolv.conf", "hostname"} {
		if err := bindEtc(name); err != nil {
			return fmt.Errorf("mount /etc/%s: %w", name, err)
		}
	}
	// The other containers' volumes, the sidecar's token among them.
	if err := unix.Unmount(volumesDir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the pod's volumes: %w", err)
	}
	return maskProc()
}

// closeTemporary makes the container's own tmpfs read-only, when all that is to
// be mounted in them is.
func closeTemporary() error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	for _, p := range []string{"/tmp", "/run", "/var/tmp"} {
		if err := unix.MountSetattr(unix.AT_FDCWD, p, 0, &attr); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	return nil
}

// bindVolume mounts a volume, or a path in it. The path is opened without ever
// leaving the volume: a link that an app left there leads nowhere else.
func bindVolume(m Mount) error {
	r, err := os.OpenRoot(filepath.Join(volumesDir, m.Volume))
	if err != nil {
		return err
	}
	defer r.Close()
	sub := filepath.Clean(m.SubPath)
	if !m.File {
		if err := r.MkdirAll(sub, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	src, err := r.Open(sub)
	if err != nil {
		return err
	}
	defer src.Close()
	to, err := target(m.Path, m.File)
	if err != nil {
		return err
	}
	return bind(fmt.Sprintf("/proc/self/fd/%d", src.Fd()), to, m.ReadOnly)
}

// bindEtc shows the pod's own file in place of the machine's. A machine that
// has no such file gets along without.
func bindEtc(name string) error {
	to, err := target("/etc/"+name, true)
	if err != nil {
		return err
	}
	err = bind(filepath.Join(volumesDir, etcVolume, name), to, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// target resolves where to mount; in the container's own tmpfs it is made.
func target(p string, file bool) (string, error) {
	at, err := resolveIn("/", p)
	if err != nil || !within(at, privatePlaces()) {
		return at, err
	}
	dir := at
	if file {
		dir = filepath.Dir(at)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if file {
		return at, touch(at)
	}
	return at, nil
}

func bind(from, to string, readOnly bool) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if !readOnly {
		return nil
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return unix.MountSetattr(unix.AT_FDCWD, to, 0, &attr)
}

// maskProc covers what container runtimes cover. Nothing rests upon it: what is
// dangerous there belongs to the machine's root, whom nobody in a pod is.
func maskProc() error {
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats"} {
		if err := bind("/dev/null", p, false); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	for _, p := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if err := bind(p, p, true); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	return nil
}
