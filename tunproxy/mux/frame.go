package mux

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A frame is a header of eight bytes: the kind, a number of three bytes, the
// stream's id of four, most significant byte first. The number is how many bytes
// follow in DATA, how many may be sent in OPEN, OPENED and CREDIT, and 0 in all
// others; so nothing but DATA is longer than its header.
const headerLen = 8

// MaxData is the most bytes of a stream that one frame carries. With what TLS
// adds it still is one packet of segmentation offload (65,374 bytes of payload
// for gVisor), and it is more than the kernel puts into one of those at the usual
// MTU: a packet in, a packet out.
const MaxData = 65_240

// kind is what a frame says.
type kind uint8

const (
	kindData      kind = iota // bytes of the stream
	kindFin                   // the sender's direction of the stream is over
	kindReset                 // both are, at once
	kindCredit                // so many bytes more may be sent to me
	kindOpen                  // client: a new stream, and credit for it beyond what all have
	kindOpened                // server: the app is there, and credit
	kindRefused               // server: it is not
	kindElsewhere             // server: not on this hop, which takes no new stream any more
	kinds
)

// errFrame: the peer does not speak the protocol. The hop is reset.
var errFrame = errors.New("not a frame of a byte hop")

// frame is a header.
type frame struct {
	kind kind
	n    int
	id   uint32
}

// parse reads a header.
func parse(b []byte) (frame, error) {
	v := binary.BigEndian.Uint64(b)
	f := frame{kind: kind(v >> 56), n: int(v >> 32 & 0xff_ffff), id: uint32(v)} //nolint:gosec // its lower half
	ok := f.kind < kinds
	switch f.kind {
	case kindData, kindCredit:
		ok = f.n > 0
	case kindFin, kindReset, kindRefused, kindElsewhere:
		ok = f.n == 0
	}
	if !ok {
		return f, fmt.Errorf("%w: kind %d, number %d, stream %d", errFrame, f.kind, f.n, f.id)
	}
	return f, nil
}

// append is parse's reverse.
func (f frame) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(f.kind)<<56|uint64(f.n)<<32|uint64(f.id)) //nolint:gosec // 24 bits
}
