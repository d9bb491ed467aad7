package packet_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

var (
	pod4, pod6     = netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")
	world4, world6 = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	rules          = packet.NewRules([]netip.Addr{pod4, pod6}, []uint8{50})
)

// ip4 makes an IPv4 packet; options are padded, fragment is the flags-and-offset
// word.
func ip4(src, dst netip.Addr, proto uint8, options []byte, fragment uint16, payload []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := make([]byte, 20, 20+len(options)+len(payload))
	b = append(append(b, options...), payload...)
	b[0] = 0x40 | byte(5+len(options)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = 64, proto
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	seal(b)
	return b
}

// seal sets an IPv4 header's checksum.
func seal(b []byte) {
	ihl := int(b[0]&15) * 4
	b[10], b[11] = 0, 0
	var s uint32
	for i := 0; i < ihl; i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 > 0 {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(s))
}

// ext is one extension header: its number and its bytes, the first of which
// becomes the next header's number.
type ext struct {
	proto uint8
	body  []byte
}

func ip6(src, dst netip.Addr, chain []ext, last uint8, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[7] = 0x60, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	b[6] = last
	if len(chain) > 0 {
		b[6] = chain[0].proto
	}
	for i, e := range chain {
		next := last
		if i+1 < len(chain) {
			next = chain[i+1].proto
		}
		at := len(b)
		b = append(b, e.body...)
		b[at] = next
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// pad is an options header of 8·(1+n) bytes of padding.
func pad(n int) []byte {
	b := make([]byte, 8*(1+n))
	b[1] = byte(n)
	b[2], b[3] = 1, byte(len(b)-4)
	return b
}

func fragment(offset int, more bool) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b[2:], uint16(offset))
	if more {
		b[3] |= 1
	}
	return b
}

var (
	tcp  = append([]byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2}, make([]byte, 10)...)
	udp  = []byte{0x9c, 0x40, 0, 53, 0, 12, 0, 0, 'a', 'b', 'c', 'd'}
	echo = []byte{8, 0, 0, 0, 0, 1, 0, 1}
)

