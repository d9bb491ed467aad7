// Attacker runs inside a pod's app container, as root with every capability of
// the pod's user namespace, and tries one way round the sidecar. It prints a
// line "TRIED what: outcome" for each attempt, and "GOT …" for anything that it
// should never get: a descriptor, a namespace, a connection. The judge is the
// test, which watches the network outside; "GOT" is believed as well.
//
//	attacker WAY -sink4 IP -sink6 IP -port N …
package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// target is what must not be reached: addresses of the mesh's ranges that are
// nobody's, so that the sidecar refuses every connection to them.
type target struct {
	sink4, sink6 netip.Addr
	self4, self6 netip.Addr
	port         uint16
	marker       string
	peers        []string // a meshed pod's IP:port, one of each family
	pid          int      // of a process to rob, for grab
}

type way struct {
	name, about string
	run         func(target)
}

func ways() []way {
	return []way{
		{"connect", "an ordinary connection", connectPlain},
		{"udp", "UDP with the true source, which is allowed", plainUDP},
		{"bindtodevice", "SO_BINDTODEVICE on every interface", bindToDevice},
		{"mark", "SO_MARK and SO_PRIORITY", mark},
		{"raw", "raw sockets with own TCP segments", rawTCP},
		{"packet", "packet sockets", packetSocket},
		{"routes", "own routes, addresses and rules", routes},
		{"tun", "an own TUN, or a second queue of eth0", ownTUN},
		{"links", "veth, macvlan, ipvlan, bridges, moved links", ownLinks},
		{"setns", "namespaces of others", otherNamespaces},
		{"mounts", "mount namespaces of others, by the kernel's list", otherMounts},
		{"ptrace", "ptrace and pidfd_getfd of whatever is there", otherProcesses},
		{"uid", "the sidecar's uid", sidecarUID},
		{"broker", "the broker's socket and name", askBroker},
		{"squat", "ask the broker again and again", squat},
		{"spoof-tcp", "forged sources on TCP", spoofTCP},
		{"spoof-udp", "forged sources on UDP", spoofUDP},
		{"spoof-icmp", "forged sources on ICMP", spoofICMP},
		{"linklocal", "IPv6 link-local and multicast", linkLocal},
		{"exthdr", "TCP behind IPv6 extension headers", extensionHeaders},
		{"tunnels", "GRE, IPIP, 6in4, ESP, SCTP", tunnels},
		{"fragments", "TCP in IP fragments", fragments},
		{"options", "TCP with IP options", ipOptions},
		{"alpn", "forged SNI and ALPN", forgedALPN},
		{"grab", "the memory and the descriptors of a process that is in sight", grab},
	}
}

func main() {
	all := ways()
	if len(os.Args) < 2 {
		for _, w := range all {
			fmt.Printf("%-14s %s\n", w.name, w.about)
		}
		os.Exit(2)
	}
	i := slices.IndexFunc(all, func(w way) bool { return w.name == os.Args[1] })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "attacker: no way %q\n", os.Args[1])
		os.Exit(2)
	}
	f := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	var t target
	f.TextVar(&t.sink4, "sink4", netip.Addr{}, "IPv4 address that is nobody's")
	f.TextVar(&t.sink6, "sink6", netip.Addr{}, "IPv6 address that is nobody's")
	port := f.Uint("port", 7777, "port of the sink")
	f.StringVar(&t.marker, "marker", "MARKER", "bytes that must not be seen outside")
	peers := f.String("peers", "", "IP:port of a meshed pod, one of each family, separated by commas")
	f.IntVar(&t.pid, "pid", 0, "process to rob (grab)")
	_ = f.Parse(os.Args[2:])
	t.port = uint16(*port)
	if *peers != "" {
		t.peers = strings.Split(*peers, ",")
	}
	t.self4, t.self6 = ownAddresses()
	all[i].run(t)
	fmt.Println("DONE")
}

func ownAddresses() (v4, v6 netip.Addr) {
	ifc, err := net.InterfaceByName("eth0")
	if err != nil {
		return
	}
	addrs, _ := ifc.Addrs()
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if p.Addr().Is4() {
			v4 = p.Addr()
		} else {
			v6 = p.Addr()
		}
	}
	return
}

// tried reports an attempt; got reports a success that must not be.
func tried(what string, err error) {
	if err == nil {
		fmt.Printf("TRIED %s: no error\n", what)
		return
	}
	fmt.Printf("TRIED %s: %v\n", what, err)
}

func got(format string, args ...any) { fmt.Printf("GOT "+format+"\n", args...) }

// dial tries a TCP connection with a control function on the socket, and
// writes the marker when it comes about.
func dial(what string, to netip.AddrPort, marker string, control func(fd int) error) {
	fam := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: as4(to.Addr())}
	if to.Addr().Is6() {
		fam = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(fam, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tried(what+" socket", err)
		return
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(int64(2 * time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	if control != nil {
		if err := control(fd); err != nil {
			tried(what+" setsockopt", err)
			return
		}
	}
	err = unix.Connect(fd, sa)
	tried(what+" connect "+to.String(), err)
	if err == nil {
		got("a connection to %v by %s", to, what)
		_, _ = unix.Write(fd, []byte(marker))
	}
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

func (t target) sinks() []netip.AddrPort {
	out := []netip.AddrPort{netip.AddrPortFrom(t.sink4, t.port)}
	if t.sink6.IsValid() && t.self6.IsValid() {
		out = append(out, netip.AddrPortFrom(t.sink6, t.port))
	}
	return out
}

func interfaces() []string {
	ifs, _ := net.Interfaces()
	var out []string
	for _, i := range ifs {
		out = append(out, i.Name)
	}
	return out
}

func connectPlain(t target) {
	for _, s := range t.sinks() {
		dial("plain", s, t.marker, nil)
	}
}

// dialAll is dial to the sinks of both families.
func (t target) dialAll(what string, control func(fd int) error) {
	for _, s := range t.sinks() {
		dial(what, s, t.marker, control)
	}
}

// plainUDP shows that this pod's packets do leave it, and that they are seen.
func plainUDP(t target) {
	for _, s := range t.sinks() {
		c, err := net.Dial("udp", s.String())
		if err == nil {
			_, err = c.Write([]byte(t.marker))
			c.Close()
		}
		tried("UDP to "+s.String(), err)
	}
}

func bindToDevice(t target) {
	for _, s := range t.sinks() {
		for _, dev := range append(interfaces(), "wire0") {
			dial("SO_BINDTODEVICE "+dev, s, t.marker, func(fd int) error { return unix.BindToDevice(fd, dev) })
		}
	}
}

func mark(t target) {
	for _, s := range t.sinks() {
		for _, m := range []int{1, 2102, 0xffff, 0x7fffffff} {
			dial(fmt.Sprintf("SO_MARK %#x", m), s, t.marker, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, m)
			})
		}
	}
}

func trim(out []byte) string { return strings.Join(strings.Fields(string(out)), " ") }
