package netstack

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/link"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// input handles the packet that the side's link holds. mine says that another
// loop read it and knows that it belongs here.
//
// The first look is for what nearly every packet is: a whole TCP segment,
// without options or extension headers, of a connection in the table. A
// connection's addresses were judged when it was made, so nothing else is asked.
func (l *loop) input(side aio.Side, mine bool) {
	ln := l.links[side]
	b := ln.Head()
	if len(b) >= 40 && b[0] == 0x45 && b[9] == packet.ProtoTCP && b[6]&0x3f == 0 && b[7] == 0 {
		if c := l.flows[side][key4(b)]; c != nil && !c.over() {
			l.segment(c, ln, 20, int(binary.BigEndian.Uint16(b[2:])))
			return
		}
	} else if len(b) >= 60 && b[0]>>4 == 6 && b[6] == packet.ProtoTCP {
		if c := l.flows[side][key6(b)]; c != nil && !c.over() {
			l.segment(c, ln, 40, 40+int(binary.BigEndian.Uint16(b[4:])))
			return
		}
	}
	l.classify(side, mine)
}

// segment hands a TCP segment to its connection.
func (l *loop) segment(c *conn, ln *link.Link, netLen, total int) {
	thLen, why := l.checkTCP(ln, netLen, total)
	if why != packet.NoReason {
		l.drop(c.side, why)
		return
	}
	pkt := l.take(c.side, ln, netLen, thLen, total)
	if total > netLen+thLen && !c.shaking && c.crowds() {
		l.core.tcp.bareAck(c.ep, c.id, pkt) // what it says of our bytes counts
	} else if c.crowd < crowdLimit && l.core.tcp.data(c.ep, c.id, pkt) {
		c.crowd++
		l.owe(c, total-netLen-thLen)
	} else if c.shaking && l.core.tcp.forged(c.ep, c.flow.ISS, pkt) {
		l.refuseStray(c.side, c.id, pkt)
	} else {
		l.core.tcp.segment(c.ep, c.id, pkt)
	}
	pkt.DecRef()
	c.account()
	if c.over() {
		c.enqueue()
	}
}

// crowdLimit is how many segments of a connection are taken without gVisor's
// look at the memory they hold; reading everything resets it.
const crowdLimit = 64

// owe notes that n received bytes wait for their ACK.
func (l *loop) owe(c *conn, n int) {
	if c.flow.Owe(n); c.flow.Due >= link.HoldBytes {
		c.payAck()
		return
	}
	if !c.owing {
		c.owing, c.owedAt = true, l.clock.now
		l.owed = append(l.owed, c)
	}
}

// payAck sends the ACK that is owed, unless a packet carried it meanwhile.
func (c *conn) payAck() {
	if c.flow.Due > 0 && !c.over() {
		c.flow.Through = true
		c.l.core.tcp.ack(c.ep)
	}
	c.flow.Due, c.flow.Through = 0, false
}

// payAcks sends the ACKs that were owed long enough; with parking, all but
// those of connections that have patience.
func (l *loop) payAcks(parking bool) {
	if len(l.owed) == 0 {
		return
	}
	kept := l.owed[:0]
	for _, c := range l.owed {
		if c.flow.Due > 0 && l.clock.now-c.owedAt < link.HoldTime && (!parking || c.flow.Patient()) {
			kept = append(kept, c)
			continue
		}
		c.payAck()
		c.owing = false
	}
	clear(l.owed[len(kept):])
	l.owed = kept
}

// checkTCP looks at the lengths and the checksum of a segment and returns the
// length of its header.
func (l *loop) checkTCP(ln *link.Link, netLen, total int) (thLen int, why packet.Reason) {
	b := ln.Head()
	if total > ln.Size() || netLen+20 > total || netLen+20 > len(b) {
		return 0, packet.Malformed
	}
	thLen = int(b[netLen+12]>>4) * 4
	if thLen < 20 || netLen+thLen > total || netLen+thLen > len(b) {
		return 0, packet.Malformed
	}
	if !ln.ValidTCP(netLen, total) {
		return 0, packet.BadChecksum
	}
	return thLen, packet.NoReason
}

