package bypass_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// verdict is a packet that must not be outside.
type verdict struct {
	why    string
	packet packet
}

func (v verdict) String() string { return fmt.Sprintf("%s: %v", v.why, v.packet) }

// judge says what was seen that must not be, when from attacked: anything for the
// sink but UDP and ICMP with the pod's own source, the marker in anything else,
// and what belongs to one link only.
func (o *outside) judge(from string, seen []packet) (bad []verdict) {
	self := o.self[from]
	asked := map[netip.Addr]bool{}
	for _, p := range seen {
		toSink := p.dst == o.sink4 || p.dst == o.sink6
		fromEvil := slices.Contains(self, p.src)
		carried := p.proto == protoUDP || p.proto == protoICMP || p.proto == protoICMPv6
		marked := bytes.Contains(p.bytes, []byte(marker))
		if fromEvil && carried {
			asked[p.dst] = true
		}
		// An echo is answered with its bytes, and a datagram with an error that quotes it.
		answer := carried && asked[p.src] && slices.Contains(self, p.dst)
		switch {
		case toSink && !carried:
			bad = append(bad, verdict{"reached the sink", p})
		case toSink && !fromEvil && !p.ofLink():
			bad = append(bad, verdict{"with a forged source", p})
		case marked && !answer && !(carried && fromEvil):
			bad = append(bad, verdict{"carries the marker", p})
		case marked && p.ofLink():
			bad = append(bad, verdict{"a neighbour's or router's message made by the app", p})
		case p.src == netip.MustParseAddr("fe80::77"):
			bad = append(bad, verdict{"from the app's own link-local address", p})
		}
	}
	return bad
}

// ofLink is a message between neighbours and routers of a link (RFC 4861): the
// kernels around the sink exchange such, without the marker.
func (p packet) ofLink() bool {
	return p.proto == protoICMPv6 && p.at < len(p.bytes) && p.bytes[p.at] >= 133 && p.bytes[p.at] <= 137
}

func TestJudge(t *testing.T) {
	sink, self, other := netip.MustParseAddr("10.0.0.250"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	o := &outside{sink4: sink, self: map[string][]netip.Addr{"evil": {self}}}
	m := []byte(marker)
	ask := packet{src: self, dst: sink, proto: protoICMP, bytes: m}
	for name, c := range map[string]struct {
		seen []packet
		bad  int
	}{
		"true source":                      {[]packet{ask}, 0},
		"answer":                           {[]packet{ask, {src: sink, dst: self, proto: protoICMP, bytes: m}}, 0},
		"answer of a neighbour":            {[]packet{{src: self, dst: other, proto: protoICMP, bytes: m}, {src: other, dst: self, proto: protoICMP, bytes: m}}, 0},
		"answer that nobody asked for":     {[]packet{{src: sink, dst: self, proto: protoICMP, bytes: m}}, 1},
		"answer to another":                {[]packet{ask, {src: sink, dst: other, proto: protoICMP, bytes: m}}, 1},
		"forged source":                    {[]packet{{src: other, dst: sink, proto: protoUDP}}, 1},
		"forged source to another":         {[]packet{{src: other, dst: self, proto: protoUDP, bytes: m}}, 1},
		"TCP":                              {[]packet{{src: self, dst: sink, proto: protoTCP}}, 1},
		"TCP with the marker to another":   {[]packet{{src: self, dst: other, proto: protoTCP, bytes: m}}, 1},
		"something else":                   {[]packet{{src: other, dst: self, proto: protoTCP}}, 0},
		"neighbours' message with marker":  {[]packet{{src: self, dst: other, proto: protoICMPv6, bytes: append([]byte{136}, m...)}}, 1},
		"the kernel's neighbours' message": {[]packet{{src: other, dst: sink, proto: protoICMPv6, bytes: []byte{135}}}, 0},
	} {
		if got := o.judge("evil", c.seen); len(got) != c.bad {
			t.Errorf("%s: %v, want %d", name, got, c.bad)
		}
	}
}
