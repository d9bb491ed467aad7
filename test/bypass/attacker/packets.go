package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Protocol numbers (IANA).
const (
	protoHopByHop  = 0
	protoICMP      = 1
	protoIPIP      = 4
	protoTCP       = 6
	protoUDP       = 17
	protoIPv6      = 41
	protoRouting   = 43
	protoFragment  = 44
	protoGRE       = 47
	protoESP       = 50
	protoAH        = 51
	protoICMPv6    = 58
	protoNoNext    = 59
	protoDstOpts   = 60
	protoSCTP      = 132
	protoMobility  = 135
	protoUDPLite   = 136
	protoMPLSinIP  = 137
	protoEtherIP   = 143
	protoReserved  = 255
	flagSYN        = 0x02
	flagACKPSH     = 0x18
	moreFragments  = 0x2000
	hdr4, hdr6     = 20, 40
	optionLSRR     = 131
	optionRRecord  = 7
	optionTimestmp = 68
)

func sum(b []byte, s uint32) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func pseudo(src, dst netip.Addr, proto byte, n int) uint32 {
	s := sum(src.AsSlice(), 0)
	s = sum(dst.AsSlice(), s)
	return s + uint32(proto) + uint32(n)
}

// segment is a TCP segment with a right checksum.
func segment(src, dst netip.Addr, sport, dport uint16, flags byte, payload string) []byte {
	b := make([]byte, 20+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], 0x11223344)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	copy(b[20:], payload)
	binary.BigEndian.PutUint16(b[16:], fold(sum(b, pseudo(src, dst, protoTCP, len(b)))))
	return b
}

