package tun

import (
	"encoding/binary"
	"errors"
)

// ErrNotSplit says that a packet is not the TCP packet its header claims.
var ErrNotSplit = errors.New("not a TCP packet that can be cut into segments")

// Split does in software what a Header with a GSO type leaves to the kernel: it
// cuts a TCP packet into segments of GSOSize payload bytes with lengths, IP
// identification, sequence numbers, flags and checksums of their own. emit
// borrows each segment until it returns.
func Split(h *Header, packet []byte, emit func(segment []byte)) error {
	l4, head, err := splitPoints(h, packet)
	if err != nil {
		return err
	}
	v4 := h.GSOType&^gsoECN == GSOTCPv4
	payload := packet[head:]
	seq := binary.BigEndian.Uint32(packet[l4+4:])
	id := binary.BigEndian.Uint16(packet[4:])
	flags := packet[l4+13]
	seg := make([]byte, 0, head+int(h.GSOSize))
	for first := true; len(payload) > 0 || first; first = false {
		n := min(len(payload), int(h.GSOSize))
		seg = append(append(seg[:0], packet[:head]...), payload[:n]...)
		payload = payload[n:]
		f := flags
		if len(payload) > 0 {
			f &^= 0x09 // FIN and PSH belong to the last segment
		}
		if !first {
			f &^= 0x80 // CWR to the first
		}
		seg[l4+13] = f
		binary.BigEndian.PutUint32(seg[l4+4:], seq)
		seq += uint32(n)
		if v4 {
			binary.BigEndian.PutUint16(seg[2:], uint16(len(seg)))
			binary.BigEndian.PutUint16(seg[4:], id)
			id++
			binary.BigEndian.PutUint16(seg[10:], 0)
			binary.BigEndian.PutUint16(seg[10:], ^sum(seg[:l4], 0))
		} else {
			binary.BigEndian.PutUint16(seg[4:], uint16(len(seg)-40))
		}
		binary.BigEndian.PutUint16(seg[l4+16:], 0)
		binary.BigEndian.PutUint16(seg[l4+16:], ^sum(seg[l4:], pseudo(seg, l4)))
		emit(seg)
	}
	return nil
}

// splitPoints returns where the TCP header and the payload begin.
func splitPoints(h *Header, p []byte) (l4, head int, err error) {
	switch {
	case h.GSOSize == 0 || len(p) < 40:
		return 0, 0, ErrNotSplit
	case h.GSOType&^gsoECN == GSOTCPv4 && p[0]>>4 == 4 && p[9] == 6:
		l4 = int(p[0]&15) * 4
	case h.GSOType&^gsoECN == GSOTCPv6 && p[0]>>4 == 6:
		l4 = int(h.ChecksumStart)
	default:
		return 0, 0, ErrNotSplit
	}
	if l4 < 20 || p[0]>>4 == 6 && l4 < 40 || l4+20 > len(p) {
		return 0, 0, ErrNotSplit
	}
	head = l4 + int(p[l4+12]>>4)*4
	if head < l4+20 || head > len(p) || head+int(h.GSOSize) > MaxPacket {
		return 0, 0, ErrNotSplit
	}
	return l4, head, nil
}

// ValidTCP reports whether the checksum of the TCP segment at l4 of a whole
// packet made of head and tail is right.
func ValidTCP(head, tail []byte, l4 int) bool {
	s := pseudoLen(head, len(head)+len(tail)-l4)
	part := head[l4:]
	if len(part)%2 == 1 && len(tail) > 0 {
		// The odd byte pairs with the tail's first one.
		s += uint32(part[len(part)-1])<<8 | uint32(tail[0])
		part, tail = part[:len(part)-1], tail[1:]
	}
	return sum(tail, uint32(sum(part, s))) == 0xffff
}

func pseudo(p []byte, l4 int) uint32 { return pseudoLen(p, len(p)-l4) }

func pseudoLen(p []byte, length int) uint32 {
	addrs := p[12:20]
	if p[0]>>4 == 6 {
		addrs = p[8:40]
	}
	return uint32(sum(addrs, 6)) + uint32(length)
}

// sum is the Internet checksum's running sum, folded (RFC 1071).
func sum(b []byte, start uint32) uint16 {
	s := uint64(start)
	for len(b) >= 8 {
		v := binary.BigEndian.Uint64(b)
		s += v>>32 + v&0xffffffff
		b = b[8:]
	}
	for len(b) >= 2 {
		s += uint64(b[0])<<8 | uint64(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
