package nettest

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Join copies packets, as they are, between TUN a of one namespace and TUN b of
// another, until the returned function is called or the test ends.
func Join(tb TB, one *Space, a string, other *Space, b string) (leave func()) {
	tb.Helper()
	return Relay(tb, one.queue(a), other.queue(b))
}

// Relay is Join for queues that somebody attached; it takes them. They must be
// nonblocking.
func Relay(tb TB, x, y *os.File) (leave func()) {
	done := make(chan struct{}, 2)
	go relay(x, y, done)
	go relay(y, x, done)
	leave = sync.OnceFunc(func() {
		_ = x.Close()
		_ = y.Close()
		<-done
		<-done
	})
	tb.Cleanup(leave)
	return leave
}

func relay(from, to *os.File, done chan<- struct{}) {
	defer func() { done <- struct{}{} }()
	buf := make([]byte, 128<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		// A packet that the other side does not want is lost, as on any wire.
		_, _ = to.Write(buf[:n])
	}
}

// queue attaches to a TUN as its users do.
func (s *Space) queue(name string) *os.File {
	s.tb.Helper()
	var f *os.File
	s.must(s.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("TUNSETIFF: %w", err)
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	}), "attach to %s", name)
	return f
}
