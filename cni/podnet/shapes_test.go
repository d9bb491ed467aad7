package podnet_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/cni/podnet"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// routed is a node that routes to each pod, as Calico's do: no bridge, no
// subnet in the pod, ARP answered for everything, strict reverse path filter.
type routed struct {
	*nettest.Space
	t       *testing.T
	outside *nettest.Space
	pods    int
}

const gatewayMAC, gatewayLL = "ee:ee:ee:ee:ee:ee", "fe80::ecee:eeff:feee:eeee"

func newRouted(t *testing.T) *routed {
	n := &routed{Space: nettest.New(t, "node"), outside: nettest.New(t, "outside"), t: t}
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter"} {
		n.Sysctl(s, "1")
	}
	n.Veth("up0", n.outside, "eth0")
	n.Addr("up0", "192.0.2.1/24")
	n.Addr("up0", "2001:db8::1/64")
	n.outside.Addr("eth0", "192.0.2.2/24")
	n.outside.Addr("eth0", "2001:db8::2/64")
	n.outside.Route("eth0", "0.0.0.0/0", "192.0.2.1")
	n.outside.Route("eth0", "::/0", "2001:db8::1")
	n.Route("up0", "0.0.0.0/0", "192.0.2.2")
	n.Route("up0", "::/0", "2001:db8::2")
	return n
}

func (n *routed) pod(permanent bool, addrs ...string) (*nettest.Space, podnet.Network) {
	n.t.Helper()
	n.pods++
	p := nettest.New(n.t, fmt.Sprintf("pod%d", n.pods))
	cali := fmt.Sprintf("cali%d", n.pods)
	n.Veth(cali, p, "eth0")
	n.Down(cali)
	n.SetMAC(cali, gatewayMAC) // its link-local address follows
	n.Up(cali)
	n.Sysctl("net/ipv4/conf/"+cali+"/proxy_arp", "1")
	n.Sysctl("net/ipv4/conf/"+cali+"/rp_filter", "1")
	n.Sysctl("net/ipv4/neigh/"+cali+"/proxy_delay", "0")
	net := podnet.Network{Netns: p.Path, Uplink: filepath.Join(n.t.TempDir(), "uplink")}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		net.Addrs = append(net.Addrs, addr)
		if addr.Is4() {
			p.Addr("eth0", a+"/32")
			p.Route("eth0", "169.254.1.1/32", "")
			p.Route("eth0", "0.0.0.0/0", "169.254.1.1")
			n.Route(cali, a+"/32", "")
			if permanent {
				p.Neighbour("eth0", "169.254.1.1", gatewayMAC)
			}
		} else {
			p.Addr("eth0", a+"/128")
			p.Route("eth0", "::/0", gatewayLL)
			n.Route(cali, a+"/128", "")
			if permanent {
				p.Neighbour("eth0", gatewayLL, gatewayMAC)
			}
		}
	}
	settled(n.t, p, "eth0")
	settled(n.t, n.Space, cali)
	return p, net
}

func TestBehindARoutedHost(t *testing.T) {
	t.Parallel()
	for name, addrs := range families() {
		for _, permanent := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s permanent %v", name, permanent), func(t *testing.T) {
				t.Parallel()
				n := newRouted(t)
				p1, n1 := n.pod(permanent, addrs[0]...)
				p2, n2 := n.pod(permanent, addrs[1]...)
				plain, n3 := n.pod(permanent, third(addrs[0])...)
				u1, u2 := mesh(t, &n1), mesh(t, &n2)
				nettest.Join(t, p1, "eth0", u1, "wire0")
				nettest.Join(t, p2, "eth0", u2, "wire0")
				for i := range n1.Addrs {
					a, b, c := n1.Addrs[i], n2.Addrs[i], n3.Addrs[i]
					o := netip.MustParseAddr("192.0.2.2")
					if a.Is6() {
						o = netip.MustParseAddr("2001:db8::2")
					}
					for s, at := range map[*nettest.Space]netip.Addr{p1: a, p2: b, plain: c, n.outside: o} {
						s.Serve(netip.AddrPortFrom(at, 7000))
					}
					reach(t, "pod 1 to pod 2", p1, a, b)
					reach(t, "pod 2 to an unmeshed pod", p2, b, c)
					reach(t, "unmeshed pod to pod 1", plain, c, a)
					reach(t, "pod 1 to outside", p1, a, o)
					reach(t, "outside to pod 2", n.outside, o, b)
				}
				for _, m := range []*podnet.Network{&n1, &n2} {
					if err := m.Check(); err != nil {
						t.Errorf("check: %v", err)
					}
				}
			})
		}
	}
}

// third is another address of each family.
func third(addrs []string) (out []string) {
	for _, a := range addrs {
		x := netip.MustParseAddr(a)
		for range 5 {
			x = x.Next()
		}
		out = append(out, x.String())
	}
	return out
}

