package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is a unicast route by an interface; numbers are the kernel's (RTA_*, RTAX_*).
type Route struct {
	Dst      netip.Prefix `json:"dst"`
	Gateway  netip.Addr   `json:"gateway,omitzero"`
	Source   netip.Addr   `json:"source,omitzero"`
	Table    int          `json:"table"`
	Scope    int          `json:"scope"`
	Protocol int          `json:"protocol"`
	Priority int          `json:"priority,omitempty"`
	TOS      int          `json:"tos,omitempty"`
	// OnLink: the gateway is a neighbour although no other route says so.
	OnLink   bool `json:"onLink,omitempty"`
	MTU      int  `json:"mtu,omitempty"`
	MTULock  bool `json:"mtuLock,omitempty"`
	AdvMSS   int  `json:"advMSS,omitempty"`
	HopLimit int  `json:"hopLimit,omitempty"`
	InitCwnd int  `json:"initCwnd,omitempty"`
	InitRwnd int  `json:"initRwnd,omitempty"`
}

// routes lists the routes by l, those first that others' gateways may need;
// what the kernel keeps in the local table by itself is left out.
func (s *space) routes(l netlink.Link) ([]Route, error) {
	all, err := s.rawRoutes()
	if err != nil {
		return nil, err
	}
	var out []Route
	for _, r := range all {
		if !uses(r, l.Attrs().Index) || r.Table == unix.RT_TABLE_LOCAL || r.Type == unix.RTN_MULTICAST {
			continue
		}
		x, err := routeOf(r)
		if err != nil {
			return nil, fmt.Errorf("%s in %s: %w", l.Attrs().Name, s.path, err)
		}
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b Route) int {
		if a.Gateway.IsValid() != b.Gateway.IsValid() {
			if a.Gateway.IsValid() {
				return 1
			}
			return -1
		}
		return 0
	})
	return out, nil
}

func (s *space) rawRoutes() ([]netlink.Route, error) {
	var all []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		got, err := list(func() ([]netlink.Route, error) {
			return s.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes in %s: %w", s.path, err)
		}
		for i := range got {
			got[i].Family = family
		}
		all = append(all, got...)
	}
	return all, nil
}

func uses(r netlink.Route, index int) bool {
	return r.LinkIndex == index ||
		slices.ContainsFunc(r.MultiPath, func(h *netlink.NexthopInfo) bool { return h.LinkIndex == index })
}

// routeOf refuses what it cannot keep, so that nothing is lost in silence.
func routeOf(r netlink.Route) (Route, error) {
	x := Route{
		Table: r.Table, Scope: int(r.Scope), Protocol: int(r.Protocol), Priority: r.Priority, TOS: r.Tos,
		OnLink: r.Flags&unix.RTNH_F_ONLINK != 0,
		MTU:    r.MTU, MTULock: r.MTULock, AdvMSS: r.AdvMSS, HopLimit: r.Hoplimit, InitCwnd: r.InitCwnd, InitRwnd: r.InitRwnd,
	}
	dst, ok := prefixOf(r.Dst)
	if !ok {
		dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Family == unix.AF_INET6 {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	x.Dst = dst
	x.Gateway, _ = netip.AddrFromSlice(r.Gw)
	x.Source, _ = netip.AddrFromSlice(r.Src)
	if r.Family == unix.AF_INET {
		x.Gateway, x.Source = x.Gateway.Unmap(), x.Source.Unmap()
	}

	rest := r
	if rest.Type == unix.RTN_UNICAST {
		rest.Type = 0
	}
	rest.Dst, rest.Gw, rest.Src = nil, nil, nil
	rest.LinkIndex, rest.Family, rest.Table, rest.Scope, rest.Protocol, rest.Priority, rest.Tos = 0, 0, 0, 0, 0, 0, 0
	rest.MTU, rest.MTULock, rest.AdvMSS, rest.Hoplimit, rest.InitCwnd, rest.InitRwnd = 0, false, 0, 0, 0, 0
	rest.Flags &^= unix.RTNH_F_ONLINK | unix.RTNH_F_LINKDOWN | unix.RTNH_F_DEAD | unix.RTNH_F_OFFLOAD | unix.RTNH_F_TRAP
	if !reflect.ValueOf(rest).IsZero() {
		return Route{}, fmt.Errorf("route %s has parts (several hops, encapsulation, metrics) that a meshed pod's network cannot keep", r)
	}
	return x, nil
}

func (r Route) netlink(index int) *netlink.Route {
	x := &netlink.Route{
		LinkIndex: index, Dst: ipNet(r.Dst), Table: r.Table, Scope: netlink.Scope(r.Scope),
		Protocol: netlink.RouteProtocol(r.Protocol), Priority: r.Priority, Tos: r.TOS, Type: unix.RTN_UNICAST,
		MTU: r.MTU, MTULock: r.MTULock, AdvMSS: r.AdvMSS, Hoplimit: r.HopLimit, InitCwnd: r.InitCwnd, InitRwnd: r.InitRwnd,
	}
	if r.Gateway.IsValid() {
		x.Gw = r.Gateway.AsSlice()
	}
	if r.Source.IsValid() {
		x.Src = r.Source.AsSlice()
	}
	if r.OnLink {
		x.Flags = unix.RTNH_F_ONLINK
	}
	return x
}

func (s *space) addRoute(l netlink.Link, r Route) error {
	if err := s.nl.RouteAdd(r.netlink(l.Attrs().Index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route %s by %s in %s: %w", r, l.Attrs().Name, s.path, err)
	}
	return nil
}

func (s *space) deleteRoute(l netlink.Link, r Route) error {
	if err := s.nl.RouteDel(r.netlink(l.Attrs().Index)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route %s by %s in %s: %w", r, l.Attrs().Name, s.path, err)
	}
	return nil
}

// dropLocal deletes the routes that deliver a to the namespace itself, and
// says how many there were.
func (s *space) dropLocal(l netlink.Link, a netip.Addr) (int, error) {
	locals, err := s.localRoutes(l, a)
	if err != nil {
		return 0, err
	}
	for _, r := range locals {
		if err := s.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("delete local route %s in %s: %w", r.Dst, s.path, err)
		}
	}
	return len(locals), nil
}

func (s *space) localRoutes(l netlink.Link, a netip.Addr) ([]netlink.Route, error) {
	all, err := s.rawRoutes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(r netlink.Route) bool {
		p, ok := prefixOf(r.Dst)
		return !ok || r.Type != unix.RTN_LOCAL || r.LinkIndex != l.Attrs().Index || p.Addr() != a
	}), nil
}

func (r Route) String() string {
	if r.Gateway.IsValid() {
		return fmt.Sprintf("%s via %s", r.Dst, r.Gateway)
	}
	return r.Dst.String()
}
