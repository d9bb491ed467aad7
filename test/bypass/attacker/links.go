package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func indexOf(dev string) (int, error) {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

// ip runs iproute2 and reports what became of it.
func ip(args ...string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil && len(out) > 0 {
		err = errors.New(trim(out))
	}
	tried("ip "+strings.Join(args, " "), err)
	return err == nil
}

func routes(t target) {
	ip("addr", "add", t.sink4.Prev().String()+"/24", "dev", "eth0")
	ip("route", "add", t.sink4.String()+"/32", "dev", "eth0", "src", t.sink4.Prev().String())
	dial("own address and route", netip.AddrPortFrom(t.sink4, t.port), t.marker, nil)
	dial("bound to own address", netip.AddrPortFrom(t.sink4, t.port), t.marker, func(fd int) error {
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: t.sink4.Prev().As4()})
	})
	ip("route", "del", t.sink4.String()+"/32")
	ip("rule", "add", "from", "all", "lookup", "99")
	ip("route", "add", "default", "dev", "eth0", "table", "99")
	ip("route", "add", "local", t.sink4.String()+"/32", "dev", "lo", "table", "98")
	t.dialAll("own table", nil)
	ip("rule", "del", "from", "all", "lookup", "99")
	ip("addr", "del", t.sink4.Prev().String()+"/24", "dev", "eth0")
	ip("link", "set", "eth0", "mtu", "9000")
	t.dialAll("mtu 9000", nil)
	ip("link", "set", "eth0", "mtu", "1500")
	if t.self6.IsValid() {
		ip("-6", "route", "add", t.sink6.String()+"/128", "dev", "eth0")
		dial("own IPv6 route", netip.AddrPortFrom(t.sink6, t.port), t.marker, nil)
		own := t.sink6.Prev()
		ip("-6", "addr", "add", own.String()+"/64", "dev", "eth0", "nodad")
		dial("bound to own IPv6 address", netip.AddrPortFrom(t.sink6, t.port), t.marker, func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: own.As16()})
		})
		ip("-6", "addr", "del", own.String()+"/64", "dev", "eth0")
		ip("-6", "route", "del", t.sink6.String()+"/128", "dev", "eth0")
	}
}

func ownTUN(t target) {
	for _, path := range []string{"/dev/net/tun", "/tmp/tun"} {
		if path != "/dev/net/tun" {
			err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200)))
			tried("mknod "+path, err)
			if err != nil {
				continue
			}
		}
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		tried("open "+path, err)
		if err != nil {
			continue
		}
		got("a descriptor of %s", path)
		for _, name := range []string{"eth0", "wire0", "tun9"} {
			ifr, _ := unix.NewIfreq(name)
			ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
			err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
			tried("TUNSETIFF "+name, err)
			if err == nil {
				got("a queue of %s", name)
			}
		}
		unix.Close(fd)
	}
	if ip("tuntap", "add", "tun8", "mode", "tun") {
		got("an own TUN")
	}
	t.dialAll("after own TUN", nil)
}

func ownLinks(t target) {
	ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
	ip("link", "set", "v0", "up")
	ip("link", "set", "v1", "up")
	ip("addr", "add", t.sink4.Prev().String()+"/32", "dev", "v0")
	ip("route", "add", t.sink4.String()+"/32", "dev", "v0")
	ip("-6", "route", "add", t.sink6.String()+"/128", "dev", "v0")
	t.dialAll("own veth", nil)
	ip("link", "add", "br9", "type", "bridge")
	ip("link", "set", "eth0", "master", "br9")
	ip("link", "set", "v1", "master", "br9")
	ip("link", "set", "br9", "up")
	t.dialAll("own bridge", nil)
	ip("link", "set", "eth0", "nomaster")
	for _, kind := range []string{"macvlan", "ipvlan", "vlan"} {
		args := []string{"link", "add", "x-" + kind, "link", "eth0", "type", kind}
		if kind == "vlan" {
			args = append(args, "id", "9")
		}
		ip(args...)
		ip("link", "set", "x-"+kind, "up")
		t.dialAll(kind, func(fd int) error { return unix.BindToDevice(fd, "x-"+kind) })
		ip("link", "del", "x-"+kind)
	}
	ip("link", "del", "v0")
	ip("link", "del", "br9")
	// Into the namespace of the container's first process, and of pid 2102.
	ip("link", "set", "eth0", "netns", "1")
	ip("link", "add", "v2", "type", "veth", "peer", "name", "v3", "netns", "2102")
	ip("link", "set", "eth0", "name", "wire0")
	ip("link", "set", "wire0", "name", "eth0")
	ip("link", "set", "eth0", "up")
	ip("route", "replace", "default", "dev", "eth0")
	ip("-6", "route", "replace", "default", "dev", "eth0")
	t.dialAll("after moving links", nil)
}

