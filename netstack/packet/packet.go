// Package packet decides what becomes of a packet that a TUN device delivered:
// terminated in the stack, forwarded unchanged to the other side, or dropped
// and counted. It owns the reading of IP headers (no byte is trusted) and the
// rules of who may speak with which address; it refuses to know devices, the
// stack, and connections. Nothing in it allocates or keeps the bytes it reads.
//
// The flow:
//
//  1. The IP header is read; lengths that cannot be are malformed.
//  2. IPv6 extension headers are walked to the last header. A chain that is cut
//     off, too long, or steers the packet is dropped. What is TCP is what the
//     last header says, so TCP in disguise is still TCP.
//  3. Addresses: the app speaks with the pod's addresses only, the wire speaks
//     to them only, nobody speaks with martians, groups or links.
//  4. TCP and its fragments go to the stack; UDP, ICMP and ICMPv6 are forwarded
//     packet by packet; ICMP errors about TCP go to the stack's connections;
//     other protocols are dropped unless they were allowed by number.
package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// Protocol numbers (IANA).
const (
	ProtoICMP     = 1
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoFragment = 44
	ProtoICMPv6   = 58
)

// MaxHeaders is how many bytes of a packet Classify needs at most: a chain of
// headers longer than that is not walked.
const MaxHeaders = 512

// Action is what becomes of a packet.
type Action uint8

// The actions.
const (
	Drop    Action = iota
	Stack          // a TCP segment for the stack; a fragment of one when Info.Fragment is set
	Forward        // to the other side, unchanged
	Error          // an ICMP error about a TCP connection, described by ICMP
)

// Info is what a packet's headers say. Header offsets are within the packet.
type Info struct {
	V6       bool
	Proto    uint8 // of the last header
	Fragment bool  // one of several pieces
	First    bool  // the piece with offset 0; also true of a whole packet
	NetLen   int   // bytes of the IP header with options or extension headers
	Total    int   // bytes of the packet by its own account
	Src, Dst netip.Addr
}

// Rules are the addresses and protocols of a pod. They are read-only once made.
type Rules struct {
	v4, v6  []netip.Addr
	allowed [4]uint64
}

// NewRules makes the rules for a pod with these addresses, whose annotations
// allow the protocols by number beside TCP, UDP, ICMP and ICMPv6.
func NewRules(addrs []netip.Addr, protocols []uint8) *Rules {
	r := &Rules{}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			r.v4 = append(r.v4, a)
		} else {
			r.v6 = append(r.v6, a)
		}
	}
	for _, p := range protocols {
		r.allowed[p>>6] |= 1 << (p & 63)
	}
	return r
}

// Pod reports whether a is an address of the pod.
func (r *Rules) Pod(a netip.Addr) bool {
	list := r.v6
	if a.Is4() {
		list = r.v4
	}
	for _, p := range list {
		if p == a {
			return true
		}
	}
	return false
}

func (r *Rules) allows(proto uint8) bool { return r.allowed[proto>>6]&(1<<(proto&63)) != 0 }

// Classify decides about a packet that arrived from side. head holds its first
// bytes, at least MaxHeaders of them or all; size is its whole length.
func (r *Rules) Classify(side aio.Side, head []byte, size int) (Action, Reason, Info) {
	in, why := parse(head, size)
	if why != NoReason {
		return Drop, why, in
	}
	if why := r.addresses(side, &in); why != NoReason {
		return Drop, why, in
	}
	switch in.Proto {
	case ProtoTCP:
		return Stack, NoReason, in
	case ProtoUDP:
		return Forward, NoReason, in
	case ProtoICMP, ProtoICMPv6:
		if in.V6 != (in.Proto == ProtoICMPv6) {
			return Drop, Protocol, in // the other family's ICMP means nothing here
		}
		if !in.First {
			return Forward, NoReason, in
		}
		return classifyICMP(&in, head)
	}
	if r.allows(in.Proto) {
		return Forward, NoReason, in
	}
	return Drop, Protocol, in
}

func (r *Rules) addresses(side aio.Side, in *Info) Reason {
	if why := group(in.Dst); why != NoReason {
		// An app's kernel sends these by itself (router solicitation, multicast
		// listener reports): named for what they are, not as an attack.
		return why
	}
	if in.Src.Is6() && (in.Src.IsLinkLocalUnicast() || in.Src.IsUnspecified()) {
		return LinkLocal
	}
	if side == aio.App {
		switch {
		case !r.Pod(in.Src):
			return SpoofedSource
		case r.Pod(in.Dst), martian(in.Dst):
			return Martian // to itself: belongs on the pod's loopback
		}
		return NoReason
	}
	switch {
	case !r.Pod(in.Dst):
		return NotForPod
	case r.Pod(in.Src), martian(in.Src), in.Src.IsMulticast(), in.Src.Is4() && in.Src.As4()[0] >= 240:
		return Martian
	}
	return NoReason
}

// group refuses destinations that are not one host beyond the link.
func group(dst netip.Addr) Reason {
	switch {
	case dst.IsMulticast(), dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return Multicast
	case dst.Is6() && dst.IsLinkLocalUnicast():
		return LinkLocal
	}
	return NoReason
}

