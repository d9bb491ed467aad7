package nettest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Picture describes everything that is configured in the namespace, a sorted
// line each: links, addresses, routes of all tables, rules, permanent and
// proxied neighbours, sysctls. What comes and goes by itself (learnt
// neighbours, carrier) is left out.
func (s *Space) Picture() []string {
	s.tb.Helper()
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	links, err := s.nl.LinkList()
	s.must(err, "list links")
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		say("link %s index %d kind %s mtu %d mac %s txqlen %d master %d parent %d flags %x alias %q",
			a.Name, a.Index, l.Type(), a.MTU, a.HardwareAddr, a.TxQLen, a.MasterIndex, a.ParentIndex,
			a.RawFlags&^(unix.IFF_RUNNING|unix.IFF_LOWER_UP), a.Alias)
	}
	addrs, err := s.nl.AddrList(nil, unix.AF_UNSPEC)
	s.must(err, "list addresses")
	for _, a := range addrs {
		say("addr %s dev %s label %q broadcast %s scope %d flags %x", a.IPNet, names[a.LinkIndex], a.Label, a.Broadcast, a.Scope, a.Flags)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := s.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		s.must(err, "list routes")
		for _, r := range routes {
			r.Flags &^= unix.RTNH_F_LINKDOWN
			say("route family %d %s dev %s type %d proto %d", family, r, names[r.LinkIndex], r.Type, r.Protocol)
		}
		rules, err := s.nl.RuleList(family)
		s.must(err, "list rules")
		for _, r := range rules {
			say("rule family %d %s table %d", family, r, r.Table)
		}
		for _, list := range []func(int, int) ([]netlink.Neigh, error){s.nl.NeighList, s.nl.NeighProxyList} {
			neighbours, err := list(0, family)
			s.must(err, "list neighbours")
			for _, n := range neighbours {
				if n.State&unix.NUD_PERMANENT != 0 || n.Flags&unix.NTF_PROXY != 0 {
					say("neighbour %s dev %s mac %s flags %x", n.IP, names[n.LinkIndex], n.HardwareAddr, n.Flags)
				}
			}
		}
	}
	s.must(s.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(path, "/netfilter/") {
				return nil
			}
			switch d.Name() { // what the machine has loaded, in every namespace
			case "tcp_allowed_congestion_control", "tcp_available_congestion_control":
				return nil
			}
			if v, err := os.ReadFile(path); err == nil {
				say("sysctl %s = %s", path, strings.TrimSpace(string(v)))
			}
			return nil
		})
	}), "read sysctls")
	slices.Sort(out)
	return out
}

// Rules counts the routing rules, IPv4's and IPv6's.
func (s *Space) Rules() (v4, v6 int) {
	s.tb.Helper()
	a, err := s.nl.RuleList(unix.AF_INET)
	s.must(err, "list rules")
	b, err := s.nl.RuleList(unix.AF_INET6)
	s.must(err, "list rules")
	return len(a), len(b)
}

// Changes says what one picture has that the other has not; empty when equal.
func Changes(before, after []string) string {
	var b strings.Builder
	for _, l := range before {
		if !slices.Contains(after, l) {
			fmt.Fprintf(&b, "- %s\n", l)
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			fmt.Fprintf(&b, "+ %s\n", l)
		}
	}
	return b.String()
}
