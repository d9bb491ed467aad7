package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
)

// Config of a connection. The zero value is a good one for the hop between two
// sidecars; every zero field takes its default.
type Config struct {
	// Memory is shared by the connections of one loop. Default: one of its own,
	// which costs a connection some 70 KB.
	Memory *Memory
	// Counters add up what connections met; any number may share them. Default:
	// counted for nobody.
	Counters *Counters

	// MaxStreams is how many streams the peer may have open at a time. More are
	// refused. Default 1000 in a server; a client's peer opens none.
	MaxStreams int
	// StreamWindow bounds the bytes delivered on one stream and not yet
	// consumed. A stream begins with at most 64 KiB and gets more when its
	// receiver keeps up. Default 256 KiB.
	StreamWindow int
	// ConnWindow bounds the bytes delivered on all streams and not yet consumed.
	// The connection's window reopens as data arrives, whoever consumes it, so
	// that a slow receiver stops its own sender only, until this much is held:
	// 64 MiB by default, more than 1000 streams that never consume can fill.
	ConnWindow int
	// MaxHeaderList bounds a head's decoded size: names, values and 32 bytes a
	// field (RFC 9113, section 6.5.2). A larger request is answered with 431, a
	// larger response aborts its stream. Default 64 KiB.
	MaxHeaderList int
	// HeaderTable bounds the HPACK table of either direction. Default 4096.
	HeaderTable int
	// ExtendedConnect lets a server's clients use :protocol (RFC 8441).
	ExtendedConnect bool

	// Keepalive pings a peer that is silent.
	Keepalive Keepalive
	// Timeouts bound what waits for the peer.
	Timeouts Timeouts
	// Limits bound what a peer may make us do.
	Limits Limits

	// OnClosed is the last event of a connection, after every stream heard
	// Aborted: nil after an orderly end. Like all events it is never called
	// from inside a method of the connection or of a stream.
	OnClosed func(err error)
	// OnDrain says that the peer takes no more streams: GOAWAY. Streams that it
	// did not name as lost go on.
	OnDrain func()
	// OnCapacity says that a client whose OpenStream answered ErrSaturated has
	// room again.
	OnCapacity func()
}

// Keepalive notices a dead peer: after Interval without a byte from it a PING
// is sent, and Timeout later the connection is given up. The default, 2 s and
// 2 s, notices a dead peer within 5 s and is meant for peers of the mesh: some
// servers (gRPC's) refuse clients that ping often, so it must be off (Interval
// -1) on connections to anybody else, where the transport's own keepalive serves.
type Keepalive struct {
	Interval, Timeout time.Duration
}

// Timeouts bound waiting.
type Timeouts struct {
	// Settings is how long the peer may take to begin with its preface and
	// SETTINGS, and to acknowledge ours. Default 10 s.
	Settings time.Duration
	// Frame is how long a header block or a frame other than DATA may take to
	// arrive whole. Default 10 s.
	Frame time.Duration
	// Write is how long output may wait for a transport that takes less than
	// Limits.MinRate. Default 60 s.
	Write time.Duration
	// Body is how far announced bytes may fall behind Limits.MinRate: those of a
	// request body with Content-Length, and those of a DATA frame. Between frames
	// of a body without, silence is a stream's right. Default 30 s.
	Body time.Duration
	// Unread is the same for response bytes that wait for their stream's window.
	// Not for gRPC, whose clients may rest as long as they like. Default 5 min.
	Unread time.Duration
	// Linger is how long, after an error, the peer is read on so that it can
	// receive why. Default 1 s.
	Linger time.Duration
	// DrainRTT is how long the first GOAWAY of Drain waits for its PING to come
	// back before the final one names the last stream. Default 1 s.
	DrainRTT time.Duration
}

// Limits bound what a peer may cost. Rates are token buckets: Burst at once,
// refilled by PerSecond. When one is used up the connection is closed with
// ENHANCE_YOUR_CALM and counted in Counters.
type Limits struct {
	// Resets counts streams that a client opened and reset within a second and
	// before any response (rapid reset), that the peer made us reset by a breach
	// of its own (MadeYouReset), or that were refused as too many. Default 1000,
	// 200/s.
	Resets Rate
	// Control counts SETTINGS, PING, PRIORITY, and frames of unknown types or
	// for streams long closed. Default 1000, 200/s.
	Control Rate
	// Empty counts frames that say nothing: DATA without data, header frames
	// without fragment; and those that we have to send for a peer whose windows
	// are a few bytes wide. Default 2000, 1000/s.
	Empty Rate
	// MinRate is how slow a peer may be where it keeps us waiting, in bytes per
	// second: see Timeouts. Default 240.
	MinRate int
	// Continuations bounds the CONTINUATION frames of one header block. Default 32.
	Continuations int
	// Replies bounds, in bytes, answers that wait to be sent because the peer
	// does not read: acknowledgements and resets. Default 64 KiB.
	Replies int
	// Informational bounds the 1xx heads that wait on one stream. Default 16.
	Informational int
}

// Rate is a token bucket.
type Rate struct{ Burst, PerSecond int }

func (c Config) withDefaults(server bool) Config {
	if c.Memory == nil {
		c.Memory = NewMemory()
	}
	if c.Counters == nil {
		c.Counters = new(Counters)
	}
	def(&c.MaxStreams, 1000)
	if !server {
		c.MaxStreams = 0
	}
	def(&c.StreamWindow, 256<<10)
	def(&c.ConnWindow, 64<<20)
	c.StreamWindow = min(c.StreamWindow, frame.MaxWindow)
	c.ConnWindow = min(max(c.ConnWindow, c.StreamWindow, frame.InitialWindow), frame.MaxWindow)
	def(&c.MaxHeaderList, 64<<10)
	def(&c.HeaderTable, 4096)
	def(&c.Keepalive.Interval, 2*time.Second)
	def(&c.Keepalive.Timeout, 2*time.Second)
	def(&c.Timeouts.Settings, 10*time.Second)
	def(&c.Timeouts.Frame, 10*time.Second)
	def(&c.Timeouts.Write, 60*time.Second)
	def(&c.Timeouts.Body, 30*time.Second)
	def(&c.Timeouts.Unread, 5*time.Minute)
	def(&c.Timeouts.Linger, time.Second)
	def(&c.Timeouts.DrainRTT, time.Second)
	def(&c.Limits.Resets, Rate{1000, 200})
	def(&c.Limits.Control, Rate{1000, 200})
	def(&c.Limits.Empty, Rate{2000, 1000})
	def(&c.Limits.MinRate, 240)
	def(&c.Limits.Continuations, 32)
	def(&c.Limits.Replies, 64<<10)
	def(&c.Limits.Informational, 16)
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
