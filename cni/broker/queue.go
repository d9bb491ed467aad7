package broker

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// tunFlags must be those the device was made with (podnet): VNET_HDR is decided
// by the first attacher, MULTI_QUEUE must be repeated by every one.
const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE

// errLive: attaching would add a second queue beside a live one, and the kernel
// would send half of all new flows into it.
var errLive = errors.New("a queue of the device is still attached elsewhere")

// openQueues attaches n queues of device in the network namespace at path,
// which must have none attached. The descriptors are nonblocking, close-on-exec.
func openQueues(nspath, device string, n int) (fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			fds = nil
		}
	}()
	err = ns.WithNetNSPath(nspath, func(ns.NetNS) error {
		up, err := carrier(device)
		if err != nil {
			return fmt.Errorf("look at %s in %s: %w", device, nspath, err)
		}
		if up {
			return fmt.Errorf("attach to %s in %s: %w", device, nspath, errLive)
		}
		for range n {
			fd, err := attach(device)
			if err != nil {
				return fmt.Errorf("attach to %s in %s: %w", device, nspath, err)
			}
			fds = append(fds, fd)
		}
		return nil
	})
	return fds, err
}

func attach(device string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(device)
	if err == nil {
		ifr.SetUint16(tunFlags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("TUNSETIFF: %w", err)
	}
	return fd, nil
}

// carrier reports whether the TUN has a queue attached: its carrier is that.
func carrier(device string) (bool, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GLINK}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], device)
	ifr.data = unsafe.Pointer(&value)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); e != 0 {
		return false, fmt.Errorf("ETHTOOL_GLINK: %w", e)
	}
	return value.data != 0, nil
}

// isQueueOf reports whether fd is an attached queue of device.
func isQueueOf(fd int, device string) bool {
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return false
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return false
	}
	return ifr.Name() == device && ifr.Uint16()&unix.IFF_TUN != 0
}
