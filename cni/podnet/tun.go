package podnet

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// tunFlags: the broker attaches with the same. The header carries offloads and
// is decided by the first who attaches; several queues must be asked for by all.
const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE

// makeTUN makes a persistent TUN that belongs to root; one that is there is
// left. A user that is not the owner needs CAP_NET_ADMIN to attach; a device
// without an owner could be attached by anybody.
func makeTUN(s *space, name string) error {
	l, err := s.find(name)
	if err != nil {
		return err
	}
	if l != nil {
		if l.Type() != "tuntap" {
			return fmt.Errorf("make TUN %s in %s: there is an interface of that name (%s)", name, s.path, l.Type())
		}
		return nil
	}
	return s.do(func() error {
		if err := newTUN(name); err != nil {
			return fmt.Errorf("make TUN %s in %s: %w", name, s.path, err)
		}
		return nil
	})
}

// newTUN works in the namespace of its thread. Persistence comes last, so that
// what fails before leaves nothing behind.
func newTUN(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("open /dev/net/tun (is the kernel's tun module loaded?): %w", err)
	}
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(tunFlags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	for _, set := range []struct {
		name string
		req  uint
		arg  int
	}{{"TUNSETOWNER", unix.TUNSETOWNER, 0}, {"TUNSETGROUP", unix.TUNSETGROUP, 0}, {"TUNSETPERSIST", unix.TUNSETPERSIST, 1}} {
		if err := unix.IoctlSetInt(fd, set.req, set.arg); err != nil {
			return fmt.Errorf("%s: %w", set.name, err)
		}
	}
	return nil
}
