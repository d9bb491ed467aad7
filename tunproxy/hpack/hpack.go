// Package hpack is header compression for HTTP/2 (RFC 7541): a Decoder and an
// Encoder, each with its dynamic table. It owns the tables, Huffman coding and
// the bounds on them; it refuses to know frames, HTTP and what a field means.
//
// Neither allocates in steady state: strings are made once, when an entry
// enters a table or an Interner, and shared from then on.
package hpack

import "errors"

// DefaultTableSize is the dynamic table's size in bytes before any settings.
const DefaultTableSize = 4096

// bombFactor is by how much a list may exceed its limit and still be read to its
// end: 64 KiB of references to a large entry decode to a quarter of a gigabyte.
const bombFactor = 4

// FieldOverhead is what a field counts beyond its name and value, both in a
// table's size and in a header list's (section 4.1).
const FieldOverhead = 32

// Errors of Decode. All but ErrListTooLarge leave the decoder unusable: the
// connection must end with COMPRESSION_ERROR.
var (
	ErrTruncated = errors.New("hpack: the block ends inside a field")
	ErrInteger   = errors.New("hpack: integer too large")
	ErrIndex     = errors.New("hpack: index beyond the tables")
	ErrHuffman   = errors.New("hpack: invalid Huffman code or padding")
	ErrSize      = errors.New("hpack: table size update above the limit, late, or missing")
	// ErrListTooLarge: the fields exceed the limit. The block was read to its
	// end, so the decoder stays in step; what was emitted is not all.
	ErrListTooLarge = errors.New("hpack: header list too large")
	// ErrBomb: the fields exceed it bombFactor times; the rest was not read.
	ErrBomb = errors.New("hpack: header list far too large")
)

// appendInt appends i with an n-bit prefix; first holds the bits before it
// (section 5.1).
func appendInt(dst []byte, first byte, n uint, i uint64) []byte {
	limit := uint64(1)<<n - 1
	if i < limit {
		return append(dst, first|byte(i))
	}
	dst = append(dst, first|byte(limit))
	for i -= limit; i >= 0x80; i >>= 7 {
		dst = append(dst, byte(i)|0x80)
	}
	return append(dst, byte(i))
}

// readInt reads an integer with an n-bit prefix from b, which is not empty.
// Integers of more than 28 bits beyond the prefix are nobody's honest sizes.
func readInt(b []byte, n uint) (i uint64, rest []byte, err error) {
	limit := uint64(1)<<n - 1
	i = uint64(b[0]) & limit
	b = b[1:]
	if i < limit {
		return i, b, nil
	}
	for shift := uint(0); shift < 28; shift += 7 {
		if len(b) == 0 {
			return 0, nil, ErrTruncated
		}
		c := b[0]
		b = b[1:]
		i += uint64(c&0x7f) << shift
		if c < 0x80 {
			return i, b, nil
		}
	}
	return 0, nil, ErrInteger
}
