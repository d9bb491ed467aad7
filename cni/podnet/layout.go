package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// layout is how an interface shall be: applied by Setup, verified by Check.
type layout struct {
	name string
	// mac is left as it is when empty; txQueueLen when 0.
	mac             string
	mtu, txQueueLen int
	// noqueue: the device's own queue is the only one.
	noqueue bool
	sysctls []sysctl
	// addrs are assigned as host addresses, without duplicate detection.
	addrs []netip.Addr
	// undelivered: packets to addrs are routed on, not delivered here.
	undelivered bool
	routes      []Route
	neighbours  []Neighbour
	// proxies are answered for in ARP and neighbour discovery.
	proxies []netip.Addr
}

// apply makes the interface so. Done again it changes nothing.
func (d *layout) apply(s *space) error {
	l, err := s.need(d.name)
	if err != nil {
		return err
	}
	// Before the interface comes up, or it would begin to speak.
	if err := s.setSysctls(d.sysctls); err != nil {
		return err
	}
	if err := s.setAttributes(l, d.mac, d.mtu, d.txQueueLen); err != nil {
		return err
	}
	if err := s.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up in %s: %w", d.name, s.path, err)
	}
	if d.noqueue {
		q := &netlink.GenericQdisc{QdiscType: "noqueue", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT,
		}}
		if err := s.nl.QdiscReplace(q); err != nil {
			return fmt.Errorf("set the queueing discipline of %s in %s: %w", d.name, s.path, err)
		}
	}
	for _, a := range d.addrs {
		if err := d.assign(s, l, a); err != nil {
			return err
		}
	}
	for _, r := range d.routes {
		if err := s.addRoute(l, r); err != nil {
			return err
		}
	}
	for _, n := range d.neighbours {
		if err := s.setNeighbour(l, n); err != nil {
			return err
		}
	}
	for _, a := range d.proxies {
		err := s.nl.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: familyOf(a), Flags: unix.NTF_PROXY, IP: a.AsSlice()})
		if err != nil {
			return fmt.Errorf("answer for %s on %s in %s: %w", a, d.name, s.path, err)
		}
	}
	return nil
}

// assign gives the interface a host address. IPv6 enters its local route later,
// on a thread of the kernel's: deleting it before that would be in vain, and
// without it nothing is delivered.
func (d *layout) assign(s *space, l netlink.Link, a netip.Addr) error {
	x := Addr{Prefix: hostPrefix(a), Flags: unix.IFA_F_NOPREFIXROUTE}
	if a.Is6() {
		x.Flags |= unix.IFA_F_NODAD
	}
	err := s.nl.AddrAdd(l, x.netlink())
	added := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s to %s in %s: %w", a, d.name, s.path, err)
	}
	for end := time.Now().Add(settleWithin); ; time.Sleep(time.Millisecond) {
		n, err := s.entries(l, a, d.undelivered)
		switch {
		case err != nil:
			return err
		case n > 0 || !added:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("add address %s to %s in %s: the kernel has not entered it within %s", a, d.name, s.path, settleWithin)
		}
	}
}

// entries counts the local routes of an address, and deletes them or not.
func (s *space) entries(l netlink.Link, a netip.Addr, drop bool) (int, error) {
	if drop {
		return s.dropLocal(l, a)
	}
	locals, err := s.localRoutes(l, a)
	return len(locals), err
}

func (s *space) setAttributes(l netlink.Link, mac string, mtu, txQueueLen int) error {
	a := l.Attrs()
	if mac != "" && a.HardwareAddr.String() != mac {
		hw, err := net.ParseMAC(mac)
		if err == nil {
			err = s.nl.LinkSetHardwareAddr(l, hw)
		}
		if err != nil {
			return fmt.Errorf("set the address of %s in %s to %s: %w", a.Name, s.path, mac, err)
		}
	}
	if a.MTU != mtu {
		if err := s.nl.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set the mtu of %s in %s to %d: %w", a.Name, s.path, mtu, err)
		}
	}
	if txQueueLen != 0 && a.TxQLen != txQueueLen {
		if err := s.nl.LinkSetTxQLen(l, txQueueLen); err != nil {
			return fmt.Errorf("set the queue length of %s in %s to %d: %w", a.Name, s.path, txQueueLen, err)
		}
	}
	return nil
}

// verify says what is not so.
func (d *layout) verify(s *space) ([]string, error) {
	l, err := s.find(d.name)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return []string{fmt.Sprintf("there is no %s in %s", d.name, s.path)}, nil
	}
	diffs, err := s.differingSysctls(d.sysctls)
	if err != nil {
		return nil, err
	}
	a := l.Attrs()
	say := func(format string, args ...any) { diffs = append(diffs, fmt.Sprintf(format, args...)) }
	if d.mac != "" && d.mac != a.HardwareAddr.String() {
		say("its address is %s, not %s", a.HardwareAddr, d.mac)
	}
	if d.mtu != a.MTU {
		say("its mtu is %d, not %d", a.MTU, d.mtu)
	}
	if d.txQueueLen != 0 && d.txQueueLen != a.TxQLen {
		say("its queue length is %d, not %d", a.TxQLen, d.txQueueLen)
	}
	if a.Flags&net.FlagUp == 0 {
		say("it is down")
	}
	if err := d.verifyNetwork(s, l, say); err != nil {
		return nil, err
	}
	for i := range diffs {
		diffs[i] = fmt.Sprintf("%s in %s: %s", d.name, s.path, diffs[i])
	}
	return diffs, nil
}

func (d *layout) verifyNetwork(s *space, l netlink.Link, say func(string, ...any)) error {
	addrs, err := s.addrs(l)
	if err != nil {
		return err
	}
	for _, x := range addrs {
		if !slices.Contains(d.addrs, x.Prefix.Addr()) {
			say("it has the address %s", x.Prefix)
		}
	}
	for _, a := range d.addrs {
		if !slices.ContainsFunc(addrs, func(x Addr) bool { return x.Prefix == hostPrefix(a) }) {
			say("it has not the address %s", a)
		}
	}
	if d.undelivered {
		for _, a := range d.addrs {
			locals, err := s.localRoutes(l, a)
			if err != nil {
				return err
			}
			if len(locals) > 0 {
				say("%s is delivered to the uplink namespace itself", a)
			}
		}
	}
	routes, err := s.routes(l)
	if err != nil {
		return err
	}
	for _, r := range d.routes {
		if !slices.ContainsFunc(routes, r.same) {
			say("the route %s is gone", r)
		}
	}
	for _, r := range routes {
		if !slices.ContainsFunc(d.routes, r.same) {
			say("there is a route %s", r)
		}
	}
	neighbours, err := s.neighbours(l)
	if err != nil {
		return err
	}
	for _, n := range d.neighbours {
		if !slices.Contains(neighbours, n) {
			say("the neighbour %s is gone", n.IP)
		}
	}
	for _, a := range d.proxies {
		got, err := list(func() ([]netlink.Neigh, error) { return s.nl.NeighProxyList(l.Attrs().Index, familyOf(a)) })
		if err != nil {
			return fmt.Errorf("list proxied neighbours in %s: %w", s.path, err)
		}
		if !slices.ContainsFunc(got, func(n netlink.Neigh) bool { return bytes.Equal(n.IP, a.AsSlice()) }) {
			say("it does not answer for %s", a)
		}
	}
	return nil
}

// same compares what makes two routes different routes: the kernel fills in
// the rest, and changes some of it.
func (r Route) same(o Route) bool {
	return r.Dst == o.Dst && r.Gateway == o.Gateway && r.Table == o.Table && r.TOS == o.TOS && r.Priority == o.Priority
}
