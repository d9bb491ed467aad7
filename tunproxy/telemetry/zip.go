package telemetry

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/flate"
)

// zip makes a gzip stream (RFC 1952) of pieces, each compressed for itself: it
// keeps no window, so that a page under way costs bytes, not the megabyte that
// compress/flate takes for each stream.
type zip struct {
	out  bytes.Buffer
	sum  uint32
	size uint32
	over bool
}

func newZip() *zip {
	z := &zip{}
	z.out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255}) // deflate, no name, no time, fast, of no system
	return z
}

// add compresses p and returns what there is to send.
func (z *zip) add(p []byte) []byte {
	z.sum = crc32.Update(z.sum, crc32.IEEETable, p)
	z.size += uint32(len(p))
	_ = flate.StatelessDeflate(&z.out, p, false, nil) // a Buffer takes all
	return z.take()
}

// end is the rest of the stream, then nil.
func (z *zip) end() []byte {
	if z.over {
		return nil
	}
	z.over = true
	_ = flate.StatelessDeflate(&z.out, nil, true, nil)
	tail := binary.LittleEndian.AppendUint32(nil, z.sum)
	z.out.Write(binary.LittleEndian.AppendUint32(tail, z.size))
	return z.take()
}

func (z *zip) take() []byte {
	b := bytes.Clone(z.out.Bytes())
	z.out.Reset()
	return b
}
