package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// WireDevice is the TUN in the uplink namespace.
const WireDevice = "wire0"

// TxQueueLen of both TUNs, in packets: with 1,000 packets were lost from some
// 500 busy connections on, with 8,000 none up to 1,024.
const TxQueueLen = 8000

// Network is a pod's network: what Setup makes and Teardown removes. It is
// plain data, written to the state file.
type Network struct {
	// Netns and Uplink are the paths of P and U. Uplink is made by Setup.
	Netns  string `json:"netns"`
	Uplink string `json:"uplink"`
	// NetnsID identifies P: paths are used again, and so are inode numbers, but
	// hardly both at once.
	NetnsID ID `json:"netnsID"`
	// Addrs are the pod's addresses, each on the interface.
	Addrs []netip.Addr `json:"addrs"`
	// Link is the interface as it was found in P.
	Link Link `json:"link"`
}

// ID is the identity of a namespace.
type ID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// Validate says whether the network can be set up; what it refuses could not
// be set up whole.
func (n *Network) Validate() error {
	switch {
	case n.Netns == "" || n.Uplink == "":
		return errors.New("both namespaces are needed")
	case !validName(n.Link.Name):
		return fmt.Errorf("interface name %q is not usable", n.Link.Name)
	case n.Link.Name == WireDevice:
		return fmt.Errorf("the pod's interface is called %s, which is the name of the uplink's TUN: choose another CNI_IFNAME", WireDevice)
	case len(n.Addrs) == 0:
		return errors.New("the pod has no address")
	}
	for _, a := range n.Addrs {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() {
			return fmt.Errorf("%s is no address for a pod", a)
		}
		if !n.Link.has(a) {
			return fmt.Errorf("%s is not on %s in %s", a, n.Link.Name, n.Netns)
		}
		if a.Is6() && n.Link.MTU < 1280 {
			return fmt.Errorf("mtu %d of %s is below 1280, the least for IPv6", n.Link.MTU, n.Link.Name)
		}
	}
	if n.Link.MTU < 576 {
		return fmt.Errorf("mtu %d of %s is below 576", n.Link.MTU, n.Link.Name)
	}
	return nil
}

func (n *Network) family(v6 bool) bool {
	for _, a := range n.Addrs {
		if a.Is6() == v6 {
			return true
		}
	}
	return false
}

// validName follows dev_valid_name of the kernel.
func validName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) < 16 && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00")
}

// Setup makes the network, entering every step in the journal; when it fails
// the caller undoes the journal. Done twice it changes nothing the second time.
func (n *Network) Setup(j *Journal) error {
	if err := n.Validate(); err != nil {
		return err
	}
	p, err := open(n.Netns)
	if err != nil {
		return err
	}
	defer p.close()

	remove := func() error { return removeSpace(n.Uplink) }
	if err := j.Do("make the uplink namespace", func() error { return makeSpace(n.Uplink) }, remove); err != nil {
		return err
	}
	u, err := open(n.Uplink)
	if err != nil {
		return err
	}
	defer u.close()

	// Undoing opens its own handles: by then those here are closed.
	steps := []struct {
		name     string
		do, undo func() error
	}{
		{"quieten the uplink namespace", func() error { return n.quieten(u) }, nil},
		{"move the interface to the uplink namespace", func() error { return n.moveOut(p, u) }, n.moveBack},
		{"configure the interface", func() error { return n.uplink(u).apply(u) }, nil},
		{"make " + WireDevice, func() error { return makeTUN(u, WireDevice) }, nil},
		{"configure " + WireDevice, func() error { return n.wire().apply(u) }, nil},
		{"make the pod's TUN", func() error { return makeTUN(p, n.Link.Name) }, n.dropTUN},
		{"configure the pod's TUN", func() error { return n.pod(p.hasIPv6()).apply(p) }, nil},
	}
	for _, s := range steps {
		if err := j.Do(s.name, s.do, s.undo); err != nil {
			return err
		}
	}
	return nil
}