func TestClassify(t *testing.T) {
	const app, wire = aio.App, aio.Wire
	for _, tc := range []struct {
		name string
		side aio.Side
		b    []byte
		want packet.Action
		why  packet.Reason
	}{
		// What passes.
		{"tcp4 out", app, ip4(pod4, world4, 6, nil, 0, tcp), packet.Stack, 0},
		{"tcp4 in", wire, ip4(world4, pod4, 6, nil, 0, tcp), packet.Stack, 0},
		{"tcp6 out", app, ip6(pod6, world6, nil, 6, tcp), packet.Stack, 0},
		{"tcp6 in", wire, ip6(world6, pod6, nil, 6, tcp), packet.Stack, 0},
		{"udp4", app, ip4(pod4, world4, 17, nil, 0, udp), packet.Forward, 0},
		{"udp6", wire, ip6(world6, pod6, nil, 17, udp), packet.Forward, 0},
		{"ping4", app, ip4(pod4, world4, 1, nil, 0, echo), packet.Forward, 0},
		{"ping6", app, ip6(pod6, world6, nil, 58, []byte{128, 0, 0, 0, 0, 1, 0, 1}), packet.Forward, 0},
		{"metadata service", app, ip4(pod4, netip.MustParseAddr("169.254.169.254"), 6, nil, 0, tcp), packet.Stack, 0},

		// Addresses.
		{"spoofed4", app, ip4(world4, world4, 17, nil, 0, udp), packet.Drop, packet.SpoofedSource},
		{"spoofed6", app, ip6(world6, world6, nil, 17, udp), packet.Drop, packet.SpoofedSource},
		{"spoofed tcp", app, ip4(world4, world4, 6, nil, 0, tcp), packet.Drop, packet.SpoofedSource},
		{"spoofed icmp", app, ip4(world4, world4, 1, nil, 0, echo), packet.Drop, packet.SpoofedSource},
		{"pod to pod from the app", app, ip4(pod4, pod4, 6, nil, 0, tcp), packet.Drop, packet.Martian},
		{"loopback as destination", app, ip4(pod4, netip.MustParseAddr("127.0.0.1"), 6, nil, 0, tcp), packet.Drop, packet.Martian},
		{"v4 in v6", app, ip6(pod6, netip.MustParseAddr("::ffff:10.0.0.1"), nil, 6, tcp), packet.Drop, packet.Martian},
		{"not for the pod", wire, ip4(world4, world4, 17, nil, 0, udp), packet.Drop, packet.NotForPod},
		{"the pod's address from outside", wire, ip4(pod4, pod4, 6, nil, 0, tcp), packet.Drop, packet.Martian},
		{"the pod's address from outside, udp", wire, ip4(pod4, pod4, 17, nil, 0, udp), packet.Drop, packet.Martian},
		{"the pod's address from outside, tcp6", wire, ip6(pod6, pod6, nil, 6, tcp), packet.Drop, packet.Martian},
		{"the pod's address from outside, udp6", wire, ip6(pod6, pod6, nil, 17, udp), packet.Drop, packet.Martian},
		{"the pod's address from outside, icmpv6", wire, ip6(pod6, pod6, nil, 58, []byte{128, 0, 0, 0, 0, 1, 0, 1}), packet.Drop, packet.Martian},
		{"the pod's address from outside, a fragment", wire, ip6(pod6, pod6, []ext{{44, fragment(24, false)}}, 6, tcp), packet.Drop, packet.Martian},
		{"pod to pod from the app, v6", app, ip6(pod6, pod6, nil, 6, tcp), packet.Drop, packet.Martian},
		{"not for the pod, v6", wire, ip6(world6, world6, nil, 17, udp), packet.Drop, packet.NotForPod},
		{"loopback from outside, v6", wire, ip6(netip.IPv6Loopback(), pod6, nil, 6, tcp), packet.Drop, packet.Martian},
		{"multicast as source, v6", wire, ip6(netip.MustParseAddr("ff02::1"), pod6, nil, 17, udp), packet.Drop, packet.Martian},
		{"loopback from outside", wire, ip4(netip.MustParseAddr("127.0.0.1"), pod4, 6, nil, 0, tcp), packet.Drop, packet.Martian},
		{"multicast as source", wire, ip4(netip.MustParseAddr("224.0.0.1"), pod4, 17, nil, 0, udp), packet.Drop, packet.Martian},
		{"multicast4", app, ip4(pod4, netip.MustParseAddr("224.0.0.251"), 17, nil, 0, udp), packet.Drop, packet.Multicast},
		{"broadcast", app, ip4(pod4, netip.MustParseAddr("255.255.255.255"), 17, nil, 0, udp), packet.Drop, packet.Multicast},
		{"multicast6", app, ip6(netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::2"), nil, 58, []byte{133, 0, 0, 0, 0, 0, 0, 0}), packet.Drop, packet.Multicast},
		{"link-local source", app, ip6(netip.MustParseAddr("fe80::1"), world6, nil, 6, tcp), packet.Drop, packet.LinkLocal},
		{"unspecified source", app, ip6(netip.IPv6Unspecified(), world6, nil, 6, tcp), packet.Drop, packet.LinkLocal},
		{"link-local destination", app, ip6(pod6, netip.MustParseAddr("fe80::9"), nil, 6, tcp), packet.Drop, packet.LinkLocal},
		{"link-local from the wire", wire, ip6(netip.MustParseAddr("fe80::9"), pod6, nil, 58, []byte{136, 0, 0, 0, 0, 0, 0, 0}), packet.Drop, packet.LinkLocal},
		{"neighbour solicitation with good addresses", wire, ip6(world6, pod6, nil, 58, []byte{135, 0, 0, 0, 0, 0, 0, 0}), packet.Drop, packet.LinkLocal},

		// Other protocols, TCP in disguise.
		{"gre", app, ip4(pod4, world4, 47, nil, 0, tcp), packet.Drop, packet.Protocol},
		{"ipip", app, ip4(pod4, world4, 4, nil, 0, ip4(world4, world4, 6, nil, 0, tcp)), packet.Drop, packet.Protocol},
		{"6in4", app, ip4(pod4, world4, 41, nil, 0, ip6(world6, world6, nil, 6, tcp)), packet.Drop, packet.Protocol},
		{"4in6", app, ip6(pod6, world6, nil, 4, ip4(world4, world4, 6, nil, 0, tcp)), packet.Drop, packet.Protocol},
		{"sctp", wire, ip4(world4, pod4, 132, nil, 0, tcp), packet.Drop, packet.Protocol},
		{"ah", app, ip4(pod4, world4, 51, nil, 0, append(make([]byte, 12), tcp...)), packet.Drop, packet.Protocol},
		{"ah6", app, ip6(pod6, world6, nil, 51, append(make([]byte, 12), tcp...)), packet.Drop, packet.Protocol},
		{"igmp", wire, ip4(world4, pod4, 2, nil, 0, echo), packet.Drop, packet.Protocol},
		{"esp, allowed", app, ip4(pod4, world4, 50, nil, 0, tcp), packet.Forward, 0},
		{"esp6, allowed", wire, ip6(world6, pod6, nil, 50, tcp), packet.Forward, 0},
		{"allowed is not spoofable", app, ip4(world4, world4, 50, nil, 0, tcp), packet.Drop, packet.SpoofedSource},
		{"icmpv6 over ipv4", app, ip4(pod4, world4, 58, nil, 0, echo), packet.Drop, packet.Protocol},
		{"icmpv4 over ipv6", app, ip6(pod6, world6, nil, 1, echo), packet.Drop, packet.Protocol},

		// Extension headers.
		{"hop-by-hop and tcp", app, ip6(pod6, world6, []ext{{0, pad(0)}}, 6, tcp), packet.Stack, 0},
		{"all padding and udp", app, ip6(pod6, world6, []ext{{0, pad(1)}, {60, pad(0)}, {60, pad(2)}}, 17, udp), packet.Forward, 0},
		{"tcp behind destination options", app, ip6(pod6, world6, []ext{{60, pad(3)}}, 6, tcp), packet.Stack, 0},
		{"gre behind destination options", app, ip6(pod6, world6, []ext{{60, pad(0)}}, 47, tcp), packet.Drop, packet.Protocol},
		{"hop-by-hop not first", app, ip6(pod6, world6, []ext{{60, pad(0)}, {0, pad(0)}}, 17, udp), packet.Drop, packet.ExtensionChain},
		{"chain cut off", app, ip6(pod6, world6, []ext{{60, pad(0)[:4]}}, 6, nil), packet.Drop, packet.ExtensionChain},
		{"chain longer than it may be", app, ip6(pod6, world6, []ext{{60, pad(63)}}, 6, tcp), packet.Drop, packet.ExtensionChain},
		{"too many headers", app, ip6(pod6, world6, []ext{{60, pad(0)}, {60, pad(0)}, {60, pad(0)}, {60, pad(0)}, {60, pad(0)}, {60, pad(0)}, {60, pad(0)}, {60, pad(0)}, {60, pad(0)}}, 17, udp), packet.Drop, packet.ExtensionChain},
		{"last header missing", app, ip6(pod6, world6, []ext{{60, pad(0)}}, 6, nil), packet.Drop, packet.ExtensionChain},
		{"routing header, done", app, ip6(pod6, world6, []ext{{43, []byte{0, 0, 4, 0, 0, 0, 0, 0}}}, 17, udp), packet.Forward, 0},
		{"routing header with segments left", app, ip6(pod6, world6, []ext{{43, []byte{0, 2, 4, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}}, 17, udp), packet.Drop, packet.IPOptions},
		{"an option not to be skipped", app, ip6(pod6, world6, []ext{{0, []byte{0, 0, 0xc2, 4, 0, 1, 0, 0}}}, 17, udp), packet.Drop, packet.IPOptions},
		{"an option past its header", app, ip6(pod6, world6, []ext{{60, []byte{0, 0, 1, 9, 0, 0, 0, 0}}}, 17, udp), packet.Drop, packet.IPOptions},
		{"no next header", app, ip6(pod6, world6, []ext{{60, pad(0)}}, 59, nil), packet.Drop, packet.Protocol},
		{"mobility", app, ip6(pod6, world6, []ext{{135, make([]byte, 8)}}, 59, nil), packet.Drop, packet.Protocol},
		{"a number nobody knows", app, ip6(pod6, world6, nil, 253, tcp), packet.Drop, packet.Protocol},

		// Fragments.
		{"tcp4, first piece", app, ip4(pod4, world4, 6, nil, 0x2000, tcp), packet.Stack, 0},
		{"tcp4, later piece", app, ip4(pod4, world4, 6, nil, 3, tcp), packet.Stack, 0},
		{"tcp6, first piece", app, ip6(pod6, world6, []ext{{44, fragment(0, true)}}, 6, tcp), packet.Stack, 0},
		{"tcp6, later piece", app, ip6(pod6, world6, []ext{{44, fragment(24, false)}}, 6, tcp), packet.Stack, 0},
		{"tcp6, lone piece", app, ip6(pod6, world6, []ext{{44, fragment(0, false)}}, 6, tcp), packet.Stack, 0},
		{"udp4, later piece", wire, ip4(world4, pod4, 17, nil, 10, udp), packet.Forward, 0},
		{"udp6, later piece", wire, ip6(world6, pod6, []ext{{44, fragment(1440, false)}}, 17, udp), packet.Forward, 0},
		{"gre, later piece", app, ip4(pod4, world4, 47, nil, 10, udp), packet.Drop, packet.Protocol},
		{"tcp behind options behind a fragment header", app, ip6(pod6, world6, []ext{{44, fragment(0, true)}, {60, pad(0)}}, 6, tcp), packet.Stack, 0},
		{"later piece of who knows what", app, ip6(pod6, world6, []ext{{44, fragment(1440, false)}, {60, pad(0)}}, 6, tcp), packet.Drop, packet.ExtensionChain},
		{"two fragment headers", app, ip6(pod6, world6, []ext{{44, fragment(0, true)}, {44, fragment(0, true)}}, 17, udp[:8]), packet.Drop, packet.ExtensionChain},
		{"a piece past the end", app, ip4(pod4, world4, 17, nil, 0x1fff, make([]byte, 16)), packet.Drop, packet.Malformed},
		{"a piece of odd length with more to come", app, ip4(pod4, world4, 17, nil, 0x2000, udp[:11]), packet.Drop, packet.Malformed},

		// IPv4 options.
		{"record route", app, ip4(pod4, world4, 6, []byte{7, 7, 4, 0, 0, 0, 0}, 0, tcp), packet.Stack, 0},
		{"no-ops", app, ip4(pod4, world4, 17, []byte{1, 1, 1, 0}, 0, udp), packet.Forward, 0},
		{"router alert", app, ip4(pod4, world4, 17, []byte{148, 4, 0, 0}, 0, udp), packet.Forward, 0},
		{"loose source route", app, ip4(pod4, world4, 17, []byte{131, 7, 4, 1, 2, 3, 4}, 0, udp), packet.Drop, packet.IPOptions},
		{"strict source route", app, ip4(pod4, world4, 6, []byte{137, 7, 4, 1, 2, 3, 4}, 0, tcp), packet.Drop, packet.IPOptions},
		{"source route behind no-ops", wire, ip4(world4, pod4, 1, []byte{1, 1, 131, 7, 4, 1, 2, 3}, 0, echo), packet.Drop, packet.IPOptions},
		{"security label", app, ip4(pod4, world4, 17, []byte{134, 6, 0, 0, 0, 1}, 0, udp), packet.Drop, packet.IPOptions},
		{"an option past the header", app, ip4(pod4, world4, 17, []byte{7, 40, 4, 0}, 0, udp), packet.Drop, packet.IPOptions},
		{"an option without length", app, ip4(pod4, world4, 17, []byte{1, 1, 1, 7}, 0, udp), packet.Drop, packet.IPOptions},

		// ICMP.
		{"redirect", wire, ip4(world4, pod4, 1, nil, 0, append([]byte{5, 1, 0, 0, 1, 2, 3, 4}, ip4(pod4, world4, 17, nil, 0, udp)...)), packet.Drop, packet.ICMPRedirect},
		{"error about tcp", wire, ip4(world4, pod4, 1, nil, 0, append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, ip4(pod4, world4, 6, nil, 0, tcp)...)), packet.Error, 0},
		{"error about udp", wire, ip4(world4, pod4, 1, nil, 0, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, ip4(pod4, world4, 17, nil, 0, udp)...)), packet.Forward, 0},
		{"error6 about tcp", wire, ip6(world6, pod6, nil, 58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, ip6(pod6, world6, nil, 6, tcp)...)), packet.Error, 0},
		{"error6 about udp", wire, ip6(world6, pod6, nil, 58, append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, ip6(pod6, world6, nil, 17, udp)...)), packet.Forward, 0},
		{"error6 about tcp behind options", wire, ip6(world6, pod6, nil, 58, append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, ip6(pod6, world6, []ext{{60, pad(0)}}, 6, tcp)...)), packet.Error, 0},
		{"error about nothing", wire, ip4(world4, pod4, 1, nil, 0, []byte{3, 1, 0, 0, 0, 0, 0, 0, 9}), packet.Drop, packet.ICMPInvalid},
		{"error of one family about the other", wire, ip4(world4, pod4, 1, nil, 0, append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, ip6(pod6, world6, nil, 6, tcp)...)), packet.Drop, packet.ICMPInvalid},
		{"icmp cut off", wire, ip4(world4, pod4, 1, nil, 0, []byte{3, 1, 0}), packet.Drop, packet.ICMPInvalid},

		// Garbage.
		{"empty", app, nil, packet.Drop, packet.Malformed},
		{"one byte", app, []byte{0x45}, packet.Drop, packet.Malformed},
		{"version 5", app, make([]byte, 40), packet.Drop, packet.Malformed},
		{"header shorter than 20", app, func() []byte { b := ip4(pod4, world4, 6, nil, 0, tcp); b[0] = 0x44; return b }(), packet.Drop, packet.Malformed},
		{"header past the end", app, func() []byte { b := ip4(pod4, world4, 6, nil, 0, nil); b[0] = 0x4f; return b }(), packet.Drop, packet.Malformed},
		{"longer than it is", app, func() []byte { b := ip4(pod4, world4, 6, nil, 0, tcp); b[3] = 200; seal(b); return b }(), packet.Drop, packet.Malformed},
		{"wrong checksum", app, func() []byte { b := ip4(pod4, world4, 6, nil, 0, tcp); b[8]--; return b }(), packet.Drop, packet.BadChecksum},
		{"jumbogram", app, func() []byte { b := ip6(pod6, world6, nil, 6, tcp); b[4], b[5] = 0, 0; return b }(), packet.Drop, packet.Malformed},
		{"v6 longer than it is", app, func() []byte { b := ip6(pod6, world6, nil, 6, tcp); b[4] = 9; return b }(), packet.Drop, packet.Malformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why, _ := rules.Classify(tc.side, tc.b, len(tc.b))
			if got != tc.want || why != tc.why {
				t.Errorf("action %d, reason %v; want %d, %v", got, why, tc.want, tc.why)
			}
		})
	}
}

