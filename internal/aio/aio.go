// Package aio is the contract between what moves bytes on an event loop and
// what uses those bytes: netstack implements it, the proxy is written against
// it, aiotest fakes it. It owns the vocabulary (Loop, Conn, Handler, Timer)
// and the rules below; it refuses to know TCP, TLS, HTTP or any protocol.
//
// The rules, which every implementation and every user keeps:
//
//  1. A Conn belongs to one Loop for life. Every method of Conn, and every
//     method of Loop but Post, is called on that loop's goroutine only.
//  2. Nothing on a loop blocks. What may wait (a handshake, a control-plane
//     call) runs in a goroutine that returns by Loop.Post.
//  3. Events are edges. Readable is called after data, a FIN or an error
//     arrived; a handler that leaves data unread is not called again until
//     more arrives, so it remembers that it stopped and resumes by itself.
//     Writable is called once space is free after a Write came back short.
//  4. Handler methods are never called from inside a Conn method: a Write in
//     Readable cannot re-enter the handler. They come from the loop's pass.
//  5. Output is flushed once per pass: a user gathers what it has to say and
//     writes it in a function given to Loop.Defer.
package aio

import (
	"errors"
	"net/netip"
	"time"
)

// Errors that callers branch on. Everything else a Conn returns is terminal.
var (
	// ErrWouldBlock: nothing to read now, or no space to write now. Not terminal.
	ErrWouldBlock = errors.New("would block")
	// ErrReset: the peer sent RST, or the connection was aborted locally.
	ErrReset = errors.New("connection reset")
	// ErrRefused: the peer answered the SYN with RST.
	ErrRefused = errors.New("connection refused")
	// ErrUnreachable: no route, or an ICMP error ended the dial.
	ErrUnreachable = errors.New("host unreachable")
	// ErrTimeout: a dial's or the transport's own deadline passed.
	ErrTimeout = errors.New("timed out")
	// ErrClosed: the Conn was closed by this side before the call.
	ErrClosed = errors.New("use of closed connection")
)

// Side is the side of the stack that a connection lives on.
type Side uint8

// The two sides.
const (
	App  Side = iota // towards the pod's own processes
	Wire             // towards the network
)

func (s Side) String() string {
	if s == App {
		return "app"
	}
	return "wire"
}

// A Handler hears a connection's events, on its loop.
type Handler interface {
	// Readable: Read may return data, io.EOF or an error.
	Readable(c Conn)
	// Writable: a Write that was short may go on.
	Writable(c Conn)
	// Closed is the last event: both directions are over and all that came is
	// read, up to io.EOF, or err says why the connection broke (ErrReset,
	// ErrTimeout, …; nil after an orderly end).
	// It is not called after the user's own Close or Reset.
	Closed(c Conn, err error)
}

// Conn is a byte stream with two independent directions.
type Conn interface {
	// Loop owns the connection.
	Loop() Loop
	// Local is this end's address: for an accepted connection the original
	// destination, which need not be an address of this host.
	Local() netip.AddrPort
	// Remote is the peer's true address.
	Remote() netip.AddrPort
	// Read copies received bytes into p. It returns 0, ErrWouldBlock when there
	// are none yet and 0, io.EOF after the peer's half-close.
	Read(p []byte) (int, error)
	// Peek is Read that leaves the bytes where they are.
	Peek(p []byte) (int, error)
	// Write takes a copy of the longest prefix of p that fits and returns its
	// length, with ErrWouldBlock when that is less than len(p).
	Write(p []byte) (int, error)
	// CloseWrite half-closes: a FIN after everything written so far.
	CloseWrite() error
	// Close ends both directions in order: what was written is still delivered.
	// Unread received data turns it into a reset. Idempotent.
	Close()
	// Reset ends both directions at once with RST. Idempotent.
	Reset()
	// SetHandler replaces the receiver of events; nil parks the connection
	// (data stays buffered). If data, EOF or an error is already there, the new
	// handler is called in this or the next pass.
	SetHandler(h Handler)
	// Stats describes the transport now.
	Stats() Stats
}

// Copier is implemented by a Conn that can move received bytes into another
// Conn more cheaply than Read and Write. It moves what it can and returns the
// count; the error is nil or ErrWouldBlock when either side has to wait, io.EOF
// at the peer's half-close, or terminal. ok is false, and nothing moved, when
// dst is not of a kind it knows.
type Copier interface {
	CopyTo(dst Conn) (n int64, err error, ok bool) //nolint:revive // ok says whether the call meant anything
}

// Stats are a connection's transport figures.
type Stats struct {
	RTT         time.Duration // smoothed; 0 when not measured
	Retransmits uint64        // segments sent again
	Timeouts    uint64        // retransmission timeouts
	OutOfOrder  uint64        // segments that came before others that are missing
	ZeroWindows uint64        // times that the peer was told to stop, as nobody read what it sent
	// Dropped are segments that came and for which there was no room: in what all
	// connections together may hold, and in the connection's own queue.
	DroppedMemory, DroppedQueue uint64

	BytesIn  uint64 // payload bytes received from the peer
	BytesOut uint64 // payload bytes accepted by Write
}

// Timer is a call that is pending, or was. It is used on its loop.
type Timer interface {
	// Stop reports whether it prevented the call.
	Stop() bool
	// Reset lets the function run once d from now has passed, and at no time that
	// was asked for before. It allocates nothing, so that what needs a timer again
	// and again keeps one.
	Reset(d time.Duration)
}

// DialRequest asks for an outgoing connection.
type DialRequest struct {
	Side Side
	// Src is the source; the zero port means an ephemeral one. On the app side
	// it may be any address (the true client's), on the wire side the pod's.
	Src netip.AddrPort
	Dst netip.AddrPort
	// Timeout bounds the handshake; it must be positive.
	Timeout time.Duration
	// Done is called once, on the loop, never from inside Dial. The Conn has no
	// handler yet.
	Done func(c Conn, err error)
}

// Loop runs callbacks one after the other on one goroutine.
type Loop interface {
	// Post runs f on the loop soon; it is safe from any goroutine, and from the
	// loop itself. It reports false, and drops f, after the loop has ended.
	Post(f func()) bool
	// Defer runs f at the end of the current pass, after all ready events.
	Defer(f func())
	// AfterFunc runs f on the loop once d has passed.
	AfterFunc(d time.Duration, f func()) Timer
	// Now is monotonic time, constant within a pass.
	Now() time.Duration
	// Dial starts a connection. cancel gives up: Done is then called with
	// ErrClosed unless it was called already.
	Dial(r DialRequest) (cancel func())
}