// The uplink has the pod's address, but whoever speaks to it must get the
// sidecar, and without one nobody.
func TestUplinkAnswersNobody(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.pod("10.77.0.4", "fd77::4")
	mac := p.MAC("eth0")
	linkLocal := p.Addrs("eth0")
	u := mesh(t, &m)

	short := 300 * time.Millisecond
	for _, a := range m.Addrs {
		if from, err := n.Ping(a, short); err == nil {
			t.Errorf("%s answers a ping to %s", from, a)
		}
		for _, port := range []uint16{22, 4191, 7000} {
			_, err := n.Talk("tcp", netip.AddrPortFrom(a, port), []byte("x"), short)
			if !timedOut(err) {
				t.Errorf("tcp to %s port %d: %v, not silence", a, port, err)
			}
			_, err = n.Talk("udp", netip.AddrPortFrom(a, port), []byte("x"), short)
			if !timedOut(err) {
				t.Errorf("udp to %s port %d: %v, not silence", a, port, err)
			}
		}
		// Found it must be all the same.
		if !n.Knows("br0", a.String(), mac) {
			t.Errorf("%s is not resolved to the interface's own address %s", a, mac)
		}
	}
	for _, x := range linkLocal {
		if !x.Addr().IsLinkLocalUnicast() {
			continue
		}
		a := x.Addr().WithZone("br0")
		if from, err := n.Ping(a, short); err == nil {
			t.Errorf("%s answers a ping to the interface's link-local address", from)
		}
		if n.Knows("br0", x.Addr().String(), mac) {
			t.Errorf("the link-local address %s is answered for", x.Addr())
		}
	}
	for _, everybody := range []string{"ff02::1%br0", "ff02::2%br0"} {
		if from, err := n.Ping(netip.MustParseAddr(everybody), short); err == nil && !n.owns(from) {
			t.Errorf("%s answers a ping to %s", from, everybody)
		}
	}
	for _, link := range []string{"eth0", "wire0"} {
		for _, a := range u.Addrs(link) {
			if a.Addr().IsLinkLocalUnicast() {
				t.Errorf("%s has %s in the uplink namespace", link, a)
			}
		}
	}
}

func (n *node) owns(a netip.Addr) bool {
	for _, x := range n.Addrs("br0") {
		if x.Addr() == a.WithZone("") {
			return true
		}
	}
	return false
}

func timedOut(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	if !ok {
		u, isWrapped := err.(interface{ Unwrap() error })
		return isWrapped && timedOut(u.Unwrap())
	}
	return t.Timeout()
}

func TestNothingButTheRecipe(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.pod("10.77.0.4", "fd77::4")
	host := n.Picture()
	u := mesh(t, &m)
	for name, s := range map[string]*nettest.Space{"pod": p, "uplink": u} {
		if v4, v6 := s.Rules(); v4 != 3 || v6 != 2 {
			t.Errorf("%s: %d IPv4 and %d IPv6 rules, want the default 3 and 2", name, v4, v6)
		}
		if f := s.Filters(); len(f) != 0 {
			t.Errorf("%s: packet filters %q", name, f)
		}
	}
	for link, s := range map[string]*nettest.Space{"eth0": p, "wire0": u} {
		owner, group, is := s.Owner(link)
		if !is || owner != 0 || group != 0 {
			t.Errorf("%s: TUN %v of user %d and group %d, want root's", link, is, owner, group)
		}
		if l := s.TxQueueLen(link); l != 8000 {
			t.Errorf("%s: queue of %d packets", link, l)
		}
		if q := s.Qdisc(link); q != "noqueue" {
			t.Errorf("%s: queueing discipline %q", link, q)
		}
	}
	if d := nettest.Changes(host, n.Picture()); d != "" {
		t.Errorf("the node is changed:\n%s", d)
	}
}

// A port of the node that goes down and up must not bring local delivery back.
func TestNodePortFlaps(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p1, n1 := n.pod("10.77.0.4", "fd77::4")
	u := mesh(t, &n1)
	nettest.Join(t, p1, "eth0", u, "wire0")
	n.Down("veth1")
	n.Up("veth1")
	settled(t, n.Space, "veth1")
	if err := n1.Check(); err != nil {
		t.Error(err)
	}
	n.Serve(netip.MustParseAddrPort("10.77.0.1:7000"))
	n.Serve(netip.MustParseAddrPort("[fd77::1]:7000"))
	reach(t, "IPv4", p1, n1.Addrs[0], netip.MustParseAddr("10.77.0.1"))
	reach(t, "IPv6", p1, n1.Addrs[1], netip.MustParseAddr("fd77::1"))
}

func TestMTUIsTheInterfaces(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{1280, 9000} {
		n := newNode(t)
		p, m := n.pod("10.77.0.4", "fd77::4")
		n.MTU("veth1", mtu)
		p.MTU("eth0", mtu)
		settled(t, p, "eth0")
		n.MTU("br0", mtu)
		u := mesh(t, &m)
		nettest.Join(t, p, "eth0", u, "wire0")
		if err := m.Check(); err != nil {
			t.Errorf("mtu %d: %v", mtu, err)
		}
		n.Serve(netip.MustParseAddrPort("10.77.0.1:7000"))
		if _, err := p.Talk("udp", netip.MustParseAddrPort("10.77.0.1:7000"), make([]byte, mtu-48), within); err != nil {
			t.Errorf("mtu %d: a full packet: %v", mtu, err)
		}
	}
}
