package attack

import (
	"encoding/binary"
	"net/netip"
)

// PacketRate is how many packets of a flood come at a time, a hundred times a
// second.
const PacketRate = 100

// The flags of a TCP segment.
const (
	SYN = 2
	RST = 4
	PSH = 8
	ACK = 16
)

// Flood is packets in masses that begin what nobody ends, or belong to nothing.
type Flood struct {
	Name string
	// FromApp: they come from the pod's app, not from the network.
	FromApp bool
	// Next is the i-th packet; IPv4, without the checksum of what is in it.
	Next func(i int, to Target) []byte
	// Metric and Labels count it, in the sidecar's own metrics.
	Metric string
	Labels []string
}

// Target is a pod with an open port and a closed one, and an address at which
// nobody is.
type Target struct {
	Open, Closed, Nobody netip.AddrPort
}

// spoofed are addresses at which nobody is, none twice among a million.
func spoofed(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), uint16(1024+i>>16)) //nolint:gosec // the low bits
}

// own are ports of the pod's app.
func own(i int, to Target) netip.AddrPort {
	return netip.AddrPortFrom(to.Open.Addr(), uint16(1024+i%60000)) //nolint:gosec // below 65,536
}

// Packets are floods of packets that need no connection.
func Packets() []Flood {
	wire, app := []string{`side="wire"`}, []string{`side="app"`}
	drops := func(side []string, why string) []string { return append([]string{`reason="` + why + `"`}, side...) }
	// SYNs meet the bound on those that wait, or before that, where the sidecar has
	// little of the processor, the bound on those that begin.
	limits := func(side []string) []string { return append([]string{`_limit"`}, side...) }
	return []Flood{
		{Name: "SYNs from the network", Metric: "netstack_drops_total", Labels: limits(wire), Next: func(i int, to Target) []byte {
			return Segment(spoofed(i), to.Open, SYN, 1, 0, nil)
		}},
		{Name: "SYNs from the app", FromApp: true, Metric: "netstack_drops_total", Labels: limits(app), Next: func(i int, to Target) []byte {
			return Segment(own(i, to), to.Nobody, SYN, 1, 0, nil)
		}},
		{Name: "SYNs to a port where nobody listens", Metric: "netstack_refused_total", Labels: wire, Next: func(i int, to Target) []byte {
			return Segment(spoofed(i), to.Closed, SYN, 1, 0, nil)
		}},
		{Name: "ACKs of no connection", Metric: "netstack_drops_total", Labels: drops(wire, "reset_limit"), Next: func(i int, to Target) []byte {
			return Segment(spoofed(i), to.Open, ACK, 1, 1, nil)
		}},
		{Name: "RSTs of no connection", Metric: "netstack_drops_total", Labels: drops(wire, "reset_ignored"), Next: func(i int, to Target) []byte {
			return Segment(spoofed(i), to.Open, RST, 1, 0, nil)
		}},
		{Name: "UDP through the sidecar, from the network", Metric: "netstack_forwarded_udp_total", Labels: wire, Next: func(i int, to Target) []byte {
			return Datagram(spoofed(i), netip.AddrPortFrom(to.Open.Addr(), 53), make([]byte, 60))
		}},
		{Name: "DNS questions from the app", FromApp: true, Metric: "netstack_forwarded_udp_total", Labels: app, Next: func(i int, to Target) []byte {
			return Datagram(own(i, to), netip.AddrPortFrom(to.Nobody.Addr(), 53), make([]byte, 40))
		}},
		{Name: "packets that are none", Metric: "netstack_drops_total", Labels: drops(wire, "malformed"), Next: func(i int, to Target) []byte {
			p := Segment(spoofed(i), to.Open, ACK, 1, 1, nil)
			p[32] = 0xf0 // a header longer than the packet
			return p
		}},
	}
}

// Segment makes a TCP segment in an IPv4 packet; RFC 9293, section 3.1.
func Segment(src, dst netip.AddrPort, flags byte, seq, ack uint32, payload []byte) []byte {
	b := packet(src, dst, 6, 20, payload)
	th := b[20:]
	binary.BigEndian.PutUint32(th[4:], seq)
	binary.BigEndian.PutUint32(th[8:], ack)
	th[12], th[13] = 5<<4, flags
	binary.BigEndian.PutUint16(th[14:], 60000)
	return b
}

// Datagram makes a UDP datagram in an IPv4 packet; RFC 768.
func Datagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := packet(src, dst, 17, 8, payload)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload))) //nolint:gosec // short
	return b
}

// packet is an IPv4 packet of a protocol whose header begins with the ports.
func packet(src, dst netip.AddrPort, protocol byte, header int, payload []byte) []byte {
	b := make([]byte, 20+header, 20+header+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b))) //nolint:gosec // short
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:20], 0))
	return b
}

// Checksum puts the checksum of what is in a packet into it, which a kernel that
// sends it as it is does not.
func Checksum(b []byte) {
	at := 36 // TCP's
	if b[9] == 17 {
		at = 26
	}
	b[at], b[at+1] = 0, 0
	pseudo := uint32(sum(b[12:20], uint32(b[9])+uint32(len(b)-20))) //nolint:gosec // short
	binary.BigEndian.PutUint16(b[at:], ^sum(b[20:], pseudo))
}

// sum is the Internet checksum's, not inverted; RFC 1071.
func sum(b []byte, s uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s>>16 > 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s) //nolint:gosec // folded
}