// martian reports addresses that no packet between two hosts carries (RFC 6890:
// "this network", loopback, reserved; IPv4 in IPv6 disguise).
func martian(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] == 0 || b[0] == 127 || b[0] >= 240
	}
	return a.IsUnspecified() || a.IsLoopback() || a.Is4In6()
}

func parse(head []byte, size int) (Info, Reason) {
	if len(head) == 0 || size < len(head) {
		return Info{}, Malformed
	}
	switch head[0] >> 4 {
	case 4:
		return parse4(head, size)
	case 6:
		return parse6(head, size)
	}
	return Info{}, Malformed
}

func parse4(b []byte, size int) (Info, Reason) {
	in := Info{}
	if len(b) < 20 {
		return in, Malformed
	}
	ihl := int(b[0]&15) * 4
	in.NetLen, in.Total = ihl, int(binary.BigEndian.Uint16(b[2:]))
	if ihl < 20 || in.Total < ihl || in.Total > size || len(b) < ihl {
		return in, Malformed
	}
	in.Proto = b[9]
	in.Src = netip.AddrFrom4([4]byte(b[12:16]))
	in.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	frag := binary.BigEndian.Uint16(b[6:])
	offset, more := int(frag&0x1fff)*8, frag&0x2000 != 0
	in.Fragment, in.First = offset > 0 || more, offset == 0
	body := in.Total - ihl
	if offset+body+ihl > 65535 || more && (body == 0 || body%8 != 0) {
		return in, Malformed // past the end, or a piece that no other can follow
	}
	if checksum(b[:ihl], 0) != 0xffff {
		return in, BadChecksum
	}
	if ihl > 20 {
		return in, options4(b[20:ihl])
	}
	return in, NoReason
}

// options4 lets through the options that only record or mark: end, no-op, record
// route, timestamp, router alert (RFC 791, 2113). Source routes steer a packet
// past whoever looks at its destination; what is not known is not trusted.
func options4(o []byte) Reason {
	for len(o) > 0 {
		switch o[0] {
		case 0:
			return NoReason
		case 1:
			o = o[1:]
			continue
		case 7, 68, 148:
		default:
			return IPOptions
		}
		if len(o) < 2 || o[1] < 3 || int(o[1]) > len(o) {
			return IPOptions
		}
		o = o[o[1]:]
	}
	return NoReason
}

func parse6(b []byte, size int) (Info, Reason) {
	in := Info{V6: true, First: true}
	if len(b) < 40 {
		return in, Malformed
	}
	in.Total = 40 + int(binary.BigEndian.Uint16(b[4:]))
	if in.Total > size || in.Total == 40 {
		return in, Malformed // longer than it is, or a jumbogram
	}
	in.Src = netip.AddrFrom16([16]byte(b[8:24]))
	in.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	return in, walk6(&in, b)
}

// walk6 follows the extension headers to the last header (RFC 8200 section 4).
func walk6(in *Info, b []byte) Reason {
	next, at, seen := b[6], 40, 0
	for {
		switch next {
		case 0, 43, 60, 135: // hop-by-hop, routing, destination options, mobility
			if !in.First {
				// A later piece shows no header: what it belongs to cannot be known.
				return ExtensionChain
			}
			if seen++; seen > 8 || at+8 > len(b) {
				return ExtensionChain
			}
			n := 8 + int(b[at+1])*8
			if at+n > len(b) || at+n > in.Total || at+n > MaxHeaders {
				return ExtensionChain
			}
			if next == 0 && at != 40 {
				return ExtensionChain // hop-by-hop stands first or nowhere
			}
			if next == 43 && b[at+3] > 0 {
				return IPOptions // segments left: a source route
			}
			if next == 135 {
				in.Proto, in.NetLen = next, at // mobility: a protocol of its own
				return NoReason
			}
			if (next == 0 || next == 60) && !options6(b[at+2:at+n]) {
				return IPOptions
			}
			next, at = b[at], at+n
		case ProtoFragment:
			if in.Fragment || at+8 > len(b) || at+8 > in.Total || at+8 > MaxHeaders {
				return ExtensionChain
			}
			frag := binary.BigEndian.Uint16(b[at+2:])
			offset, more, body := int(frag&0xfff8), frag&1 != 0, in.Total-at-8
			if offset+body > 65535 || more && (body == 0 || body%8 != 0) {
				return Malformed
			}
			// A lone piece ("atomic", RFC 6946) is treated as one too: only
			// reassembly may take its header off.
			in.Fragment, in.First = true, offset == 0
			next, at = b[at], at+8
		default:
			in.Proto, in.NetLen = next, at
			if in.First && at >= in.Total && next != 59 {
				return ExtensionChain // the last header is announced and missing
			}
			return NoReason
		}
	}
}

// options6 refuses a block with an option that a receiver who does not know it
// must not skip (RFC 8200 section 4.2), jumbo and home address among them.
func options6(o []byte) bool {
	for len(o) > 0 {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || 2+int(o[1]) > len(o) || o[0]>>6 != 0 {
			return false
		}
		o = o[2+int(o[1]):]
	}
	return true
}

// checksum is the Internet checksum's running sum, folded (RFC 1071).
func checksum(b []byte, sum uint32) uint16 {
	for len(b) >= 2 {
		sum += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
