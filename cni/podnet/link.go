package podnet

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link describes an interface as the chain's other plugins made it.
type Link struct {
	Name string `json:"name"`
	// MAC is empty for an interface without one.
	MAC        string      `json:"mac,omitempty"`
	MTU        int         `json:"mtu"`
	TxQueueLen int         `json:"txQueueLen"`
	Up         bool        `json:"up"`
	Addrs      []Addr      `json:"addrs"`
	Routes     []Route     `json:"routes"`
	Neighbours []Neighbour `json:"neighbours,omitempty"`
	// Sysctls are those that the kernel resets when an interface changes its
	// namespace: path below /proc/sys to value.
	Sysctls map[string]string `json:"sysctls"`
}

// Addr is a permanent address of an interface.
type Addr struct {
	Prefix    netip.Prefix `json:"prefix"`
	Peer      netip.Prefix `json:"peer,omitzero"`
	Broadcast netip.Addr   `json:"broadcast,omitzero"`
	Label     string       `json:"label,omitempty"`
	Scope     int          `json:"scope,omitempty"`
	Flags     int          `json:"flags,omitempty"`
}

// Neighbour is a permanent entry of the neighbour table.
type Neighbour struct {
	IP  netip.Addr `json:"ip"`
	MAC string     `json:"mac"`
}

// addrFlags are those that one may set; all others are the kernel's own state.
const addrFlags = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

func (l *Link) has(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addrs, func(x Addr) bool { return x.Prefix.Addr() == a })
}

// Capture describes the interface called name in the namespace at path. It
// refuses what could not be given back or would leave a way round the mesh: a
// second interface, policy routing, routes with parts unknown here.
func Capture(path, name string) (Link, error) {
	if !validName(name) {
		return Link{}, fmt.Errorf("interface name %q is not usable", name)
	}
	s, err := open(path)
	if err != nil {
		return Link{}, err
	}
	defer s.close()
	if err := s.alone(name); err != nil {
		return Link{}, err
	}
	l, err := s.need(name)
	if err != nil {
		return Link{}, err
	}
	if l.Type() == "tuntap" {
		return Link{}, fmt.Errorf("%s in %s is a TUN already: the pod's network was set up before", name, path)
	}
	return s.describe(l)
}

// alone makes sure that name is the only way out of the namespace.
func (s *space) alone(name string) error {
	links, err := list(s.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links in %s: %w", s.path, err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Name == name || a.Flags&net.FlagLoopback != 0 || slices.Contains(fallbackTunnels(), a.Name) {
			continue
		}
		return fmt.Errorf("there is a second interface, %s (%s), in %s: traffic could leave by it past the mesh", a.Name, l.Type(), s.path)
	}
	for family, known := range map[int]map[int]int{
		unix.AF_INET:  {0: unix.RT_TABLE_LOCAL, 32766: unix.RT_TABLE_MAIN, 32767: unix.RT_TABLE_DEFAULT},
		unix.AF_INET6: {0: unix.RT_TABLE_LOCAL, 32766: unix.RT_TABLE_MAIN},
	} {
		rules, err := list(func() ([]netlink.Rule, error) { return s.nl.RuleList(family) })
		if err != nil {
			return fmt.Errorf("list rules in %s: %w", s.path, err)
		}
		for _, r := range rules {
			prio := max(r.Priority, 0) // the library says -1 for the first rule's 0
			if t, ok := known[prio]; !ok || t != r.Table {
				return fmt.Errorf("there is a routing rule %d for table %d in %s: policy routing in a meshed pod is not supported", prio, r.Table, s.path)
			}
		}
	}
	return nil
}

// fallbackTunnels are devices that the kernel puts into every namespace when
// their module is loaded. They have no other road than the pod's interface.
func fallbackTunnels() []string {
	return []string{"tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6tnl0", "ip6gre0", "ip6_vti0"}
}

func (s *space) describe(l netlink.Link) (Link, error) {
	a := l.Attrs()
	d := Link{
		Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, TxQueueLen: a.TxQLen,
		Up: a.Flags&net.FlagUp != 0,
	}
	var err error
	if d.Addrs, err = s.addrs(l); err != nil {
		return Link{}, err
	}
	if d.Routes, err = s.routes(l); err != nil {
		return Link{}, err
	}
	if d.Neighbours, err = s.neighbours(l); err != nil {
		return Link{}, err
	}
	if d.Sysctls, err = s.linkSysctls(a.Name); err != nil {
		return Link{}, err
	}
	return d, nil
}

func (s *space) addrs(l netlink.Link) ([]Addr, error) {
	got, err := list(func() ([]netlink.Addr, error) { return s.nl.AddrList(l, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s in %s: %w", l.Attrs().Name, s.path, err)
	}
	out := make([]Addr, 0, len(got))
	for _, a := range got {
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			continue // learnt, and will be learnt again
		}
		p, ok := prefixOf(a.IPNet)
		if !ok {
			return nil, fmt.Errorf("address %s of %s in %s is not understood", a, l.Attrs().Name, s.path)
		}
		x := Addr{Prefix: p, Label: a.Label, Scope: a.Scope, Flags: a.Flags & addrFlags}
		x.Peer, _ = prefixOf(a.Peer)
		if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
			x.Broadcast = b.Unmap()
		}
		out = append(out, x)
	}
	return out, nil
}

func (a Addr) netlink() *netlink.Addr {
	x := &netlink.Addr{IPNet: ipNet(a.Prefix), Label: a.Label, Scope: a.Scope, Flags: a.Flags}
	if a.Peer.IsValid() {
		x.Peer = ipNet(a.Peer)
	}
	switch {
	case a.Broadcast.IsValid():
		x.Broadcast = a.Broadcast.AsSlice()
	case a.Prefix.Addr().Is4():
		x.Broadcast = net.IPv4zero // or the library makes one up
	}
	return x
}

func (s *space) neighbours(l netlink.Link) ([]Neighbour, error) {
	var out []Neighbour
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		got, err := list(func() ([]netlink.Neigh, error) { return s.nl.NeighList(l.Attrs().Index, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours of %s in %s: %w", l.Attrs().Name, s.path, err)
		}
		for _, n := range got {
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok || n.State&unix.NUD_PERMANENT == 0 || n.Flags&unix.NTF_PROXY != 0 || len(n.HardwareAddr) == 0 {
				continue
			}
			out = append(out, Neighbour{ip.Unmap(), n.HardwareAddr.String()})
		}
	}
	return out, nil
}

func (s *space) setNeighbour(l netlink.Link, n Neighbour) error {
	mac, err := net.ParseMAC(n.MAC)
	if err == nil {
		err = s.nl.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: familyOf(n.IP), State: unix.NUD_PERMANENT,
			IP: n.IP.AsSlice(), HardwareAddr: mac,
		})
	}
	if err != nil {
		return fmt.Errorf("set neighbour %s of %s in %s: %w", n.IP, l.Attrs().Name, s.path, err)
	}
	return nil
}

// equal says whether two descriptions are of the same configuration.
func (l *Link) equal(o *Link) bool {
	return l.Name == o.Name && l.MAC == o.MAC && l.MTU == o.MTU && l.TxQueueLen == o.TxQueueLen && l.Up == o.Up &&
		slices.Equal(l.Addrs, o.Addrs) && slices.Equal(l.Routes, o.Routes) &&
		slices.Equal(l.Neighbours, o.Neighbours) && maps.Equal(l.Sysctls, o.Sysctls)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || (ones == 0 && bits == 0) {
		return netip.Prefix{}, false
	}
	if a.Is4In6() && bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}

// hostPrefix is the address alone.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
