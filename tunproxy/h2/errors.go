package h2

import (
	"errors"
	"fmt"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Errors of OpenStream and of closed connections.
var (
	// ErrSaturated: as many streams are open as the peer allows. OnCapacity
	// says when there is room.
	ErrSaturated = errors.New("http2: the peer's limit of concurrent streams is reached")
	// ErrDraining: the peer sent GOAWAY, Drain was called, or stream
	// identifiers are used up; open another connection.
	ErrDraining = errors.New("http2: the connection takes no more streams")
	// ErrClosed: the connection is closed.
	ErrClosed = errors.New("http2: the connection is closed")
	// ErrDeadPeer: the peer answered no PING in time.
	ErrDeadPeer = errors.New("http2: the peer does not answer")
	// ErrSlowPeer: the peer took too long for its SETTINGS or to finish a frame,
	// or to send or read a body at MinRate.
	ErrSlowPeer = errors.New("http2: the peer is too slow")
	// ErrWriteStall: the transport took no output in time.
	ErrWriteStall = errors.New("http2: the peer does not read")
	// ErrInformational: more 1xx responses wait for the peer than are allowed.
	ErrInformational = errors.New("http2: too many informational responses wait")
	// ErrMemory: the stream held most while more was held than may be.
	ErrMemory = errors.New("http2: too many bytes wait for receivers that are slow")
	// ErrNoExtendedConnect: the peer's SETTINGS do not allow :protocol (RFC 8441).
	ErrNoExtendedConnect = errors.New("http2: the peer does not take extended CONNECT")
	// ErrBroken: the peer closed the transport while streams were open.
	ErrBroken = errors.New("http2: the peer closed the connection")
)

// GoAwayError is the peer's reason for closing.
type GoAwayError struct {
	Code  message.Code
	Debug string // at most 128 bytes
}

func (e *GoAwayError) Error() string {
	return fmt.Sprintf("http2: the peer sent GOAWAY %#x %q", uint32(e.Code), e.Debug)
}
