package nettest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// MakeTUN makes a TUN with virtio headers, up, and returns descriptors of its
// queues, which the caller owns. It ends with the last of them.
func (s *Space) MakeTUN(name string, mtu, queues int) (fds []int) {
	s.tb.Helper()
	for range queues {
		fd := s.attach(name)
		// wireguard's device asks for the offloads as its own users would. It keeps
		// a descriptor and 1.8 MB, so it lives for this one call only.
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		s.must(err, "duplicate the queue of %s", name)
		dev, got, err := tun.CreateUnmonitoredTUNFromFD(dup)
		s.must(err, "open %s", name)
		if got != name {
			s.tb.Fatalf("opened %s, want %s", got, name)
		}
		s.must(dev.Close(), "close the duplicate of %s", name)
		fds = append(fds, fd)
	}
	s.MTU(name, mtu)
	// The ring is what holds packets while nobody reads: 1,000 loses some.
	s.must(s.nl.LinkSetTxQLen(s.link(name), 8000), "set the queue length of %s", name)
	q := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: s.link(name).Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue"}
	s.must(s.nl.QdiscReplace(q), "set the queueing discipline of %s", name)
	s.Up(name)
	return fds
}

// attach opens one more queue of a TUN.
func (s *Space) attach(name string) (fd int) {
	s.tb.Helper()
	s.must(s.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
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
		return nil
	}), "attach to %s", name)
	return fd
}

// TxDropped is how many packets a link's queue had no room for.
func (s *Space) TxDropped(name string) uint64 {
	s.tb.Helper()
	st := s.link(name).Attrs().Statistics
	if st == nil {
		s.tb.Fatalf("%s has no statistics", name)
	}
	return st.TxDropped
}

// RPS spreads a link's receive processing over the CPUs of a hexadecimal mask;
// "0" leaves it where it arrives.
func (s *Space) RPS(name, mask string) {
	s.tb.Helper()
	done := make(chan error, 1)
	go s.setRPS(name, mask, done)
	s.must(<-done, "set rps_cpus of %s", name)
}

// setRPS needs the namespace's own /sys; its thread, which has it, ends with
// the goroutine.
func (s *Space) setRPS(name, mask string, done chan<- error) {
	runtime.LockOSThread()
	done <- func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mounts: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the namespace: %w", err)
		}
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			return fmt.Errorf("mount sysfs: %w", err)
		}
		queues, err := filepath.Glob("/sys/class/net/" + name + "/queues/rx-*/rps_cpus")
		if err != nil || len(queues) == 0 {
			return fmt.Errorf("find receive queues: %d, %w", len(queues), err)
		}
		for _, q := range queues {
			if err := os.WriteFile(q, []byte(mask), 0); err != nil {
				return err
			}
		}
		return nil
	}()
}
