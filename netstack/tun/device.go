// Package tun moves IP packets in and out of one queue of a TUN device, each
// with a virtio header that says which checksum and segmentation work is left
// to do. It owns the file descriptor, the system calls and what their errors
// mean; it refuses to know what is in a packet, except when it must finish the
// segmentation that a kernel refuses.
//
// One queue belongs to one goroutine. Nothing blocks: a queue that has nothing
// says ErrEmpty, and its descriptor is given to the owner's epoll.
package tun

import "errors"

// Errors that the owner of a queue branches on.
var (
	// ErrEmpty: no packet now.
	ErrEmpty = errors.New("no packet")
	// ErrFull: no room in the device now; the packet is lost, as on a wire.
	ErrFull = errors.New("no room in the device")
	// ErrGone: the device was deleted or the queue detached; it never comes back.
	ErrGone = errors.New("the device is gone")
)

// Device is one queue. A Device is used by one goroutine.
type Device interface {
	// Read puts a packet into head and, where head is full, on into tail. It
	// returns the packet's length, or ErrEmpty, ErrGone or a passing error.
	Read(h *Header, head, tail []byte) (int, error)
	// Write sends the packet made of parts. It keeps nothing. ErrFull, ErrGone
	// and passing errors lose the packet.
	Write(h *Header, parts [][]byte) error
	// FD becomes readable when Read has something.
	FD() int
	// Close gives the descriptor back. Idempotent.
	Close() error
}

// MaxPacket is the largest packet, IP header included.
const MaxPacket = 65535
