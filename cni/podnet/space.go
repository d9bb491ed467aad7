package podnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// answerWithin bounds every netlink request: the kernel answers at once unless
// somebody holds its lock.
const answerWithin = 10 * time.Second

// space is an open network namespace.
type space struct {
	path string
	ns   ns.NetNS
	nl   *netlink.Handle
}

func open(path string) (*space, error) {
	n, err := ns.GetNS(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(n.Fd()), unix.NETLINK_ROUTE)
	if err == nil {
		err = h.SetSocketTimeout(answerWithin)
	}
	if err != nil {
		_ = n.Close()
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return &space{path: path, ns: n, nl: h}, nil
}

// openIfThere returns nil when path is no namespace: gone, or only the file
// that one was to be mounted on.
func openIfThere(path string) (*space, error) {
	if path == "" {
		return nil, nil
	}
	err := ns.IsNSorErr(path)
	var missing ns.NSPathNotExistErr
	var other ns.NSPathNotNSErr
	if errors.As(err, &missing) || errors.As(err, &other) {
		return nil, nil
	}
	return open(path)
}

func (s *space) close() {
	s.nl.Close()
	_ = s.ns.Close()
}

// do runs f on a thread that is in the namespace.
func (s *space) do(f func() error) error {
	return s.ns.Do(func(ns.NetNS) error { return f() })
}

// Identify returns the identity of the namespace at path.
func Identify(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, fmt.Errorf("stat network namespace %s: %w", path, err)
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// Exists reports whether a network namespace is mounted at path.
func Exists(path string) bool { return ns.IsNSorErr(path) == nil }

// makeSpace makes a network namespace and mounts it at path; one that is there
// is left.
func makeSpace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if ns.IsNSorErr(path) == nil {
		return nil
	}
	m := maker{path: path, done: make(chan error, 1)}
	go m.run()
	return <-m.done
}

type maker struct {
	path string
	done chan error
}

// run never unlocks its thread, which is in the new namespace: the runtime ends
// it with the goroutine.
func (m *maker) run() {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		m.done <- fmt.Errorf("unshare: %w", err)
		return
	}
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(own, m.path, "", unix.MS_BIND, ""); err != nil {
		m.done <- fmt.Errorf("mount the namespace at %s: %w", m.path, err)
		return
	}
	m.done <- nil
}

// removeSpace removes the mount and its file, whichever of them is there. Who
// still holds a descriptor keeps the namespace alive without its links.
func removeSpace(path string) error {
	s, err := openIfThere(path)
	if err != nil {
		return err
	}
	if s != nil {
		err = s.removeLinks()
		s.close()
		if err != nil {
			return err
		}
	}
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // no mount (any more)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeLinks ends what would live on in a namespace that somebody keeps open.
func (s *space) removeLinks() error {
	links, err := list(s.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links in %s: %w", s.path, err)
	}
	for _, l := range links {
		if k := l.Type(); k != "veth" && k != "tuntap" && k != "macvlan" && k != "ipvlan" {
			continue // lo, and tunnel devices that the kernel puts everywhere
		}
		if err := s.remove(l); err != nil {
			return err
		}
	}
	return nil
}

func (s *space) remove(l netlink.Link) error {
	if err := s.nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s in %s: %w", l.Attrs().Name, s.path, err)
	}
	return nil
}

// find returns nil when there is no link of that name.
func (s *space) find(name string) (netlink.Link, error) {
	l, err := s.nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", name, s.path, err)
	}
	return l, nil
}

func (s *space) need(name string) (netlink.Link, error) {
	l, err := s.find(name)
	if err == nil && l == nil {
		err = fmt.Errorf("there is no %s in %s", name, s.path)
	}
	return l, err
}

// list asks again when the kernel's answer was torn by a change meanwhile.
func list[T any](ask func() ([]T, error)) ([]T, error) {
	for try := 0; ; try++ {
		got, err := ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == 10 {
			return got, err
		}
	}
}
