package frame

import (
	"encoding/binary"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// AppendHeader appends a frame header; the payload follows it.
func AppendHeader(dst []byte, h Header) []byte {
	return append(dst,
		byte(h.Length>>16), byte(h.Length>>8), byte(h.Length), byte(h.Type), byte(h.Flags),
		byte(h.Stream>>24), byte(h.Stream>>16), byte(h.Stream>>8), byte(h.Stream))
}

// PutHeader overwrites the header at the start of b.
func PutHeader(b []byte, h Header) { AppendHeader(b[:0], h) }

// AppendData appends one DATA frame with p, which the peer's maximum bounds.
func AppendData(dst []byte, stream uint32, p []byte, end bool) []byte {
	dst = AppendHeader(dst, Header{Length: len(p), Type: Data, Flags: endFlag(end), Stream: stream})
	return append(dst, p...)
}

// AppendHeaders appends a header block as a HEADERS frame and as many
// CONTINUATION frames as frames of at most maxSize bytes need.
func AppendHeaders(dst []byte, stream uint32, block []byte, end bool, maxSize int) []byte {
	at := len(dst)
	dst = AppendHeader(dst, Header{Type: Headers, Flags: endFlag(end), Stream: stream})
	return FinishHeaders(append(dst, block...), at, maxSize)
}

// FinishHeaders completes a HEADERS frame whose header, with a length not yet
// known, lies at dst[at:] and whose block is the rest of dst: it writes the
// length and the END_HEADERS flag, or cuts the block into CONTINUATION frames.
// So a block is encoded in place, behind the header it belongs to.
func FinishHeaders(dst []byte, at, maxSize int) []byte {
	h := Parse(dst[at:])
	block := len(dst) - at - HeaderLen
	if block <= maxSize {
		h.Length, h.Flags = block, h.Flags|EndHeaders
		PutHeader(dst[at:], h)
		return dst
	}
	pieces := (block + maxSize - 1) / maxSize
	for range pieces - 1 {
		dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	// From the last piece to the first, each moves behind the headers before it.
	for i := pieces - 1; i > 0; i-- {
		from := at + HeaderLen + i*maxSize
		to := from + i*HeaderLen
		n := min(maxSize, block-i*maxSize)
		copy(dst[to:to+n], dst[from:from+n])
		c := Header{Length: n, Type: Continuation, Stream: h.Stream}
		if i == pieces-1 {
			c.Flags = EndHeaders
		}
		PutHeader(dst[to-HeaderLen:], c)
	}
	h.Length = maxSize
	PutHeader(dst[at:], h)
	return dst
}

// AppendRST appends RST_STREAM.
func AppendRST(dst []byte, stream uint32, code message.Code) []byte {
	dst = AppendHeader(dst, Header{Length: 4, Type: RSTStream, Stream: stream})
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// AppendSettings appends a SETTINGS frame.
func AppendSettings(dst []byte, settings ...Setting) []byte {
	dst = AppendHeader(dst, Header{Length: 6 * len(settings), Type: Settings})
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Value)
	}
	return dst
}

// AppendSettingsAck appends the acknowledgement of a SETTINGS frame.
func AppendSettingsAck(dst []byte) []byte {
	return AppendHeader(dst, Header{Type: Settings, Flags: Ack})
}

// AppendPing appends a PING or its answer.
func AppendPing(dst []byte, ack bool, data uint64) []byte {
	h := Header{Length: 8, Type: Ping}
	if ack {
		h.Flags = Ack
	}
	return binary.BigEndian.AppendUint64(AppendHeader(dst, h), data)
}

// AppendGoAway appends GOAWAY with debug data for people.
func AppendGoAway(dst []byte, lastStream uint32, code message.Code, debug string) []byte {
	dst = AppendHeader(dst, Header{Length: 8 + len(debug), Type: GoAway})
	dst = binary.BigEndian.AppendUint32(dst, lastStream)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

// AppendWindowUpdate appends a WINDOW_UPDATE of n bytes for a stream, or for
// the connection (0).
func AppendWindowUpdate(dst []byte, stream, n uint32) []byte {
	dst = AppendHeader(dst, Header{Length: 4, Type: WindowUpdate, Stream: stream})
	return binary.BigEndian.AppendUint32(dst, n)
}

func endFlag(end bool) Flags {
	if end {
		return EndStream
	}
	return 0
}
