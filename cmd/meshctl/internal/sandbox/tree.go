package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Places of a tree that are not the machine's. Private ones are tmpfs of each
// container and empty, read-only folders below that.
func ownPlaces() []string     { return []string{"/proc", "/sys", "/dev", "/tunmesh"} }
func privatePlaces() []string { return []string{"/run", "/tmp", "/var/tmp", "/dev/shm"} }

// maxHollow bounds the entries of a folder of the machine that gets a new one
// beside them.
const maxHollow = 4096

// tree builds what the containers of one pod see as /.
type tree struct {
	base *Base
	root string
	// hollow are the folders that are tmpfs of the tree already.
	hollow map[string]bool
}

// build mounts the tree at root, an empty folder, and makes the points in it.
func (b *Base) build(root string, points []Point) (err error) {
	t := tree{base: b, root: root, hollow: map[string]bool{"/": true}}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Unmount(root, unix.MNT_DETACH))
		}
	}()
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "tunmesh", "tunmesh/bin", "tunmesh/volumes"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := touch(root + initPath); err != nil {
		return err
	}
	if err := t.machine(); err != nil {
		return err
	}
	for _, p := range points {
		if err := t.point(p); err != nil {
			return fmt.Errorf("make mount path %s: %w", p.Path, err)
		}
	}
	// Everything so far is read-only, then come the parts that are not: a user
	// namespace may mount a writable procfs only where it sees a writable one.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(unix.AT_FDCWD, root, unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("make the tree read-only (Linux 5.12 or newer is needed): %w", err)
	}
	return t.own()
}

// machine binds the machine's top-level folders, and copies its links.
func (t *tree) machine() error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(t.root, e.Name())
		if _, err := os.Lstat(to); err == nil {
			continue // a place of our own
		}
		if err := show("/"+e.Name(), to, e.Type()); err != nil {
			return err
		}
	}
	// One more folder that apps write to; where the machine lacks it, nobody does.
	if err := t.cover("/var/tmp"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// show makes `to` what from is: a bind of a folder or file, a copy of a link.
// Sockets and devices are not shown.
func show(from, to string, kind fs.FileMode) error {
	switch {
	case kind&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case kind.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	case kind.IsRegular():
		if err := touch(to); err != nil {
			return err
		}
	default:
		return nil
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", from, err)
	}
	return nil
}

func touch(p string) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// cover hides a folder of the machine under an empty one.
func (t *tree) cover(p string) error {
	at, err := t.resolve(p)
	if err != nil || within(at, append(ownPlaces(), privatePlaces()[:2]...)) {
		return err
	}
	if _, err := os.Lstat(t.root + at); err != nil {
		return err
	}
	return unix.Mount("tmpfs", t.root+at, "tmpfs", 0, "mode=755,size=4k")
}

// own mounts the parts that are the pod's.
func (t *tree) own() error {
	for _, d := range []string{"proc", "sys", "dev"} {
		if err := unix.Mount(t.base.path(d), filepath.Join(t.root, d), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", d, err)
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	for from, to := range map[string]string{"bin": BinDir, "init": initPath} {
		if err := unix.Mount(t.base.path(from), t.root+to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", to, err)
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, t.root+to, unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("make %s read-only: %w", to, err)
		}
	}
	return nil
}

// point sees to it that something can be mounted at p.
func (t *tree) point(p Point) error {
	at, err := t.resolve(p.Path)
	if err != nil {
		return err
	}
	if within(at, ownPlaces()) {
		return fmt.Errorf("it leads to %s, which belongs to the container itself", at)
	}
	if within(at, privatePlaces()) {
		return nil // the container makes it in its tmpfs
	}
	if fi, err := os.Lstat(t.root + at); err == nil {
		if fi.IsDir() == p.File {
			return fmt.Errorf("%s exists and is of the other kind (file, folder)", at)
		}
		return nil
	}
	parent := filepath.Dir(at)
	for {
		if _, err := os.Lstat(t.root + parent); err == nil {
			break
		}
		parent = filepath.Dir(parent)
	}
	if err := t.makeHollow(parent); err != nil {
		return err
	}
	dir := at
	if p.File {
		dir = filepath.Dir(at)
	}
	for d := parent; d != dir; {
		rest, _ := strings.CutPrefix(dir, strings.TrimSuffix(d, "/")+"/")
		first, _, _ := strings.Cut(rest, "/")
		d = filepath.Join(d, first)
		if err := os.Mkdir(t.root+d, 0o755); err != nil {
			return err
		}
		t.hollow[d] = true
	}
	if p.File {
		return touch(t.root + at)
	}
	return nil
}

// makeHollow replaces a folder of the machine by a tmpfs that shows the same
// entries, so that more can be made beside them.
func (t *tree) makeHollow(dir string) error {
	if t.hollow[dir] {
		return nil
	}
	under, err := os.Open(t.root + dir)
	if err != nil {
		return err
	}
	defer under.Close()
	entries, err := under.ReadDir(maxHollow + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(entries) > maxHollow {
		return fmt.Errorf("it does not exist on this machine, and %s has too many entries to add one; choose another mountPath", dir)
	}
	if err := unix.Mount("tmpfs", t.root+dir, "tmpfs", 0, "mode=755,size=1m"); err != nil {
		return err
	}
	for _, e := range entries {
		// By the descriptor: it still means the folder below.
		from := fmt.Sprintf("/proc/self/fd/%d/%s", under.Fd(), e.Name())
		if err := show(from, filepath.Join(t.root+dir, e.Name()), e.Type()); err != nil {
			return err
		}
	}
	t.hollow[dir] = true
	return nil
}

// resolve follows links as a process with this tree as / would; what does not
// exist stays as it is.
func (t *tree) resolve(p string) (string, error) { return resolveIn(t.root, p) }

func resolveIn(root, p string) (string, error) {
	todo := strings.Split(strings.Trim(filepath.Clean(p), "/"), "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		next := filepath.Join(at, todo[0])
		todo = todo[1:]
		fi, err := os.Lstat(filepath.Join(root, next))
		if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("resolve %s: too many links", p)
		}
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(strings.Trim(filepath.Clean(target), "/"), "/"), todo...)
	}
	return at, nil
}

func within(p string, places []string) bool {
	return slices.ContainsFunc(places, func(own string) bool {
		return p == own || strings.HasPrefix(p, own+"/")
	})
}
