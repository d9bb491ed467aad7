package podnet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settleWithin bounds the wait for what the kernel does on threads of its own:
// milliseconds on an idle node, more on one that starts a hundred pods.
const settleWithin = 5 * time.Second

// moveBack undoes moveOut and whatever was done to the interface since.
func (n *Network) moveBack() error {
	p, err := open(n.Netns)
	if err != nil {
		return err
	}
	defer p.close()
	u, err := openIfThere(n.Uplink)
	if err != nil {
		return err
	}
	if u != nil {
		defer u.close()
		if err := n.giveBack(p, u); err != nil {
			return err
		}
	}
	return p.restore(&n.Link)
}

// giveBack moves the interface from U to P. Whatever P has under its name by
// then is the mesh's TUN, or an application's: it has to go.
func (n *Network) giveBack(p, u *space) error {
	l, err := u.find(n.Link.Name)
	if err != nil || l == nil {
		return err
	}
	squatter, err := p.find(n.Link.Name)
	if err != nil {
		return err
	}
	if squatter != nil {
		if err := p.remove(squatter); err != nil {
			return err
		}
	}
	if err := u.nl.LinkSetNsFd(l, int(p.ns.Fd())); err != nil {
		return fmt.Errorf("move %s from %s back to %s: %w", n.Link.Name, u.path, p.path, err)
	}
	return nil
}

// dropTUN undoes the making of the pod's TUN.
func (n *Network) dropTUN() error {
	p, err := openIfThere(n.Netns)
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	return p.dropTUN(n.Link.Name)
}

func (s *space) dropTUN(name string) error {
	l, err := s.find(name)
	if err != nil || l == nil || l.Type() != "tuntap" {
		return err
	}
	return s.remove(l)
}

// restore makes the interface as it was described; one that is so already is
// not touched. What the kernel adds by itself (the link-local address, the
// routes of an address) is awaited first, so that it is the kernel's again.
func (s *space) restore(want *Link) error {
	l, err := s.find(want.Name)
	if err != nil || l == nil || l.Type() == "tuntap" {
		return err
	}
	got, err := s.describe(l)
	if err != nil {
		return err
	}
	if got.equal(want) {
		return nil
	}
	// No duplicate detection: the addresses were found unique before.
	dad := "net/ipv6/conf/" + want.Name + "/accept_dad"
	var all []sysctl
	for _, path := range slices.Sorted(maps.Keys(want.Sysctls)) {
		c := sysctl{path, want.Sysctls[path]}
		if path == dad {
			c.value = "0"
		}
		all = append(all, c)
	}
	if err := s.setSysctls(all); err != nil {
		return err
	}
	if err := s.setAttributes(l, want.MAC, want.MTU, want.TxQueueLen); err != nil {
		return err
	}
	if want.Up {
		if err := s.nl.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up in %s: %w", want.Name, s.path, err)
		}
		s.settle(l)
	}
	for _, step := range []func(netlink.Link, *Link) error{s.restoreAddrs, s.restoreRoutes, s.restoreNeighbours} {
		if err := step(l, want); err != nil {
			return err
		}
	}
	if v, ok := want.Sysctls[dad]; ok {
		return s.setSysctls([]sysctl{{dad, v}})
	}
	return nil
}

func (s *space) restoreAddrs(l netlink.Link, want *Link) error {
	have, err := s.addrs(l)
	if err != nil {
		return err
	}
	for _, a := range have {
		if slices.Contains(want.Addrs, a) {
			continue
		}
		if err := s.nl.AddrDel(l, a.netlink()); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s of %s in %s: %w", a.Prefix, want.Name, s.path, err)
		}
	}
	for _, a := range want.Addrs {
		if slices.Contains(have, a) {
			continue
		}
		if err := s.nl.AddrAdd(l, a.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to %s in %s: %w", a.Prefix, want.Name, s.path, err)
		}
	}
	if want.Up {
		s.settle(l)
	}
	return nil
}

// restoreRoutes deletes first: a route of the kernel's making may be in the
// place of one that differs from it only in its gateway.
func (s *space) restoreRoutes(l netlink.Link, want *Link) error {
	have, err := s.routes(l)
	if err != nil {
		return err
	}
	for _, r := range have {
		if slices.Contains(want.Routes, r) {
			continue
		}
		if err := s.deleteRoute(l, r); err != nil {
			return err
		}
	}
	for _, r := range want.Routes {
		if slices.Contains(have, r) {
			continue
		}
		if err := s.addRoute(l, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *space) restoreNeighbours(l netlink.Link, want *Link) error {
	for _, n := range want.Neighbours {
		if err := s.setNeighbour(l, n); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until the interface is ready and its IPv6 addresses are: not
// tentative, and entered as local routes. Without a carrier that never happens.
func (s *space) settle(l netlink.Link) {
	for end := time.Now().Add(settleWithin); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		now, err := s.nl.LinkByIndex(l.Attrs().Index)
		if err != nil || now.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
			return
		}
		if now.Attrs().OperState != netlink.OperUp && now.Attrs().OperState != netlink.OperUnknown {
			continue
		}
		addrs, err := list(func() ([]netlink.Addr, error) { return s.nl.AddrList(l, unix.AF_INET6) })
		if err != nil || s.entered(l, addrs) {
			return
		}
	}
}

func (s *space) entered(l netlink.Link, addrs []netlink.Addr) bool {
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return false
		}
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		if locals, err := s.localRoutes(l, p.Addr()); err != nil || len(locals) == 0 {
			return false
		}
	}
	return true
}

// mismatch formats differences as one error.
func mismatch(diffs []string) error {
	if len(diffs) == 0 {
		return nil
	}
	return errors.New(strings.Join(diffs, "; "))
}