// take makes the link's packet one that TCP reads: headers consumed.
func (l *loop) take(side aio.Side, ln *link.Link, netLen, thLen, total int) *stack.PacketBuffer {
	pkt := ln.Take(total)
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if ln.Head()[0]>>4 == 6 {
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.NICID = nicOf(side)
	pkt.RXChecksumValidated = true
	pkt.NetworkHeader().Consume(netLen)
	pkt.TransportHeader().Consume(thLen)
	return pkt
}

// newPacket makes a packet of b, which it copies, with like's metadata.
func newPacket(like *stack.PacketBuffer, b []byte, netLen, thLen int) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	pkt.NetworkProtocolNumber = like.NetworkProtocolNumber
	pkt.TransportProtocolNumber = like.TransportProtocolNumber
	pkt.NICID = like.NICID
	pkt.RXChecksumValidated = true
	pkt.NetworkHeader().Consume(netLen)
	pkt.TransportHeader().Consume(thLen)
	return pkt
}

// classify decides about everything else.
func (l *loop) classify(side aio.Side, mine bool) {
	ln := l.links[side]
	action, why, in := l.s.rules.Classify(side, ln.Head(), ln.Size())
	switch action {
	case packet.Drop:
		l.drop(side, why)
	case packet.Forward:
		if in.Proto == packet.ProtoUDP && in.First && l.s.cfg.OnUDP != nil {
			l.datagram(side, in)
		}
		l.forward(side, in.Proto)
	case packet.Error:
		l.icmpError(side, in, mine)
	case packet.Stack:
		if in.Fragment {
			l.fragment(side, in)
			return
		}
		l.stray(side, in, mine)
	}
}

// datagram shows a UDP packet to whoever watches; of one in pieces, the first.
func (l *loop) datagram(side aio.Side, in packet.Info) {
	b := l.links[side].Head()
	if len(b) < in.NetLen+8 {
		return
	}
	u := b[in.NetLen:]
	src := netip.AddrPortFrom(in.Src, binary.BigEndian.Uint16(u))
	dst := netip.AddrPortFrom(in.Dst, binary.BigEndian.Uint16(u[2:]))
	l.s.cfg.OnUDP(side, src, dst, in.Total, u[8:max(8, min(len(u), in.Total-in.NetLen))])
}

// forward passes a packet to the other side as it is.
func (l *loop) forward(side aio.Side, proto uint8) {
	if err := l.links[side].Forward(l.links[1-side]); err != nil {
		l.drop(side, packet.WriteFailed)
		return
	}
	switch c := &l.counters[side]; proto {
	case packet.ProtoUDP:
		c.udp.Add(1)
	case packet.ProtoICMP, packet.ProtoICMPv6:
		c.icmp.Add(1)
	default:
		c.other.Add(1)
	}
}

// fragment gives a piece of a TCP segment to gVisor's reassembly; the whole
// comes back through inlineTCP.QueuePacket or unknownTCP.
func (l *loop) fragment(side aio.Side, in packet.Info) {
	ln := l.links[side]
	pkt := ln.Take(in.Total)
	proto := header.IPv4ProtocolNumber
	if in.V6 {
		proto = header.IPv6ProtocolNumber
	}
	l.counters[side].fragments.Add(1)
	ln.Dispatcher().DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// stray handles a segment of no connection that the first look found.
func (l *loop) stray(side aio.Side, in packet.Info, mine bool) {
	ln := l.links[side]
	key, ok := packet.TCPKey(side, in, ln.Head())
	if !ok {
		l.drop(side, packet.Malformed)
		return
	}
	k := keyOf(key.Remote, key.Local)
	if c := l.flows[side][k]; c != nil {
		if !c.over() {
			l.segment(c, ln, in.NetLen, in.Total) // behind options or extension headers
			return
		}
		c.forget() // its end is known to TCP already; the tuple is free again
	}
	if l.handOver(side, k, mine) {
		return
	}
	if l.surges[side].full() && begins(ln.Head(), in.NetLen) && l.pending[side][k] == nil && l.doorOf(side, key.Local) != &l.doors[reserved] {
		l.sheds(side) // before it costs what other segments do
		return
	}
	thLen, why := l.checkTCP(ln, in.NetLen, in.Total)
	if why != packet.NoReason {
		l.drop(side, why)
		return
	}
	pkt := l.take(side, ln, in.NetLen, thLen, in.Total)
	l.unknown(side, key, pkt)
	pkt.DecRef()
}

// begins reports whether a segment, whose header is at l4, asks for a connection.
func begins(head []byte, l4 int) bool {
	return len(head) > l4+13 && header.TCPFlags(head[l4+13])&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagFin|header.TCPFlagRst) == header.TCPFlagSyn
}

