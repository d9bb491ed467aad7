package podnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// quieten makes the uplink namespace a mere forwarder. A new namespace takes
// the node's IPv4 settings over, so nothing is left to defaults; what holds for
// "default" is what interfaces begin their life there with.
func (n *Network) quieten(u *space) error {
	lo, err := u.need("lo")
	if err != nil {
		return err
	}
	if err := u.setSysctls(n.quiet(u.hasIPv6())); err != nil {
		return err
	}
	// Without lo the kernel takes every neighbour for one that needs no ARP.
	if err := u.nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up in %s: %w", u.path, err)
	}
	return nil
}

func (n *Network) quiet(hasIPv6 bool) []sysctl {
	// Forwarding first: switching it resets others.
	all := []sysctl{
		{"net/ipv4/ip_forward", flag(n.family(false))},
		{"net/ipv4/icmp_echo_ignore_all", "1"},
	}
	for _, who := range []string{"all", "default"} {
		for _, key := range []string{
			"rp_filter", "send_redirects", "accept_redirects", "accept_source_route", "accept_local", "route_localnet",
			"proxy_arp", "arp_ignore", "arp_announce", "arp_filter", "arp_accept", "arp_notify", "ignore_routes_with_linkdown",
		} {
			all = append(all, sysctl{"net/ipv4/conf/" + who + "/" + key, "0"})
		}
	}
	if !hasIPv6 {
		return all
	}
	if !n.family(true) {
		return append(all, sysctl{"net/ipv6/conf/all/disable_ipv6", "1"}, sysctl{"net/ipv6/conf/default/disable_ipv6", "1"})
	}
	all = append(all,
		sysctl{"net/ipv6/conf/all/disable_ipv6", "0"}, sysctl{"net/ipv6/conf/all/forwarding", "1"},
		// Forwarding hands advertisements for a proxied address to U's own
		// neighbour discovery only where "all" says so; the interface's is not asked.
		sysctl{"net/ipv6/conf/all/proxy_ndp", "1"},
		// An address of its own would be asked by all-nodes pings.
		sysctl{"net/ipv6/icmp/echo_ignore_all", "1"},
		sysctl{"net/ipv6/icmp/echo_ignore_multicast", "1"}, sysctl{"net/ipv6/icmp/echo_ignore_anycast", "1"},
		sysctl{"net/ipv6/conf/all/accept_redirects", "0"}, sysctl{"net/ipv6/conf/all/accept_source_route", "0"},
	)
	return append(all, silentIPv6("default", true)...)
}

