package load

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What both ends of an HTTP/2 connection say and know.
const (
	frameHeader = 9
	// maxFrame is the default SETTINGS_MAX_FRAME_SIZE: nobody here asks for more.
	maxFrame = 16384
	// window is what both ends let the other send on a stream; connections get
	// connWindow. Neither is ever the limit of a measurement.
	window     = 4 << 20
	connWindow = 1 << 30
	// giveBack is after how many bytes a stream or connection gets its window back.
	giveBack = 1 << 20
)

func appendFrame(out []byte, kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	out = append(out, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), byte(kind), byte(flags))
	return append(binary.BigEndian.AppendUint32(out, stream), payload...)
}

func appendSettings(out []byte) []byte {
	var p []byte
	for _, s := range []http2.Setting{{ID: http2.SettingEnablePush, Val: 0}, {ID: http2.SettingInitialWindowSize, Val: window}} {
		p = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(p, uint16(s.ID)), s.Val)
	}
	out = appendFrame(out, http2.FrameSettings, 0, 0, p)
	return appendWindow(out, 0, connWindow-65535)
}

func appendWindow(out []byte, stream uint32, n int) []byte {
	return appendFrame(out, http2.FrameWindowUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// frames cuts a stream of bytes into frames.
type frames struct{ part []byte }

// next returns a frame, and what is left of in; a nil frame when there is none
// whole, and then in is kept.
func (f *frames) next(in []byte) (frame, rest []byte) {
	if len(f.part) > 0 {
		if len(f.part) < frameHeader {
			n := min(frameHeader-len(f.part), len(in))
			f.part = append(f.part, in[:n]...)
			if in = in[n:]; len(f.part) < frameHeader {
				return nil, nil
			}
		}
		n := min(frameHeader+uint24(f.part)-len(f.part), len(in))
		f.part = append(f.part, in[:n]...)
		if len(f.part) < frameHeader+uint24(f.part) {
			return nil, nil
		}
		frame = f.part
		f.part = f.part[:0] // the frame is read before the next one is cut
		return frame, in[n:]
	}
	if len(in) >= frameHeader {
		if n := frameHeader + uint24(in); len(in) >= n {
			return in[:n], in[n:]
		}
	}
	f.part = append(f.part, in...)
	return nil, nil
}

// blocks encodes header lists that repeat, as every HTTP/2 library does: with
// fields in the dynamic table from the second time on. What no longer changes
// is not encoded again.
type blocks struct {
	enc   *hpack.Encoder
	buf   bytes.Buffer
	known map[int]bool
	cache map[int][]byte
}

func newBlocks() *blocks {
	b := &blocks{known: map[int]bool{}, cache: map[int][]byte{}}
	b.enc = hpack.NewEncoder(&b.buf)
	return b
}

// limit obeys the peer's SETTINGS_HEADER_TABLE_SIZE.
func (b *blocks) limit(n uint32) {
	b.enc.SetMaxDynamicTableSizeLimit(n)
	clear(b.cache)
	clear(b.known)
}

// of is the block of the list that kind names.
func (b *blocks) of(kind int, fields []hpack.HeaderField) []byte {
	if c, ok := b.cache[kind]; ok {
		return c
	}
	b.buf.Reset()
	for _, f := range fields {
		_ = b.enc.WriteField(f) // to a bytes.Buffer
	}
	out := bytes.Clone(b.buf.Bytes())
	if !b.known[kind] { // it was entered just now: every index has moved
		b.known[kind] = true
		clear(b.cache)
	} else {
		b.cache[kind] = out
	}
	return out
}
