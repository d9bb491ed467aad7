// Package topology builds the networks that are measured: namespaces on one
// machine, with real TUNs, veths and a bridge. It knows nothing of what runs in
// them.
package topology

import (
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// MTU of every device.
const MTU = 1500

// Net is one bridge with a server, a meshed pod, and any number of other hosts.
type Net struct {
	Bridge     *Bridge
	Pod        *Pod
	Server     *nettest.Space
	ServerAddr netip.Addr
}

// New builds a Net that ends with tb.
func New(tb nettest.TB) *Net {
	n := &Net{Bridge: NewBridge(tb)}
	n.Server, n.ServerAddr = n.Bridge.Host()
	n.Pod = n.Bridge.Pod()
	n.Bridge.Meet(n.Server, n.Pod)
	return n
}

// RPS spreads the TUNs' receive processing over all of cpus CPUs, or none.
func (p *Pod) RPS(cpus int) {
	mask := "0"
	if cpus > 0 {
		mask = map[bool]string{true: "3", false: "f"}[cpus <= 2]
	}
	p.Space.RPS("eth0", mask)
	p.Uplink.RPS("wire0", mask)
}

// Dropped is how many packets the TUNs' rings had no room for.
func (p *Pod) Dropped() uint64 { return p.Space.TxDropped("eth0") + p.Uplink.TxDropped("wire0") }