func otherNamespaces(target) {
	var self unix.Stat_t
	_ = unix.Stat("/proc/self/ns/net", &self)
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, dir := range []string{"/run/netns", "/var/run/netns", "/run/tunmesh", "/run/tunmesh-local"} {
		more, _ := filepath.Glob(dir + "/*")
		paths = append(paths, more...)
		_, err := os.ReadDir(dir)
		tried("read "+dir, err)
	}
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil || st.Ino == self.Ino {
			continue
		}
		kind := filepath.Base(p)
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if theirs, _ := os.Readlink(p); err == nil && own == theirs {
			continue
		}
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			tried("open "+p, err)
			continue
		}
		err = enter(fd)
		tried("setns "+p, err)
		if err == nil {
			got("into %s", p)
		}
		unix.Close(fd)
	}
	// The parent user namespace's namespaces, by the kernel's own calls.
	for _, kind := range []string{"net", "mnt", "pid"} {
		fd, err := unix.Open("/proc/self/ns/"+kind, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		const nsGetUserNS, nsGetParent = 0xb701, 0xb702
		for name, req := range map[string]uint{"NS_GET_USERNS": nsGetUserNS, "NS_GET_PARENT": nsGetParent} {
			up, err := unix.IoctlRetInt(fd, req)
			tried(name+" of "+kind, err)
			if err != nil {
				continue
			}
			up2, err := unix.IoctlRetInt(up, nsGetParent)
			tried("its parent", err)
			if err == nil {
				if enter(up2) == nil {
					got("into the parent of %s", kind)
				}
			}
		}
		unix.Close(fd)
	}
	tried("mount over /proc/1/root", unix.Mount("/proc/1/root", "/tmp", "", unix.MS_BIND, ""))
	for _, p := range []string{"/proc/1/root/run/tunmesh", "/proc/1/root/run/netns", "/proc/1/cwd/run/tunmesh"} {
		_, err := os.Stat(p)
		tried("stat "+p, err)
		if err == nil {
			got("sight of %s", p)
		}
	}
}

// enter joins a namespace from a thread that shares nothing which would forbid it;
// the thread ends with the goroutine.
func enter(fd int) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		done <- unix.Setns(fd, 0)
	}()
	return <-done
}

func otherProcesses(target) {
	me := os.Getpid()
	for pid := 1; pid < 4096; pid++ {
		if pid == me || pid == os.Getppid() {
			continue
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.HasPrefix(string(comm), "mesh-") {
			got("sight of process %d, %s", pid, trim(comm))
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		for n := range 64 {
			dup, err := unix.PidfdGetfd(fd, n, 0)
			if err != nil {
				continue
			}
			link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dup))
			if strings.Contains(link, "tun") || strings.HasPrefix(link, "net:") {
				got("descriptor %d of process %d: %s", n, pid, link)
			}
			unix.Close(dup)
		}
		unix.Close(fd)
	}
	for pid := 2; pid < 300; pid++ {
		if pid == me {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err := unix.PtraceSeize(pid); err == nil && strings.HasPrefix(string(comm), "mesh-") {
			got("ptrace of process %d", pid)
		}
	}
	tried("processes", nil)
}

func sidecarUID(t target) {
	cmd := exec.Command("/proc/self/exe", "connect", "-sink4", t.sink4.String(), "-sink6", t.sink6.String(), "-port", fmt.Sprint(t.port), "-marker", t.marker)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 2102, Gid: 2102}}
	out, err := cmd.CombinedOutput()
	tried("as uid 2102", err)
	fmt.Print(string(out))
	cmd = exec.Command("/proc/self/exe", "broker", "-sink4", t.sink4.String(), "-sink6", t.sink6.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 2102, Gid: 2102}}
	out, err = cmd.CombinedOutput()
	tried("the broker as uid 2102", err)
	fmt.Print(string(out))
}

func linkLocal(t target) {
	ifc, err := net.InterfaceByName("eth0")
	if err != nil {
		tried("eth0", err)
		return
	}
	ip("addr", "add", "fe80::77/64", "dev", "eth0", "nodad")
	for _, dst := range []string{"fe80::1", "ff02::1", "ff02::2", "fe80::ffff"} {
		a := netip.MustParseAddr(dst)
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			continue
		}
		tv := unix.NsecToTimeval(int64(time.Second))
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
		err = unix.Connect(fd, &unix.SockaddrInet6{Addr: a.As16(), Port: int(t.port), ZoneId: uint32(ifc.Index)})
		tried("link-local "+dst, err)
		if err == nil {
			got("a connection to %s", dst)
			_, _ = unix.Write(fd, []byte(t.marker))
		}
		unix.Close(fd)
		src := netip.MustParseAddr("fe80::77")
		sendRaw("link-local segment to "+dst, packet6(src, a, protoTCP, segment(src, a, 40008, t.port, flagSYN, t.marker)))
		sendRaw("link-local datagram to "+dst, packet6(src, a, protoUDP, datagram(src, a, 40008, t.port, t.marker)))
		sendRaw("forged neighbour to "+dst, packet6(src, a, protoICMPv6, advertisement(src, a, t.sink6, t.marker)))
	}
	if t.self6.IsValid() { // and as the pod's own address, to all and to one
		for _, dst := range []netip.Addr{netip.MustParseAddr("ff02::1"), t.sink6} {
			p := packet6(t.self6, dst, protoICMPv6, advertisement(t.self6, dst, t.sink6, t.marker))
			p[7] = 255 // as the neighbours of a link have it
			sendRaw("forged neighbour from the own address to "+dst.String(), p)
		}
	}
	ip("addr", "del", "fe80::77/64", "dev", "eth0")
}

// advertisement claims target for ourselves (RFC 4861, section 4.4); the marker
// is in an option that nobody knows.
func advertisement(src, dst, target netip.Addr, marker string) []byte {
	b := make([]byte, 24)
	option := append([]byte{253, 0}, marker...)
	for len(option)%8 != 0 {
		option = append(option, 0)
	}
	option[1] = byte(len(option) / 8)
	b = append(b, option...)
	b[0], b[4] = 136, 0x20
	copy(b[8:], target.AsSlice())
	c := fold(sum(b, pseudo(src, dst, protoICMPv6, len(b))))
	b[2], b[3] = byte(c>>8), byte(c)
	return b
}
