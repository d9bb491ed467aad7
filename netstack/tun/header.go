package tun

import "encoding/binary"

// HeaderLen is the length of struct virtio_net_hdr, which stands before every
// packet on a queue with IFF_VNET_HDR.
const HeaderLen = 10

// Header flags and GSO types (linux/virtio_net.h).
const (
	NeedsChecksum = 1 // the checksum is partial: add from ChecksumStart on
	DataValid     = 2 // the checksum was verified

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	gsoECN   = 0x80
)

// Header is struct virtio_net_hdr: what the sender left undone. Its zero value
// means a finished packet of which nothing is known.
type Header struct {
	Flags          uint8
	GSOType        uint8
	HeaderLen      uint16 // bytes before the payload that is to be cut
	GSOSize        uint16 // payload bytes per segment
	ChecksumStart  uint16 // from the packet's first byte
	ChecksumOffset uint16 // from ChecksumStart
}

// Put writes h, little-endian as on every machine Go and virtio meet on here.
func (h *Header) Put(b *[HeaderLen]byte) {
	b[0], b[1] = h.Flags, h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HeaderLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.ChecksumOffset)
}

// Get reads h.
func (h *Header) Get(b *[HeaderLen]byte) {
	h.Flags, h.GSOType = b[0], b[1]
	h.HeaderLen = binary.NativeEndian.Uint16(b[2:])
	h.GSOSize = binary.NativeEndian.Uint16(b[4:])
	h.ChecksumStart = binary.NativeEndian.Uint16(b[6:])
	h.ChecksumOffset = binary.NativeEndian.Uint16(b[8:])
}

// Verified reports whether the checksum needs no look: it was checked, or it is
// partial because the packet never left this machine.
func (h *Header) Verified() bool { return h.Flags&(NeedsChecksum|DataValid) != 0 }
