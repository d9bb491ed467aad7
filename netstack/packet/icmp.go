package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// ICMPKind is the meaning of an ICMP error about a TCP segment.
type ICMPKind uint8

// The kinds. Soft errors say nothing that TCP must act on (RFC 5927).
const (
	ICMPSoft        ICMPKind = iota // time exceeded, parameter problem, source quench
	ICMPTooBig                      // packet too big: MTU is set
	ICMPUnreachable                 // host, network or administration said no
	ICMPRefused                     // port unreachable
)

// ICMPError is an ICMP error about a TCP segment that was sent from Local to
// Remote, seen from whoever sent that segment.
type ICMPError struct {
	Kind          ICMPKind
	Local, Remote netip.AddrPort
	MTU           int // of the path; only with ICMPTooBig
}

// The smallest path MTUs that are believed: below, an error would be a way to
// starve a connection (Linux's min_pmtu; RFC 8200 section 5).
const (
	minMTU4 = 552
	minMTU6 = 1280
)

// classifyICMP decides about a whole ICMP message, or the first piece of one.
func classifyICMP(in *Info, head []byte) (Action, Reason, Info) {
	b := head[in.NetLen:min(len(head), in.Total)]
	if len(b) < 8 {
		return Drop, ICMPInvalid, *in
	}
	isError := false
	if in.V6 {
		switch t := b[0]; {
		case t >= 1 && t <= 4:
			isError = true
		case t >= 130 && t <= 137, t >= 141 && t <= 143, t >= 148 && t <= 153:
			return Drop, LinkLocal, *in // listeners, neighbours, routers: of one link only
		}
	} else {
		switch b[0] {
		case 3, 4, 11, 12:
			isError = true
		case 5, 9, 10:
			return Drop, ICMPRedirect, *in
		}
	}
	if !isError {
		return Forward, NoReason, *in
	}
	inner, ok := parseInner(b[8:])
	switch {
	case !ok, inner.V6 != in.V6:
		return Drop, ICMPInvalid, *in
	case inner.Proto == ProtoTCP:
		return Error, NoReason, *in
	}
	return Forward, NoReason, *in
}

// ReadICMP reads the error of a packet for which Classify said Error. ok is
// false when it names no ports or a path MTU that cannot be believed.
func ReadICMP(in Info, head []byte) (e ICMPError, ok bool) {
	b := head[in.NetLen:min(len(head), in.Total)]
	if len(b) < 8 {
		return e, false
	}
	inner, ok := parseInner(b[8:])
	if !ok || inner.Proto != ProtoTCP || !inner.First {
		return e, false
	}
	th := b[8+inner.NetLen:]
	if len(th) < 4 {
		return e, false
	}
	e.Local = netip.AddrPortFrom(inner.Src, binary.BigEndian.Uint16(th))
	e.Remote = netip.AddrPortFrom(inner.Dst, binary.BigEndian.Uint16(th[2:]))
	if in.V6 {
		return e, e.kind6(b)
	}
	return e, e.kind4(b)
}

func (e *ICMPError) kind4(b []byte) bool {
	if b[0] != 3 {
		return true
	}
	switch b[1] {
	case 3:
		e.Kind = ICMPRefused
	case 4:
		e.Kind, e.MTU = ICMPTooBig, int(binary.BigEndian.Uint16(b[6:]))
		if e.MTU == 0 {
			e.MTU = minMTU4 // a router from before RFC 1191 does not say
		}
		return e.MTU >= minMTU4
	case 5: // source route failed: we send none
	default:
		e.Kind = ICMPUnreachable
	}
	return true
}

func (e *ICMPError) kind6(b []byte) bool {
	switch {
	case b[0] == 2:
		mtu := binary.BigEndian.Uint32(b[4:])
		e.Kind, e.MTU = ICMPTooBig, int(min(mtu, 1<<16))
		return e.MTU >= minMTU6
	case b[0] == 1 && b[1] == 4:
		e.Kind = ICMPRefused
	case b[0] == 1:
		e.Kind = ICMPUnreachable
	}
	return true
}

// parseInner reads the header of the packet that an error quotes: it is cut off
// anywhere after its ports, so its length is not held against it.
func parseInner(b []byte) (Info, bool) {
	if len(b) < 20 {
		return Info{}, false
	}
	if b[0]>>4 == 4 {
		in := Info{NetLen: int(b[0]&15) * 4, Proto: b[9], Total: len(b)}
		in.First = binary.BigEndian.Uint16(b[6:])&0x1fff == 0
		in.Src, in.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		return in, in.NetLen >= 20 && in.NetLen <= len(b)
	}
	if b[0]>>4 != 6 || len(b) < 40 {
		return Info{}, false
	}
	in := Info{V6: true, First: true, Total: len(b)}
	in.Src, in.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	return in, walk6(&in, b) == NoReason
}

// Key names a TCP flow as the side it arrives on sees it.
type Key struct {
	Side          aio.Side
	Remote, Local netip.AddrPort
}

// TCPKey reads the flow of a TCP segment that is whole or a first piece.
func TCPKey(side aio.Side, in Info, head []byte) (Key, bool) {
	end := min(len(head), in.Total)
	if !in.First || in.NetLen+4 > end {
		return Key{}, false
	}
	th := head[in.NetLen:end]
	return Key{
		Side:   side,
		Remote: netip.AddrPortFrom(in.Src, binary.BigEndian.Uint16(th)),
		Local:  netip.AddrPortFrom(in.Dst, binary.BigEndian.Uint16(th[2:])),
	}, true
}