// TestTrailingBytes: what follows a packet's own length is not part of it.
func TestTrailingBytes(t *testing.T) {
	b := append(ip4(pod4, world4, 6, nil, 0, tcp), "trailing"...)
	action, _, in := rules.Classify(aio.App, b, len(b))
	if action != packet.Stack || in.Total != len(b)-8 {
		t.Errorf("action %d, %d bytes of %d", action, in.Total, len(b))
	}
}

func TestReadICMP(t *testing.T) {
	inner4, inner6 := ip4(pod4, world4, 6, nil, 0, tcp[:8]), ip6(pod6, world6, nil, 6, tcp[:8])
	icmp4 := func(typ, code byte, rest uint32) []byte {
		return ip4(world4, pod4, 1, nil, 0, append(binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest), inner4...))
	}
	icmp6 := func(typ, code byte, rest uint32) []byte {
		return ip6(world6, pod6, nil, 58, append(binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest), inner6...))
	}
	for _, tc := range []struct {
		name string
		b    []byte
		kind packet.ICMPKind
		mtu  int
		ok   bool
	}{
		{"frag needed", icmp4(3, 4, 1400), packet.ICMPTooBig, 1400, true},
		{"frag needed, old router", icmp4(3, 4, 0), packet.ICMPTooBig, 552, true},
		{"frag needed, a trap", icmp4(3, 4, 68), 0, 0, false},
		{"host unreachable", icmp4(3, 1, 0), packet.ICMPUnreachable, 0, true},
		{"admin prohibited", icmp4(3, 13, 0), packet.ICMPUnreachable, 0, true},
		{"port unreachable", icmp4(3, 3, 0), packet.ICMPRefused, 0, true},
		{"time exceeded", icmp4(11, 0, 0), packet.ICMPSoft, 0, true},
		{"too big", icmp6(2, 0, 1300), packet.ICMPTooBig, 1300, true},
		{"too big, a trap", icmp6(2, 0, 1279), 0, 0, false},
		{"too big, absurd", icmp6(2, 0, 1<<31), packet.ICMPTooBig, 1 << 16, true},
		{"no route", icmp6(1, 0, 0), packet.ICMPUnreachable, 0, true},
		{"port unreachable 6", icmp6(1, 4, 0), packet.ICMPRefused, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			action, _, in := rules.Classify(aio.Wire, tc.b, len(tc.b))
			if action != packet.Error {
				t.Fatalf("action %d", action)
			}
			e, ok := packet.ReadICMP(in, tc.b)
			if ok != tc.ok {
				t.Fatalf("ok %v", ok)
			}
			if !ok {
				return
			}
			if e.Kind != tc.kind || e.MTU != tc.mtu || e.Local.Port() != 40000 || e.Remote.Port() != 80 || !rules.Pod(e.Local.Addr()) {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range packet.Reasons {
		name := packet.Reason(i).String()
		if name == "unknown" || name == "" || seen[name] {
			t.Errorf("reason %d is called %q", i, name)
		}
		seen[name] = true
		var back packet.Reason
		if err := back.UnmarshalText([]byte(name)); err != nil || back != packet.Reason(i) {
			t.Errorf("%q reads back as %v: %v", name, back, err)
		}
	}
	if err := new(packet.Reason).UnmarshalText([]byte("because")); err == nil {
		t.Error("a reason that is none was read")
	}
}

func FuzzClassify(f *testing.F) {
	for _, b := range [][]byte{
		ip4(pod4, world4, 6, nil, 0, tcp), ip4(pod4, world4, 17, []byte{7, 7, 4}, 0x2000, udp),
		ip6(pod6, world6, []ext{{0, pad(0)}, {43, make([]byte, 8)}, {44, fragment(0, true)}, {60, pad(1)}}, 6, tcp),
		ip4(world4, pod4, 1, nil, 0, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, ip4(pod4, world4, 6, nil, 0, tcp)...)),
		ip6(world6, pod6, nil, 58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, ip6(pod6, world6, []ext{{60, pad(0)}}, 6, tcp)...)),
	} {
		f.Add(b, true, uint16(0))
		f.Add(b, false, uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, fromApp bool, extra uint16) {
		side := aio.Wire
		if fromApp {
			side = aio.App
		}
		size := len(b)
		head := b[:min(len(b), packet.MaxHeaders)]
		if len(b) > packet.MaxHeaders {
			size += int(extra)
		}
		action, why, in := rules.Classify(side, head, size)
		if (action == packet.Drop) != (why != packet.NoReason) {
			t.Fatalf("action %d with reason %v", action, why)
		}
		if action == packet.Drop {
			return
		}
		if in.Total > size || in.NetLen > in.Total && in.First {
			t.Fatalf("%+v of %d bytes", in, size)
		}
		// Whatever passes speaks as the pod, to the world, or the other way round.
		ours, theirs := in.Src, in.Dst
		if side == aio.Wire {
			ours, theirs = theirs, ours
		}
		if !rules.Pod(ours) || rules.Pod(theirs) || theirs.IsMulticast() || theirs.IsLoopback() {
			t.Fatalf("%v from %v to %v passed", side, in.Src, in.Dst)
		}
		if action == packet.Forward {
			switch in.Proto {
			case 17, 1, 58, 50:
			default:
				t.Fatalf("protocol %d is forwarded", in.Proto)
			}
		}
		packet.TCPKey(side, in, head)
		if action == packet.Error {
			packet.ReadICMP(in, head)
		}
	})
}
