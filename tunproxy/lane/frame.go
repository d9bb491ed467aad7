package lane

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A frame is a header of four bytes, the kind and the length of what follows,
// most significant byte first. Only data has a length.
const headerLen = 4

// MaxData is the most bytes of a stream that one frame carries. With what TLS
// adds it still is one packet of segmentation offload (65,374 bytes of payload
// for gVisor), and it is more than the kernel puts into one of those at the usual
// MTU: a packet in, a packet out.
const MaxData = 65_240

// kind is what a frame says.
type kind uint8

const (
	kindData    kind = iota // bytes of the stream
	kindFin                 // the sender's direction of the stream is over
	kindOpen                // the client wants the next stream
	kindOpened              // the server's app is there
	kindRefused             // it is not
	kinds
)

// errFrame: the peer does not speak the protocol. The lane is reset.
var errFrame = errors.New("not a frame of a byte hop")

// parse reads a header.
func parse(h [headerLen]byte) (k kind, n int, err error) {
	k, n = kind(h[0]), int(binary.BigEndian.Uint32(h[:])&0xff_ffff)
	if k >= kinds || (k == kindData) != (n > 0) {
		return 0, 0, fmt.Errorf("%w: kind %d with %d bytes", errFrame, h[0], n)
	}
	return k, n, nil
}

// header is parse's reverse.
func header(k kind, n int) (h [headerLen]byte) {
	binary.BigEndian.PutUint32(h[:], uint32(k)<<24|uint32(n))
	return h
}