func datagram(src, dst netip.Addr, sport, dport uint16, payload string) []byte {
	b := make([]byte, 8+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	copy(b[8:], payload)
	binary.BigEndian.PutUint16(b[6:], fold(sum(b, pseudo(src, dst, protoUDP, len(b)))))
	return b
}

// echo is an ICMP echo request (ICMPv6 for IPv6 addresses).
func echo(src, dst netip.Addr, payload string) []byte {
	b := make([]byte, 8+len(payload))
	b[0] = 8
	binary.BigEndian.PutUint16(b[4:], 77)
	copy(b[8:], payload)
	var start uint32
	if dst.Is6() {
		b[0] = 128
		start = pseudo(src, dst, protoICMPv6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], fold(sum(b, start)))
	return b
}

// packet4 is an IPv4 packet; fragment is the flags-and-offset field.
func packet4(src, dst netip.Addr, proto byte, id, fragment uint16, options, payload []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	h := hdr4 + len(options)
	b := make([]byte, h+len(payload))
	b[0] = 4<<4 | byte(h/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = 64, proto
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	copy(b[hdr4:], options)
	binary.BigEndian.PutUint16(b[10:], fold(sum(b[:h], 0)))
	copy(b[h:], payload)
	return b
}

func packet6(src, dst netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, hdr6+len(payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = next, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	copy(b[hdr6:], payload)
	return b
}

// sendRaw sends whole packets by a raw socket (IP_HDRINCL) and, to be sure, by
// a packet socket on eth0.
func sendRaw(what string, pkts ...[]byte) {
	for _, p := range pkts {
		tried(what+" raw", rawSend(p))
		tried(what+" packet", packetSend("eth0", p))
	}
}

func rawSend(p []byte) error {
	if p[0]>>4 == 6 {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		sa := &unix.SockaddrInet6{}
		copy(sa.Addr[:], p[24:40])
		return unix.Sendto(fd, p, 0, sa)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1); err != nil {
		return fmt.Errorf("IP_HDRINCL: %w", err)
	}
	sa := &unix.SockaddrInet4{}
	copy(sa.Addr[:], p[16:20])
	return unix.Sendto(fd, p, 0, sa)
}

func packetSend(dev string, p []byte) error {
	proto := uint16(unix.ETH_P_IP)
	if p[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(proto)))
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	idx, err := indexOf(dev)
	if err != nil {
		return err
	}
	return unix.Sendto(fd, p, 0, &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: idx})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func rawTCP(t target) {
	sendRaw("own source", packet4(t.self4, t.sink4, protoTCP, 1, 0, nil, segment(t.self4, t.sink4, 40001, t.port, flagSYN, "")),
		packet4(t.self4, t.sink4, protoTCP, 2, 0, nil, segment(t.self4, t.sink4, 40001, t.port, flagACKPSH, t.marker)))
	if t.self6.IsValid() {
		sendRaw("own source v6", packet6(t.self6, t.sink6, protoTCP, segment(t.self6, t.sink6, 40001, t.port, flagSYN, "")),
			packet6(t.self6, t.sink6, protoTCP, segment(t.self6, t.sink6, 40001, t.port, flagACKPSH, t.marker)))
	}
}

func packetSocket(t target) {
	pkts := [][]byte{packet4(t.self4, t.sink4, protoTCP, 3, 0, nil, segment(t.self4, t.sink4, 40002, t.port, flagSYN, t.marker))}
	if t.self6.IsValid() {
		pkts = append(pkts, packet6(t.self6, t.sink6, protoTCP, segment(t.self6, t.sink6, 40002, t.port, flagSYN, t.marker)))
	}
	for _, dev := range append(interfaces(), "wire0") {
		for _, p := range pkts {
			tried("packet socket on "+dev, packetSend(dev, p))
		}
	}
}

// neighbours are the addresses of other pods.
func neighbours(t target) (out []netip.Addr) {
	for _, p := range t.peers {
		if a, err := netip.ParseAddrPort(p); err == nil {
			out = append(out, a.Addr())
		}
	}
	return out
}

// first is the address of a's range that the node has, as a rule.
func first(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] = 1
	f, _ := netip.AddrFromSlice(b)
	return f
}

// forged are sources that are not the pod's: nobody's, the node's, a neighbour's.
func forged(t target) []netip.Addr {
	out := []netip.Addr{
		t.sink4.Prev(), first(t.sink4), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("0.0.0.0"), t.sink4,
	}
	if t.self6.IsValid() {
		out = append(out, t.sink6.Prev(), first(t.sink6), netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1"))
	}
	return append(out, neighbours(t)...)
}

func spoof(t target, proto4, proto6 byte, make1 func(src, dst netip.Addr) []byte) {
	for i, src := range forged(t) {
		for _, dst := range append([]netip.Addr{t.sink4, t.sink6}, neighbours(t)...) {
			what := fmt.Sprintf("source %v to %v", src, dst)
			switch {
			case src == dst || src.Is4() != dst.Is4():
			case src.Is4():
				sendRaw(what, packet4(src, dst, proto4, uint16(100+i), 0, nil, make1(src, dst)))
			default:
				sendRaw(what, packet6(src, dst, proto6, make1(src, dst)))
			}
		}
	}
}

func spoofTCP(t target) {
	spoof(t, protoTCP, protoTCP, func(s, d netip.Addr) []byte { return segment(s, d, 40003, t.port, flagSYN, t.marker) })
}

func spoofUDP(t target) {
	spoof(t, protoUDP, protoUDP, func(s, d netip.Addr) []byte { return datagram(s, d, 40003, t.port, t.marker) })
}

func spoofICMP(t target) {
	spoof(t, protoICMP, protoICMPv6, func(s, d netip.Addr) []byte { return echo(s, d, t.marker) })
}

func extensionHeaders(t target) {
	if !t.self6.IsValid() {
		tried("extension headers", fmt.Errorf("this pod has no IPv6 address"))
		return
	}
	tcp := segment(t.self6, t.sink6, 40004, t.port, flagSYN, t.marker)
	ext := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} } // PadN
	routing := func(next byte) []byte {
		b := make([]byte, 24) // type 0, one segment left
		b[0], b[1], b[3] = next, 2, 1
		copy(b[8:], t.sink6.AsSlice())
		return b
	}
	frag := func(next byte, offset uint16, more bool) []byte {
		b := make([]byte, 8)
		b[0] = next
		v := offset
		if more {
			v |= 1
		}
		binary.BigEndian.PutUint16(b[2:], v)
		binary.BigEndian.PutUint32(b[4:], 99)
		return b
	}
	cat := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	sendRaw("hop-by-hop", packet6(t.self6, t.sink6, protoHopByHop, cat(ext(protoTCP), tcp)))
	sendRaw("destination options", packet6(t.self6, t.sink6, protoDstOpts, cat(ext(protoTCP), tcp)))
	sendRaw("routing", packet6(t.self6, t.sink6, protoRouting, cat(routing(protoTCP), tcp)))
	sendRaw("atomic fragment", packet6(t.self6, t.sink6, protoFragment, cat(frag(protoTCP, 0, false), tcp)))
	sendRaw("fragments", packet6(t.self6, t.sink6, protoFragment, cat(frag(protoTCP, 0, true), tcp[:16])),
		packet6(t.self6, t.sink6, protoFragment, cat(frag(protoTCP, 16, false), tcp[16:])))
	sendRaw("many headers", packet6(t.self6, t.sink6, protoHopByHop, cat(ext(protoDstOpts), ext(protoDstOpts), ext(protoDstOpts), ext(protoTCP), tcp)))
	sendRaw("authentication header", packet6(t.self6, t.sink6, protoAH, cat([]byte{protoTCP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, tcp)))
	sendRaw("mobility", packet6(t.self6, t.sink6, protoMobility, cat(ext(protoTCP), tcp)))
	sendRaw("no next header", packet6(t.self6, t.sink6, protoNoNext, tcp))
	// Pieces that show another header than the whole has.
	seg := segment(t.self6, t.sink6, 40009, t.port, flagSYN, t.marker)
	udp := datagram(t.self6, t.sink6, 40009, t.port, "")
	sendRaw("first piece TCP, second said to be UDP", packet6(t.self6, t.sink6, protoFragment, cat(frag(protoTCP, 0, true), seg[:16])),
		packet6(t.self6, t.sink6, protoFragment, cat(frag(protoUDP, 16, false), seg[16:])))
	sendRaw("first piece UDP, then TCP over it", packet6(t.self6, t.sink6, protoFragment, cat(frag(protoUDP, 0, true), udp)),
		packet6(t.self6, t.sink6, protoFragment, cat(frag(protoTCP, 0, true), seg[:16])),
		packet6(t.self6, t.sink6, protoFragment, cat(frag(protoTCP, 16, false), seg[16:])))
	long := cat([]byte{protoTCP, 1, 1, 12}, make([]byte, 12), tcp) // destination options of 16 bytes
	sendRaw("chain cut by a piece", packet6(t.self6, t.sink6, protoFragment, cat(frag(protoDstOpts, 0, true), long[:8])),
		packet6(t.self6, t.sink6, protoFragment, cat(frag(protoDstOpts, 8, false), long[8:])))
	sendRaw("fragment in a fragment", packet6(t.self6, t.sink6, protoFragment, cat(frag(protoFragment, 0, false), frag(protoTCP, 0, false), tcp)))
	for _, experimental := range []byte{139, 140, 253, 254} { // HIP, shim6, RFC 3692
		sendRaw(fmt.Sprintf("header %d", experimental), packet6(t.self6, t.sink6, experimental, cat(ext(protoTCP), tcp)))
	}
}

func tunnels(t target) {
	inner := packet4(t.self4, t.sink4, protoTCP, 5, 0, nil, segment(t.self4, t.sink4, 40005, t.port, flagSYN, t.marker))
	gre := append([]byte{0, 0, 0x08, 0x00}, inner...)
	for _, p := range []struct {
		name  string
		proto byte
		body  []byte
	}{
		{"GRE", protoGRE, gre}, {"IPIP", protoIPIP, inner}, {"6in4", protoIPv6, inner}, {"ESP", protoESP, inner}, {"AH", protoAH, inner},
		{"SCTP", protoSCTP, inner}, {"UDP-Lite", protoUDPLite, inner}, {"MPLS-in-IP", protoMPLSinIP, inner}, {"EtherIP", protoEtherIP, inner},
		{"reserved", protoReserved, inner}, {"hop-by-hop in IPv4", protoHopByHop, inner},
	} {
		sendRaw(p.name, packet4(t.self4, t.sink4, p.proto, 6, 0, nil, p.body))
		if t.self6.IsValid() && p.proto != protoHopByHop {
			sendRaw(p.name+" v6", packet6(t.self6, t.sink6, p.proto, p.body))
		}
	}
	for _, kind := range []string{"gre", "ipip", "sit"} {
		ip("link", "add", "t-"+kind, "type", kind, "local", t.self4.String(), "remote", t.sink4.String())
		ip("link", "set", "t-"+kind, "up")
		ip("addr", "add", "192.168.77.1/24", "dev", "t-"+kind)
		dial(kind+" tunnel", netip.AddrPortFrom(netip.MustParseAddr("192.168.77.2"), t.port), t.marker, nil)
		ip("link", "del", "t-"+kind)
	}
}

func fragments(t target) {
	seg := segment(t.self4, t.sink4, 40006, t.port, flagSYN, t.marker)
	sendRaw("two fragments", packet4(t.self4, t.sink4, protoTCP, 7, moreFragments, nil, seg[:8]), packet4(t.self4, t.sink4, protoTCP, 7, 1, nil, seg[8:]))
	sendRaw("later fragment first", packet4(t.self4, t.sink4, protoTCP, 8, 1, nil, seg[8:]), packet4(t.self4, t.sink4, protoTCP, 8, moreFragments, nil, seg[:8]))
	sendRaw("overlap", packet4(t.self4, t.sink4, protoTCP, 9, moreFragments, nil, seg[:16]), packet4(t.self4, t.sink4, protoTCP, 9, 1, nil, seg[8:]))
	sendRaw("later fragment alone", packet4(t.self4, t.sink4, protoTCP, 10, 2, nil, []byte(t.marker)))
	sendRaw("fragment said to be UDP", packet4(t.self4, t.sink4, protoUDP, 11, moreFragments, nil, seg[:8]), packet4(t.self4, t.sink4, protoTCP, 11, 1, nil, seg[8:]))
}

func ipOptions(t target) {
	seg := segment(t.self4, t.sink4, 40007, t.port, flagSYN, t.marker)
	hop := t.sink4.Prev().As4()
	lsrr := append([]byte{optionLSRR, 7, 4}, hop[:]...)
	for name, opt := range map[string][]byte{
		"loose source route": lsrr, "record route": {optionRRecord, 7, 4, 0, 0, 0, 0}, "timestamp": {optionTimestmp, 8, 5, 0, 0, 0, 0, 0},
		"router alert": {148, 4, 0, 0}, "garbage": {250, 0, 0, 0},
	} {
		sendRaw(name, packet4(t.self4, t.sink4, protoTCP, 12, 0, opt, seg))
	}
}
