// Package pcapng writes captures in the format of that name, which Wireshark and
// tshark read. It owns the blocks that a capture of a sidecar needs: two
// interfaces of IP packets, what was lost, and comments. It refuses to know where
// packets come from.
package pcapng

import (
	"encoding/binary"
	"io"
	"time"
)

// Interface is one of the two sides of a sidecar.
type Interface uint32

// The interfaces, in the order in which the file has them.
const (
	App  Interface = iota // decrypted: what the pod's app sends and gets
	Wire                  // what is on the network
)

// Block types and options, as the format numbers them.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockStats     = 5
	blockPacket    = 6

	optComment     = 1
	optHardware    = 2 // of a section
	optApplication = 4
	optName        = 2 // of an interface
	optDescription = 3
	optResolution  = 9
	optFlags       = 2 // of a packet
	optDropped     = 5 // of statistics

	linkRaw    = 101 // IPv4 or IPv6, and nothing before
	nanos      = 9   // time is in units of ten to minus nine seconds
	flagIn     = 1
	flagOut    = 2
	byteOrder  = 0x1a2b3c4d
	anyLength  = ^uint64(0)
	maxSnap    = 1 << 18
	blockFrame = 12 // type and both lengths
)

// Writer writes a capture. Each method writes whole blocks at once.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter begins a capture of what is named; comment is said of all of it.
func NewWriter(w io.Writer, application, name, comment string) (*Writer, error) {
	p := &Writer{w: w}
	b := binary.LittleEndian.AppendUint32(nil, byteOrder)
	b = binary.LittleEndian.AppendUint16(b, 1) // version 1.0
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint64(b, anyLength)
	if comment != "" {
		b = option(b, optComment, []byte(comment))
	}
	b = end(option(option(b, optHardware, []byte(name)), optApplication, []byte(application)))
	if err := p.block(blockSection, b); err != nil {
		return nil, err
	}
	for _, i := range []struct{ name, about string }{
		{"app", "decrypted: what the app of " + name + " sends and gets"},
		{"wire", "what is on the network: mTLS between sidecars"},
	} {
		b := binary.LittleEndian.AppendUint16(nil, linkRaw)
		b = binary.LittleEndian.AppendUint16(b, 0)
		b = binary.LittleEndian.AppendUint32(b, maxSnap)
		b = end(option(option(option(b, optName, []byte(i.name)), optDescription, []byte(i.about)), optResolution, []byte{nanos}))
		if err := p.block(blockInterface, b); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Packet writes one. data is its beginning, of length bytes.
func (p *Writer) Packet(i Interface, at time.Time, out bool, data []byte, length uint32, comment string) error {
	b := binary.LittleEndian.AppendUint32(nil, uint32(i))
	t := uint64(at.UnixNano()) //nolint:gosec // after 1970
	b = binary.LittleEndian.AppendUint32(b, uint32(t>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(t)) //nolint:gosec // the lower half
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, length)
	b = pad(append(b, data...))
	if comment != "" {
		b = option(b, optComment, []byte(comment))
	}
	flags := uint32(flagIn)
	if out {
		flags = flagOut
	}
	return p.block(blockPacket, end(option(b, optFlags, binary.LittleEndian.AppendUint32(nil, flags))))
}

// Lost says how many packets of an interface the capture has missed so far.
func (p *Writer) Lost(i Interface, at time.Time, n uint64) error {
	b := binary.LittleEndian.AppendUint32(nil, uint32(i))
	t := uint64(at.UnixNano()) //nolint:gosec // after 1970
	b = binary.LittleEndian.AppendUint32(b, uint32(t>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(t)) //nolint:gosec // the lower half
	return p.block(blockStats, end(option(b, optDropped, binary.LittleEndian.AppendUint64(nil, n))))
}

func (p *Writer) block(kind uint32, body []byte) error {
	n := uint32(len(body) + blockFrame) //nolint:gosec // some 64 KB at most
	p.buf = binary.LittleEndian.AppendUint32(p.buf[:0], kind)
	p.buf = binary.LittleEndian.AppendUint32(p.buf, n)
	p.buf = append(p.buf, body...)
	p.buf = binary.LittleEndian.AppendUint32(p.buf, n)
	_, err := p.w.Write(p.buf)
	return err
}

func option(b []byte, code uint16, value []byte) []byte {
	value = value[:min(len(value), 1<<15)]
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value))) //nolint:gosec // see above
	return pad(append(b, value...))
}

func end(b []byte) []byte { return append(b, 0, 0, 0, 0) }

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