// unknown handles a segment that has no connection: a SYN begins one, anything
// else is answered with RST on the side it came from. It borrows pkt.
func (l *loop) unknown(side aio.Side, key packet.Key, pkt *stack.PacketBuffer) {
	switch f := header.TCP(pkt.TransportHeader().Slice()).Flags(); {
	case f&header.TCPFlagRst != 0:
		l.drop(side, packet.ResetIgnored)
	case f&header.TCPFlagSyn != 0 && f&(header.TCPFlagAck|header.TCPFlagFin) == 0:
		l.syn(side, key, pkt)
	case f&header.TCPFlagSyn != 0 && f&header.TCPFlagFin != 0:
		l.drop(side, packet.Malformed)
	default:
		l.refuseStray(side, endpointID(key.Remote, key.Local), pkt)
	}
}

// refuseStray answers a segment with RST, within the rate.
func (l *loop) refuseStray(side aio.Side, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	if header.TCP(pkt.TransportHeader().Slice()).Flags()&header.TCPFlagRst != 0 {
		l.drop(side, packet.ResetIgnored)
		return
	}
	if !l.resets[side].take(l.clock.now) {
		l.drop(side, packet.ResetLimit)
		return
	}
	l.counters[side].resets.Add(1)
	l.core.reset(id, pkt)
}

// forgedAck refuses a reassembled segment that would complete a handshake
// without knowing the SYN-ACK, and reports whether it was one.
func (l *loop) forgedAck(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	side := sideOf(pkt.NICID)
	c := l.flows[side][keyOf(addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort))]
	if c == nil || !c.shaking || !l.core.tcp.forged(c.ep, c.flow.ISS, pkt) {
		return false
	}
	l.refuseStray(side, id, pkt)
	return true
}

// unknownTCP is gVisor's handler for a segment, put together from fragments,
// that has no connection.
func (l *loop) unknownTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	side := sideOf(pkt.NICID)
	l.unknown(side, packet.Key{
		Side:   side,
		Remote: addrPort(id.RemoteAddress, id.RemotePort),
		Local:  addrPort(id.LocalAddress, id.LocalPort),
	}, pkt)
	return true
}

// handOver gives the packet to the loop that has its flow, if that is another.
func (l *loop) handOver(side aio.Side, k flowKey, mine bool) bool {
	owner := l.s.flows.owner(side, k)
	if owner == nil || owner == l || mine {
		return false
	}
	ln := l.links[side]
	if !owner.give(foreign{side, ln.Header(), ln.Copy()}) {
		l.drop(side, packet.InboxLimit)
	}
	return true
}

// icmpError hands an ICMP error about a TCP segment to the connection that sent
// it. The app's own TCP never reaches the wire, so an error about any other
// connection cannot be true.
func (l *loop) icmpError(side aio.Side, in packet.Info, mine bool) {
	e, ok := packet.ReadICMP(in, l.links[side].Head())
	if !ok {
		l.drop(side, packet.ICMPInvalid)
		return
	}
	k := keyOf(e.Remote, e.Local)
	c := l.flows[side][k]
	switch {
	case c != nil && !c.over():
		c.icmp(e)
	case !l.handOver(side, k, mine):
		l.drop(side, packet.ICMPUnowned)
	}
}

func (l *loop) drop(side aio.Side, why packet.Reason) { l.counters[side].drops[why].Add(1) }

// Resets for segments of unknown flows: enough for every connection that a
// restarted sidecar has lost, too few to be worth reflecting.
const (
	resetRate  = 1000 // per second
	resetBurst = 4096
)

// bucket is a token bucket of resets.
type bucket struct {
	used int
	at   time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	if back := int((now - b.at) * resetRate / time.Second); back > 0 {
		b.used, b.at = max(b.used-back, 0), now
	}
	if b.used >= resetBurst {
		return false
	}
	b.used++
	return true
}