// silentIPv6 keeps an interface from having addresses of its own making.
func silentIPv6(who string, enable bool) []sysctl {
	var all []sysctl
	if enable {
		all = append(all, sysctl{"net/ipv6/conf/" + who + "/disable_ipv6", "0"})
	}
	for _, c := range []sysctl{
		{"addr_gen_mode", "1"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"accept_ra", "0"},
		{"autoconf", "0"}, {"router_solicitations", "0"}, {"accept_redirects", "0"}, {"accept_source_route", "0"},
	} {
		all = append(all, sysctl{"net/ipv6/conf/" + who + "/" + c.path, c.value})
	}
	return all
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// moveOut moves the interface from P to U, where it keeps its name.
func (n *Network) moveOut(p, u *space) error {
	there, err := u.find(n.Link.Name)
	if err != nil || there != nil {
		return err
	}
	l, err := p.need(n.Link.Name)
	if err != nil {
		return err
	}
	if l.Type() == "tuntap" {
		return fmt.Errorf("%s in %s is a TUN, and the interface is not in %s", n.Link.Name, p.path, u.path)
	}
	if err := p.nl.LinkSetNsFd(l, int(u.ns.Fd())); err != nil {
		return fmt.Errorf("move %s from %s to %s: %w", n.Link.Name, p.path, u.path, err)
	}
	return nil
}

// uplink is the interface in U. It has the pod's address, so that ARP requests
// and neighbour solicitations carry a source that is answered; packets to that
// address are not delivered here but routed to wire0; who asks for it is
// answered by proxy: in ARP for whatever is routed to wire0, which nothing but
// the pod's address is, in neighbour discovery by an entry. Entries are lost
// with the carrier (a node's port that goes down and up) unless the kernel,
// since 5.17, is told otherwise.
func (n *Network) uplink(u *space) *layout {
	name := n.Link.Name
	d := &layout{
		name: name, mac: n.Link.MAC, mtu: n.Link.MTU, txQueueLen: n.Link.TxQueueLen,
		addrs: n.Addrs, undelivered: true,
		sysctls: []sysctl{
			{"net/ipv4/conf/" + name + "/rp_filter", "0"}, {"net/ipv4/conf/" + name + "/send_redirects", "0"},
			{"net/ipv4/conf/" + name + "/proxy_arp", flag(n.family(false))}, {"net/ipv4/neigh/" + name + "/proxy_delay", "0"},
		},
	}
	if n.family(true) {
		d.sysctls = append(d.sysctls, silentIPv6(name, true)...)
		d.sysctls = append(d.sysctls, sysctl{"net/ipv6/conf/" + name + "/proxy_ndp", "1"}, sysctl{"net/ipv6/neigh/" + name + "/proxy_delay", "0"})
		if keep := "net/ipv6/conf/" + name + "/ndisc_evict_nocarrier"; u.hasSysctl(keep) {
			d.sysctls = append(d.sysctls, sysctl{keep, "0"})
		}
	}
	for _, a := range n.Addrs {
		if a.Is6() {
			d.proxies = append(d.proxies, a)
		}
	}
	for _, x := range n.Link.Neighbours {
		if n.family(x.IP.Is6()) {
			d.neighbours = append(d.neighbours, x)
		}
	}
	for _, r := range n.Link.Routes {
		switch {
		case slices.Contains(n.Addrs, r.Dst.Addr()) && r.Dst.IsSingleIP():
			continue // the kernel's own for a host address
		case r.Dst.Addr().IsLinkLocalUnicast() && r.Dst.Addr().Is6() && !r.Gateway.IsValid():
			continue // its link-local address did not come along
		case !n.family(r.Dst.Addr().Is6()):
			continue
		}
		r.Source = netip.Addr{}
		if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA {
			r.Protocol = unix.RTPROT_STATIC
		}
		d.routes = append(d.routes, r)
	}
	return d
}

// wire is the TUN in U.
func (n *Network) wire() *layout {
	d := &layout{
		name: WireDevice, mtu: n.Link.MTU, txQueueLen: TxQueueLen, noqueue: true,
		// accept_local: the pod's packets have a source that U has as well.
		sysctls: []sysctl{
			{"net/ipv4/conf/" + WireDevice + "/rp_filter", "0"}, {"net/ipv4/conf/" + WireDevice + "/send_redirects", "0"},
			{"net/ipv4/conf/" + WireDevice + "/accept_local", "1"},
		},
	}
	if n.family(true) {
		d.sysctls = append(d.sysctls, silentIPv6(WireDevice, true)...)
	}
	for _, a := range n.Addrs {
		d.routes = append(d.routes, linkRoute(hostPrefix(a)))
	}
	return d
}

// pod is the TUN in P, all that an application sees.
func (n *Network) pod(hasIPv6 bool) *layout {
	d := &layout{
		name: n.Link.Name, mtu: n.Link.MTU, txQueueLen: TxQueueLen, noqueue: true, addrs: n.Addrs,
	}
	if hasIPv6 {
		d.sysctls = silentIPv6(n.Link.Name, n.family(true))
	}
	if n.family(false) {
		d.routes = append(d.routes, linkRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0)))
	}
	if n.family(true) {
		d.routes = append(d.routes, linkRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
	}
	return d
}

func linkRoute(dst netip.Prefix) Route {
	r := Route{Dst: dst, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC}
	if dst.Addr().Is4() {
		r.Scope = unix.RT_SCOPE_LINK
	} else {
		r.Priority = 1024 // what the kernel makes of 0
	}
	return r
}

func (id ID) String() string {
	return strconv.FormatUint(id.Dev, 10) + ":" + strconv.FormatUint(id.Ino, 10)
}
