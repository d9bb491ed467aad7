// Package load is the two ends of a measurement: a server that echoes, swallows
// and answers HTTP/1.1, HTTP/2 and gRPC, and clients that ping, fill, connect
// and ask. It is written on bare system calls, one thread and one epoll each, so
// that what it costs is small and the same for every peer that is measured: a
// client and server of net/http spend five times the CPU of what lies between.
// It knows nothing of peers, namespaces or reports.
package load

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kind is what a port does.
type Kind string

// Kinds of ports.
const (
	Echo     Kind = "echo"  // sends back what comes
	Sink     Kind = "sink"  // swallows what comes
	ServeH1  Kind = "http1" // HTTP/1.1
	ServeH2  Kind = "http2" // HTTP/2 with prior knowledge, gRPC too
	KindList      = "echo, sink, http1, http2"
)

// Port is an address with what it does.
type Port struct {
	Kind Kind
	Addr netip.AddrPort
}

// served is a connection of a server.
type served struct {
	fd      int
	kind    Kind
	out     []byte
	body    int // bytes of filler that follow out
	blocked bool
	ended   bool // the client has said all
	http1   *http1server
	http2   *http2server
}

// server is one thread's.
type server struct {
	ep    int
	ports []Port
	conns map[int]*served
	buf   []byte
}

// listenerMark and below are the Pad of listeners' events.
const listenerMark = -1

// Serve serves ports until the process ends.
func Serve(ports []Port) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	s := &server{ep: ep, ports: ports, conns: map[int]*served{}, buf: make([]byte, 256<<10)}
	for i, p := range ports {
		fd, err := listen(p.Addr)
		if err != nil {
			return fmt.Errorf("listen at %v: %w", p.Addr, err)
		}
		if err := watch(ep, fd, unix.EPOLLIN, int32(listenerMark-i)); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, 256)
	for {
		n := wait(ep, events, -1)
		for _, e := range events[:n] {
			if e.Pad <= listenerMark {
				if err := s.accept(int(e.Fd), ports[listenerMark-e.Pad].Kind); err != nil {
					return err
				}
				continue
			}
			if c := s.conns[int(e.Fd)]; c != nil && !s.event(c, e.Events) {
				delete(s.conns, c.fd)
				_ = unix.Close(c.fd)
			}
		}
	}
}

// event reports whether the connection stays.
func (s *server) event(c *served, events uint32) bool {
	if events&unix.EPOLLOUT != 0 && !s.flush(c) {
		return false
	}
	if events&^uint32(unix.EPOLLOUT) == 0 {
		return true
	}
	if c.blocked {
		return events&(unix.EPOLLHUP|unix.EPOLLERR) == 0 // who does not read is not read
	}
	n, err := unix.Read(c.fd, s.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return true
	}
	if n <= 0 {
		c.ended = true
		return false // the end; a reset looks the same
	}
	in := s.buf[:n]
	switch c.kind {
	case Sink:
		return true
	case Echo:
		c.out = append(c.out, in...)
	case ServeH1:
		err = c.http1.read(in, c)
	case ServeH2:
		err = c.http2.read(in, c)
	}
	return s.flush(c) && err == nil
}

// filler is what bodies are made of.
var filler = bytes.Repeat([]byte("tunmesh-"), 32<<10) //nolint:gochecknoglobals // a constant

// flush writes what there is; false ends the connection.
func (s *server) flush(c *served) bool {
	for len(c.out) > 0 || c.body > 0 {
		var n int
		var err error
		if len(c.out) > 0 {
			if n, err = unix.Write(c.fd, c.out); n > 0 {
				c.out = c.out[:copy(c.out, c.out[n:])]
			}
		} else if n, err = unix.Write(c.fd, filler[:min(c.body, len(filler))]); n > 0 {
			c.body -= n
		}
		if errors.Is(err, unix.EAGAIN) {
			if !c.blocked {
				c.blocked = true
				return modify(s.ep, c.fd, unix.EPOLLOUT, 0) == nil
			}
			return true
		}
		if err != nil {
			return false
		}
	}
	if c.blocked {
		c.blocked = false
		return modify(s.ep, c.fd, unix.EPOLLIN, 0) == nil
	}
	return true
}

func (s *server) accept(l int, kind Kind) error {
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
		c := &served{fd: fd, kind: kind}
		switch kind {
		case ServeH1:
			c.http1 = &http1server{}
		case ServeH2:
			c.http2 = newHTTP2Server()
		}
		s.conns[fd] = c
		if err := watch(s.ep, fd, unix.EPOLLIN, 0); err != nil {
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
