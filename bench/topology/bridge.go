package topology

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// Bridge joins hosts and meshed pods:
//
//	pod ─ eth0 (TUN) ═ wire0 ─ uplink ─ veth ┐
//	host ─────────────────────────── veth ───┼─ bridge
type Bridge struct {
	// Space is where the bridge itself is: every frame passes there.
	Space *nettest.Space

	tb    nettest.TB
	hosts int
}

// Pod is a pod whose only road is between its TUN and its uplink's. Both are as
// cni/podnet makes them, less what only other pods need.
type Pod struct {
	Space, Uplink *nettest.Space
	Addr          netip.Addr
	// AppFD and WireFD are the TUNs' queues, which a sidecar inherits.
	AppFD, WireFD int
}

// NewBridge makes a bridge that ends with tb.
func NewBridge(tb nettest.TB) *Bridge {
	allowCubic(tb)
	b := &Bridge{Space: nettest.New(tb, "bridge"), tb: tb}
	b.Space.Bridge("br0")
	// Where br_netfilter is loaded, it would take every frame through hooks that
	// nobody uses.
	for _, f := range []string{"iptables", "ip6tables", "arptables"} {
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-" + f); err == nil {
			b.Space.Sysctl("net/bridge/bridge-nf-call-"+f, "0")
		}
	}
	return b
}

// Networks is where all addresses of a Bridge are.
func Networks() netip.Prefix { return netip.MustParsePrefix("10.77.0.0/24") }

func (b *Bridge) address() netip.Addr {
	b.hosts++
	return netip.AddrFrom4([4]byte{10, 77, 0, byte(9 + b.hosts)})
}

// Host adds a host to the bridge.
func (b *Bridge) Host() (*nettest.Space, netip.Addr) {
	addr := b.address()
	name := fmt.Sprintf("host%d", b.hosts)
	s := nettest.New(b.tb, name)
	s.Veth("eth0", b.Space, name)
	b.Space.Attach(name, "br0")
	s.Addr("eth0", addr.String()+"/24")
	tune(s)
	return s, addr
}

// Pod adds a meshed pod. Who is to reach it must be told with Meet.
func (b *Bridge) Pod() *Pod {
	p := &Pod{Space: nettest.New(b.tb, "pod")}
	p.Uplink, _ = b.Host()
	p.Addr = b.address()
	p.Uplink.Sysctl("net/ipv4/ip_forward", "1")
	for _, conf := range []string{"all", "default", "eth0"} {
		p.Uplink.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
	}
	p.AppFD = p.Space.MakeTUN("eth0", MTU, 1)[0]
	p.WireFD = p.Uplink.MakeTUN("wire0", MTU, 1)[0]
	p.Uplink.Sysctl("net/ipv4/conf/wire0/rp_filter", "0")
	p.Uplink.Route("wire0", p.Addr.String()+"/32", "")
	p.Space.Addr("eth0", p.Addr.String()+"/32")
	p.Space.Route("eth0", "0.0.0.0/0", "")
	tune(p.Space)
	return p
}

// Meet tells a namespace on the bridge where a pod is.
func (b *Bridge) Meet(s *nettest.Space, p *Pod) {
	s.Neighbour("eth0", p.Addr.String(), p.Uplink.MAC("eth0"))
}

// tune sets what every namespace has: cubic, for some machines default to bbr,
// whose pacing changes the figures; and ports for as many connections as a
// client likes: without, those in TIME_WAIT run out within seconds and connect
// searches for one.
func tune(s *nettest.Space) {
	s.Sysctl("net/ipv4/tcp_congestion_control", "cubic")
	s.Sysctl("net/ipv4/ip_local_port_range", "1024 65535")
	s.Sysctl("net/ipv4/tcp_tw_reuse", "1")
}

// allowCubic lets namespaces choose cubic, as long as tb lasts: where it is not
// the machine's default, only the first namespace may.
func allowCubic(tb nettest.TB) {
	const path = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
	before, err := os.ReadFile(path)
	if err != nil || slices.Contains(strings.Fields(string(before)), "cubic") {
		return
	}
	if err := os.WriteFile(path, append(bytes.TrimSpace(before), " cubic"...), 0); err != nil {
		tb.Fatalf("let namespaces use cubic: %v", err)
	}
	tb.Cleanup(func() { _ = os.WriteFile(path, before, 0) })
}
