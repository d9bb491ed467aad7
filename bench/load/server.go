// Package load is the two ends of a measurement on TCP: a server that echoes or
// swallows, and clients that ping, fill and connect. It is written on bare
// system calls, one thread and one epoll each, so that what it costs is small
// and the same for every peer that is measured. It knows nothing of peers,
// namespaces or results.
package load

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Serve echoes what comes to one port and swallows what comes to the other,
// until the process ends.
func Serve(echo, sink netip.AddrPort) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	var listeners [2]int
	for i, a := range []netip.AddrPort{echo, sink} {
		if listeners[i], err = listen(a); err != nil {
			return fmt.Errorf("listen at %v: %w", a, err)
		}
		if err := watch(ep, listeners[i], unix.EPOLLIN, int32(-1-i)); err != nil {
			return err
		}
	}
	buf := make([]byte, 256<<10)
	events := make([]unix.EpollEvent, 256)
	for {
		n := wait(ep, events, -1)
		for _, e := range events[:n] {
			if e.Pad < 0 {
				if err := acceptAll(ep, listeners[-1-e.Pad], -1-e.Pad); err != nil {
					return err
				}
				continue
			}
			serveOne(int(e.Fd), e.Pad == 1, buf)
		}
	}
}

func serveOne(fd int, swallow bool, buf []byte) {
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if n <= 0 {
		_ = unix.Close(fd) // the end; a reset looks the same
		return
	}
	for out := buf[:n]; !swallow && len(out) > 0; {
		w, err := unix.Write(fd, out)
		if errors.Is(err, unix.EAGAIN) {
			time.Sleep(50 * time.Microsecond) // rare: messages are small
			continue
		}
		if err != nil {
			return
		}
		out = out[w:]
	}
}

func acceptAll(ep, l int, kind int32) error {
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		tune(fd)
		if err := watch(ep, fd, unix.EPOLLIN, kind); err != nil {
			return err
		}
	}
}

func listen(a netip.AddrPort) (int, error) {
	fd, err := unix.Socket(family(a), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // cannot fail on a fresh socket
	tune(fd)
	if err := unix.Bind(fd, sockaddr(a)); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 4096)
}

// tune sets what every socket of a measurement has: no Nagle, and cubic, for
// some machines default to bbr, whose pacing changes the figures. Without the
// right to choose it stays what it is.
func tune(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
}

func family(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// watch registers fd; mark comes back in the event's Pad.
func watch(ep, fd int, events uint32, mark int32) error {
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: mark}); err != nil {
		return fmt.Errorf("watch a socket: %w", os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

// wait is epoll_wait without the scheduler's knowledge: this process has
// nothing else to run, and its wake-ups would be measured.
func wait(ep int, events []unix.EpollEvent, timeout int) int {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}
