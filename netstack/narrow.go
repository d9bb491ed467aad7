package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// safeMTU passes everywhere in IPv6, and nearly everywhere in IPv4.
const safeMTU = 1280

// stalled hears of a segment on the wire that nobody acknowledges. If it is a
// large one, a router on its path may be dropping it without a word, or with one
// that a firewall ate: then smaller ones pass (RFC 4821's black hole). If the
// peer is gone instead, smaller segments cost nothing.
//
// It is called with the endpoint's lock held.
func (l *loop) stalled(pkt *stack.PacketBuffer) {
	size := pkt.Data().Size()
	if mss := int(pkt.GSOOptions.MSS); mss > 0 {
		size = min(size, mss)
	}
	if pkt.HeaderSize()+size <= safeMTU {
		return
	}
	var local, remote tcpip.Address
	if ip := pkt.NetworkHeader().Slice(); pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		local, remote = header.IPv4(ip).SourceAddress(), header.IPv4(ip).DestinationAddress()
	} else {
		local, remote = header.IPv6(ip).SourceAddress(), header.IPv6(ip).DestinationAddress()
	}
	th := header.TCP(pkt.TransportHeader().Slice())
	k := keyOf(addrPort(remote, th.DestinationPort()), addrPort(local, th.SourcePort()))
	l.soon(func() {
		if c := l.flows[aio.Wire][k]; c != nil && !c.over() {
			l.counters[aio.Wire].narrowed.Add(1)
			c.icmp(packet.ICMPError{Kind: packet.ICMPTooBig, MTU: safeMTU})
		}
	})
}
