package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Space is a network namespace that ends with its test.
type Space struct {
	// Path is where programs of root find it, for as long as this process lives:
	// it is no mount, which would stay when the process is killed.
	Path string

	tb   TB
	kind string
	ns   ns.NetNS
	nl   *netlink.Handle
}

// NeedRoot skips the test when namespaces and devices cannot be made.
func NeedRoot(tb TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN): makes network namespaces and devices")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		tb.Skipf("needs /dev/net/tun: %v", err)
	}
}

// New makes a namespace with lo up. Errors name it by its kind.
func New(tb TB, kind string) *Space {
	tb.Helper()
	NeedRoot(tb)
	made := make(chan space, 1)
	go makeSpace(made)
	return held(tb, kind, <-made)
}

// space is a new namespace, or why there is none.
type space struct {
	file *os.File
	err  error
}

func held(tb TB, kind string, n space) *Space {
	tb.Helper()
	if n.err != nil {
		tb.Fatalf("make network namespace %s: %v", kind, n.err)
	}
	tb.Cleanup(func() { _ = n.file.Close() })
	s := Open(tb, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()))
	s.kind = kind
	s.Up("lo")
	return s
}

// NewOwned makes a namespace that is owned by a user namespace of its own, as
// containers with user namespaces have it: root in there rules it, and is
// nobody elsewhere.
func NewOwned(tb TB, kind string) *Space {
	tb.Helper()
	NeedRoot(tb)
	owner := exec.Command("sleep", "60")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	owner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{},
	}
	if err := owner.Start(); err != nil {
		tb.Skipf("needs user namespaces: %v", err)
	}
	var n space
	n.file, n.err = os.Open(fmt.Sprintf("/proc/%d/ns/net", owner.Process.Pid))
	_ = owner.Process.Kill()
	_ = owner.Wait()
	return held(tb, kind, n)
}

// makeSpace leaves its thread in the new namespace: it ends with the goroutine.
func makeSpace(made chan<- space) {
	runtime.LockOSThread()
	var n space
	if n.err = unix.Unshare(unix.CLONE_NEWNET); n.err == nil {
		n.file, n.err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	}
	made <- n
}

// Open takes a namespace that is there; it is not removed.
func Open(tb TB, path string) *Space {
	tb.Helper()
	n, err := ns.GetNS(path)
	if err != nil {
		tb.Fatalf("open network namespace: %v", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(n.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		tb.Fatalf("open netlink in %s: %v", path, err)
	}
	tb.Cleanup(func() {
		h.Close()
		_ = n.Close()
	})
	return &Space{Path: path, tb: tb, kind: filepath.Base(path), ns: n, nl: h}
}

// Do runs f on a thread in the namespace; sockets made there stay there.
func (s *Space) Do(f func() error) error {
	return s.ns.Do(func(ns.NetNS) error { return f() })
}

func (s *Space) must(err error, format string, args ...any) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatalf("%s in %s: %v", fmt.Sprintf(format, args...), s.kind, err)
	}
}

func (s *Space) link(name string) netlink.Link {
	s.tb.Helper()
	l, err := s.nl.LinkByName(name)
	s.must(err, "find %s", name)
	return l
}

// Has reports whether there is a link of that name.
func (s *Space) Has(name string) bool {
	_, err := s.nl.LinkByName(name)
	return err == nil
}

// Up sets a link up.
func (s *Space) Up(name string) {
	s.tb.Helper()
	s.must(s.nl.LinkSetUp(s.link(name)), "set %s up", name)
}

// Down sets a link down.
func (s *Space) Down(name string) {
	s.tb.Helper()
	s.must(s.nl.LinkSetDown(s.link(name)), "set %s down", name)
}

// Delete deletes a link.
func (s *Space) Delete(name string) {
	s.tb.Helper()
	s.must(s.nl.LinkDel(s.link(name)), "delete %s", name)
}

// MAC returns a link's address.
func (s *Space) MAC(name string) string {
	s.tb.Helper()
	return s.link(name).Attrs().HardwareAddr.String()
}

// SetMAC sets a link's address.
func (s *Space) SetMAC(name, mac string) {
	s.tb.Helper()
	hw, err := net.ParseMAC(mac)
	s.must(err, "parse %s", mac)
	s.must(s.nl.LinkSetHardwareAddr(s.link(name), hw), "set the address of %s", name)
}

// Owner says whose a TUN is; false when the link is none.
func (s *Space) Owner(name string) (user, group uint32, is bool) {
	s.tb.Helper()
	t, is := s.link(name).(*netlink.Tuntap)
	if !is {
		return 0, 0, false
	}
	return t.Owner, t.Group, true
}

// MTU sets a link's MTU.
func (s *Space) MTU(name string, mtu int) {
	s.tb.Helper()
	s.must(s.nl.LinkSetMTU(s.link(name), mtu), "set the mtu of %s", name)
}

// Bridge makes a bridge, up.
func (s *Space) Bridge(name string) {
	s.tb.Helper()
	s.must(s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}), "make bridge %s", name)
	s.Up(name)
}

// Veth joins two namespaces with a pair of interfaces, both up.
func (s *Space) Veth(name string, peer *Space, peerName string) {
	s.tb.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peerName, PeerNamespace: netlink.NsFd(peer.ns.Fd())}
	s.must(s.nl.LinkAdd(v), "make veth %s", name)
	s.Up(name)
	peer.Up(peerName)
}

// Attach makes a link a port of a bridge.
func (s *Space) Attach(name, bridge string) {
	s.tb.Helper()
	s.must(s.nl.LinkSetMaster(s.link(name), s.link(bridge)), "attach %s to %s", name, bridge)
}

