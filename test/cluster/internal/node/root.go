package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// own lists the folders of the root that a node has for itself. All others are
// the machine's, read-only.
func own() []string {
	return []string{
		"boot", "dev", "etc", "home", "lost+found", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var",
	}
}

// mounter mounts; its first error stays.
type mounter struct{ err error }

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if m.err = os.MkdirAll(target, 0o755); m.err != nil {
		return
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
}

// readOnly binds a folder so that nobody on the node writes to it.
func (m *mounter) readOnly(source, target string) {
	m.mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
	m.mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// over binds a file over another.
func (m *mounter) over(source, target string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		m.err = fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
}

// furnish makes the node's root and enters it. The root is a folder on the
// machine's disk, so that what the node writes, and the sockets in it, can be
// reached from the machine, and nothing of the node is on the machine's own
// paths.
func (n *node) furnish() error {
	m := &mounter{}
	root := n.Disk("/")
	m.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	m.err = errors.Join(m.err, os.RemoveAll(filepath.Join(root, "run")), os.MkdirAll(root, 0o755)) // no mount is below it yet
	m.mount(root, root, "", unix.MS_BIND, "")
	if m.err == nil {
		m.err = borrow(m, root)
	}
	if m.err == nil {
		m.err = makeOwn(root)
	}
	m.mount("/dev", root+"/dev", "", unix.MS_BIND|unix.MS_REC, "")
	m.mount("sysfs", root+"/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") // shows the node's devices, not the machine's
	m.mount("/sys/fs/cgroup", root+"/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	m.mount("proc", root+"/proc", "proc", flags, "")
	// The kernel mounts /proc in a user namespace only where somebody sees all of
	// one; those below hide files of the first.
	m.mount("proc", root+"/.proc", "proc", flags, "")
	n.tun(m, root)
	for path, value := range sysctls() {
		file := n.file("sysctl." + filepath.Base(path))
		if m.err == nil {
			m.err = os.WriteFile(file, []byte(value+"\n"), 0o644)
		}
		m.over(file, root+"/proc/sys/"+path)
	}
	for _, dir := range n.visible() {
		m.mount(dir, root+dir, "", unix.MS_BIND, "")
	}
	if m.err == nil {
		m.err = enter(root)
	}
	m.mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") // pods may ask for propagation
	if m.err == nil {
		m.err = unix.Sethostname([]byte(n.Name()))
	}
	if m.err != nil {
		return fmt.Errorf("make %s's root: %w", n.Name(), m.err)
	}
	return nil
}

// sysctls are the kernel's settings that kubelet wants otherwise. They are the
// whole machine's, so the node sees files that say what it wants to read.
func sysctls() map[string]string {
	return map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	}
}

// visible are the folders that have the same path on the node as on the machine.
func (n *node) visible() []string {
	p := n.Cluster.Programs
	out := []string{n.Cluster.Dir}
	for _, d := range []string{filepath.Dir(p.Kubernetes), p.Containerd, filepath.Dir(p.Runc), p.CNI, p.Own} {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	for _, tar := range n.Cluster.Images {
		if d := filepath.Dir(tar); !slices.Contains(out, d) && !strings.HasPrefix(d+"/", n.Cluster.Dir+"/") {
			out = append(out, d)
		}
	}
	return out
}

// borrow shows the node the machine's programs and libraries.
func borrow(m *mounter, root string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := "/"+e.Name(), filepath.Join(root, e.Name())
		switch {
		case slices.Contains(own(), e.Name()) || strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			m.readOnly(from, to)
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(from)
			if err == nil {
				err = os.Symlink(target, to)
			}
			if err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	return m.err
}

// makeOwn makes the node's own folders; what is there from its last life stays.
func makeOwn(root string) error {
	if _, err := os.Stat(filepath.Join(root, "etc")); errors.Is(err, os.ErrNotExist) {
		if out, err := exec.Command("cp", "-a", "/etc", root).CombinedOutput(); err != nil {
			return fmt.Errorf("copy /etc: %w: %s", err, out)
		}
		for _, d := range []string{"etc/cni", "etc/kubernetes"} { // a machine may be a node of its own
			if err := os.RemoveAll(filepath.Join(root, d)); err != nil {
				return err
			}
		}
	}
	dirs := []string{
		"etc/cni/net.d", "opt/cni/bin", "root", "run/containerd", "run/netns", "tmp", "var/tmp",
		"var/lib/kubelet", "var/lib/containerd", "var/lib/cni", "var/log/pods", "var/log/containers",
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(root, d), os.ModeSticky|0o777); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(root, "var/run")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// tun gives the node a TUN device node as distributions have it, whatever the
// machine's own is: a file system of its own, since the disk's may refuse
// devices.
func (n *node) tun(m *mounter, root string) {
	dev := n.file("dev")
	m.mount("dev", dev, "tmpfs", 0, "mode=755,size=64k")
	if m.err != nil {
		return
	}
	file := filepath.Join(dev, "tun")
	if err := unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		m.err = fmt.Errorf("make the TUN device's node: %w", err)
		return
	}
	if m.err = os.Chmod(file, 0o666); m.err != nil {
		return
	}
	m.over(file, root+"/dev/net/tun")
}

// enter makes a folder the root, and lets go of the machine's.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's root: %w", err)
	}
	return os.Chdir("/")
}
