// Package frame is the bytes of HTTP/2 frames (RFC 9113, sections 4 and 6):
// it owns the nine-byte header, the payload of every frame type and the checks
// that need nothing but the frame itself. It refuses to know streams,
// connections, header compression or who speaks.
//
// Reading is parsing in place: Parse looks at a header, Split says whether a
// whole frame lies in a buffer, and the Parse functions of the types take a
// payload apart without copying. Writing is appending to a caller's buffer.
package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Sizes in bytes.
const (
	// HeaderLen is the length of a frame's header.
	HeaderLen = 9
	// MinMaxSize is the smallest and the initial SETTINGS_MAX_FRAME_SIZE.
	MinMaxSize = 1 << 14
	// MaxMaxSize is the largest SETTINGS_MAX_FRAME_SIZE.
	MaxMaxSize = 1<<24 - 1
	// InitialWindow is the flow-control window before any SETTINGS.
	InitialWindow = 1<<16 - 1
	// MaxWindow is the largest flow-control window.
	MaxWindow = 1<<31 - 1
	// MaxStreamID is the largest stream identifier.
	MaxStreamID = 1<<31 - 1
)

// Preface is what a client sends before its first frame (section 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Type is a frame type. Unknown types are ignored by a receiver.
type Type uint8

// The frame types of section 6.
const (
	Data Type = iota
	Headers
	Priority
	RSTStream
	Settings
	PushPromise
	Ping
	GoAway
	WindowUpdate
	Continuation
)

func (t Type) String() string {
	names := [...]string{
		"DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS",
		"PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("frame type %#x", uint8(t))
}

// Flags of a frame; their meaning depends on its type.
type Flags uint8

// The flags of section 6.
const (
	EndStream   Flags = 0x1 // DATA, HEADERS
	Ack         Flags = 0x1 // SETTINGS, PING
	EndHeaders  Flags = 0x4 // HEADERS, PUSH_PROMISE, CONTINUATION
	Padded      Flags = 0x8 // DATA, HEADERS, PUSH_PROMISE
	HasPriority Flags = 0x20
)

// Has reports whether all of want are set.
func (f Flags) Has(want Flags) bool { return f&want == want }

// Header is a frame's header. The reserved bit is dropped.
type Header struct {
	Length int // of the payload
	Type   Type
	Flags  Flags
	Stream uint32
}

// Parse reads a header; b holds at least HeaderLen bytes.
func Parse(b []byte) Header {
	_ = b[8]
	return Header{
		Length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		Type:   Type(b[3]),
		Flags:  Flags(b[4]),
		Stream: binary.BigEndian.Uint32(b[5:]) & MaxStreamID,
	}
}

// Split takes one whole frame from the front of b. ok is false when b holds
// only a part of it; the error is of kind FrameSizeError when the frame is
// longer than maxSize, whether it is whole or not.
func Split(b []byte, maxSize int) (h Header, payload, rest []byte, ok bool, err error) {
	if len(b) < HeaderLen {
		return Header{}, nil, b, false, nil
	}
	h = Parse(b)
	if h.Length > maxSize {
		return h, nil, b, false, Errorf(message.FrameSizeError, "%v frame of %d bytes, more than the %d allowed", h.Type, h.Length, maxSize)
	}
	end := HeaderLen + h.Length
	if len(b) < end {
		return h, nil, b, false, nil
	}
	return h, b[HeaderLen:end], b[end:], true, nil
}

// Error is a breach of the protocol that ends the connection.
type Error struct {
	Code   message.Code
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("http2 error %#x: %s", uint32(e.Code), e.Reason) }

// Errorf makes an Error.
func Errorf(code message.Code, format string, args ...any) *Error {
	return &Error{Code: code, Reason: fmt.Sprintf(format, args...)}
}