// Addr adds an address, without waiting for it to be found unique.
func (s *Space) Addr(name, prefix string) {
	s.tb.Helper()
	n, err := netlink.ParseIPNet(prefix)
	s.must(err, "parse %s", prefix)
	a := &netlink.Addr{IPNet: n}
	if n.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	s.must(s.nl.AddrAdd(s.link(name), a), "add %s to %s", prefix, name)
}

// Addrs lists a link's addresses as prefixes.
func (s *Space) Addrs(name string) (out []netip.Prefix) {
	s.tb.Helper()
	got, err := s.nl.AddrList(s.link(name), unix.AF_UNSPEC)
	s.must(err, "list addresses of %s", name)
	for _, a := range got {
		out = append(out, netip.MustParsePrefix(a.IPNet.String()))
	}
	return out
}

// Settled waits until the kernel has given a link its link-local address, found
// every address unique and entered it; false when that takes longer.
func (s *Space) Settled(name string, within time.Duration) bool {
	s.tb.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		l := s.link(name)
		got, err := s.nl.AddrList(l, unix.AF_INET6)
		s.must(err, "list addresses of %s", name)
		routes, err := s.nl.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		s.must(err, "list local routes")
		linkLocal := func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }
		unsettled := func(a netlink.Addr) bool {
			return a.Flags&unix.IFA_F_TENTATIVE != 0 || !slices.ContainsFunc(routes, func(r netlink.Route) bool {
				return r.LinkIndex == l.Attrs().Index && r.Type == unix.RTN_LOCAL && r.Dst != nil && r.Dst.IP.Equal(a.IP)
			})
		}
		if slices.ContainsFunc(got, linkLocal) && !slices.ContainsFunc(got, unsettled) {
			return true
		}
	}
	return false
}

// Route adds a route by a link; an empty gateway is none.
func (s *Space) Route(name, dst, gateway string) {
	s.tb.Helper()
	_, n, err := net.ParseCIDR(dst)
	s.must(err, "parse %s", dst)
	r := &netlink.Route{LinkIndex: s.link(name).Attrs().Index, Dst: n}
	switch {
	case gateway != "":
		r.Gw = net.ParseIP(gateway)
	case n.IP.To4() != nil:
		r.Scope = netlink.SCOPE_LINK
	}
	s.must(s.nl.RouteAdd(r), "add route %s", dst)
}

// Narrow makes what goes to dst by a link no larger than mtu, whatever the link
// takes: as a router before a tunnel would.
func (s *Space) Narrow(name, dst string, mtu int) {
	s.tb.Helper()
	_, n, err := net.ParseCIDR(dst)
	s.must(err, "parse %s", dst)
	r := &netlink.Route{LinkIndex: s.link(name).Attrs().Index, Dst: n, MTU: mtu}
	if n.IP.To4() != nil {
		r.Scope = netlink.SCOPE_LINK
	}
	s.must(s.nl.RouteReplace(r), "narrow the route %s", dst)
}

// Mute keeps what the namespace itself says from an address from leaving it.
func (s *Space) Mute(src string) {
	s.tb.Helper()
	_, n, err := net.ParseCIDR(src)
	s.must(err, "parse %s", src)
	r := netlink.NewRule()
	r.Src, r.Type = n, unix.RTN_BLACKHOLE
	s.must(s.nl.RuleAdd(r), "add rule for %s", src)
}

// Multipath adds a route over two gateways of a link.
func (s *Space) Multipath(name, dst, one, two string) {
	s.tb.Helper()
	_, n, err := net.ParseCIDR(dst)
	s.must(err, "parse %s", dst)
	i := s.link(name).Attrs().Index
	s.must(s.nl.RouteAdd(&netlink.Route{Dst: n, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: i, Gw: net.ParseIP(one)}, {LinkIndex: i, Gw: net.ParseIP(two)},
	}}), "add route %s", dst)
}

// Rule adds a routing rule that looks a source up in a table.
func (s *Space) Rule(src string, table int) {
	s.tb.Helper()
	_, n, err := net.ParseCIDR(src)
	s.must(err, "parse %s", src)
	r := netlink.NewRule()
	r.Src, r.Table = n, table
	s.must(s.nl.RuleAdd(r), "add rule for %s", src)
}

// Neighbour adds a permanent neighbour.
func (s *Space) Neighbour(name, ip, mac string) {
	s.tb.Helper()
	hw, err := net.ParseMAC(mac)
	s.must(err, "parse %s", mac)
	s.must(s.nl.NeighSet(&netlink.Neigh{
		LinkIndex: s.link(name).Attrs().Index, State: unix.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: hw,
	}), "add neighbour %s", ip)
}

// Knows reports whether ip was resolved to mac on a link.
func (s *Space) Knows(name, ip, mac string) bool {
	s.tb.Helper()
	got, err := s.nl.NeighList(s.link(name).Attrs().Index, 0)
	s.must(err, "list neighbours of %s", name)
	for _, n := range got {
		if n.IP.Equal(net.ParseIP(ip)) && n.HardwareAddr.String() == mac {
			return true
		}
	}
	return false
}

// Qdisc returns the kind of a link's root queueing discipline.
func (s *Space) Qdisc(name string) string {
	s.tb.Helper()
	got, err := s.nl.QdiscList(s.link(name))
	s.must(err, "list queueing disciplines of %s", name)
	for _, q := range got {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			return q.Type()
		}
	}
	return ""
}

// TxQueueLen returns a link's queue length, in packets.
func (s *Space) TxQueueLen(name string) int {
	s.tb.Helper()
	return s.link(name).Attrs().TxQLen
}

// Sysctl writes a value; the path is relative to /proc/sys.
func (s *Space) Sysctl(path, value string) {
	s.tb.Helper()
	s.must(s.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) }), "set %s", path)
}
