// Package topology builds the networks that are measured: namespaces on one
// machine, with real TUNs, veths and a bridge. It knows nothing of what runs in
// them.
package topology

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// MTU of every device.
const MTU = 1500

// Net is one bridge with a server, a meshed pod, and any number of other hosts:
//
//	pod ─ eth0 (TUN) ═ wire0 ─ uplink ─ veth ┐
//	host ─────────────────────────── veth ───┼─ bridge
//	server ───────────────────────── veth ───┘
//
// The pod and its uplink are as cni/podnet makes them, less what only other
// pods need.
type Net struct {
	Pod, Uplink, Server *nettest.Space
	PodAddr, ServerAddr netip.Addr
	// AppFD and WireFD are the TUNs' queues, which a peer inherits.
	AppFD, WireFD int

	tb     nettest.TB
	bridge *nettest.Space
	hosts  int
}

// New builds a Net that ends with tb.
func New(tb nettest.TB) *Net {
	n := &Net{
		Pod: nettest.New(tb, "pod"), PodAddr: netip.MustParseAddr("10.77.0.4"),
		tb: tb, bridge: nettest.New(tb, "bridge"),
	}
	bridge := n.bridge
	bridge.Bridge("br0")
	// Where br_netfilter is loaded, it would take every frame through hooks that
	// nobody uses.
	for _, f := range []string{"iptables", "ip6tables", "arptables"} {
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-" + f); err == nil {
			bridge.Sysctl("net/bridge/bridge-nf-call-"+f, "0")
		}
	}
	n.Server, n.ServerAddr = n.Host()
	n.Uplink, _ = n.Host()
	n.Uplink.Sysctl("net/ipv4/ip_forward", "1")
	for _, conf := range []string{"all", "default", "eth0"} {
		n.Uplink.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
	}
	n.Server.Neighbour("eth0", n.PodAddr.String(), n.Uplink.MAC("eth0"))

	n.AppFD = n.Pod.MakeTUN("eth0", MTU, 1)[0]
	n.WireFD = n.Uplink.MakeTUN("wire0", MTU, 1)[0]
	n.Uplink.Sysctl("net/ipv4/conf/wire0/rp_filter", "0")
	n.Uplink.Route("wire0", n.PodAddr.String()+"/32", "")
	n.Pod.Addr("eth0", n.PodAddr.String()+"/32")
	n.Pod.Route("eth0", "0.0.0.0/0", "")
	manyPorts(n.Pod)
	return n
}

// Host adds a host to the bridge.
func (n *Net) Host() (*nettest.Space, netip.Addr) {
	n.hosts++
	name := fmt.Sprintf("host%d", n.hosts)
	s, addr := nettest.New(n.tb, name), netip.AddrFrom4([4]byte{10, 77, 0, byte(9 + n.hosts)})
	s.Veth("eth0", n.bridge, name)
	n.bridge.Attach(name, "br0")
	s.Addr("eth0", addr.String()+"/24")
	manyPorts(s)
	return s, addr
}

// manyPorts lets a client make connections for as long as it likes: without,
// the ports in TIME_WAIT run out within seconds and connect searches for one.
func manyPorts(s *nettest.Space) {
	s.Sysctl("net/ipv4/ip_local_port_range", "1024 65535")
	s.Sysctl("net/ipv4/tcp_tw_reuse", "1")
}

// RPS spreads the TUNs' receive processing over all of cpus CPUs, or none.
func (n *Net) RPS(cpus int) {
	mask := "0"
	if cpus > 0 {
		mask = map[bool]string{true: "3", false: "f"}[cpus <= 2]
	}
	n.Pod.RPS("eth0", mask)
	n.Uplink.RPS("wire0", mask)
}

// Dropped is how many packets the TUNs' rings had no room for.
func (n *Net) Dropped() uint64 { return n.Pod.TxDropped("eth0") + n.Uplink.TxDropped("wire0") }
