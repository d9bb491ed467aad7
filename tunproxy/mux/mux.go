// Package mux carries many byte streams over one secured connection between two
// sidecars (docs/design/0008). It owns the frames, who may say what when, flow
// control, order and fairness between streams, half-close and reset of a stream,
// and what a peer that breaks the rules may cost; it refuses to know what the
// bytes mean, who the ends are, and when a hop is made or given up.
//
// A Hop belongs to one side:
//
//	client:  Open ──OPENED──▶ open ──both FINs, Close──▶ over
//	           └──REFUSED, ELSEWHERE, timeout──▶ over
//	server:  Asked ──Accept──▶ open ──both FINs, Close──▶ over
//	           └──Refuse, Elsewhere──▶ over
//
// and RESET, from either side, or the end of the connection leads to the end of
// streams at once. The first stream is open from the beginning: the connection
// itself asked for it.
//
// What becomes ready in one pass of the loop leaves in one write. What a stream
// may send is what its receiver promised to hold, so a slow reader stops its own
// sender and nobody else. Promised bytes are counted whether or not they are used.
package mux

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/memory"
)

const (
	// baseWindow is what every stream may be sent from its OPEN on, in bytes.
	baseWindow = 4 << 10
	// firstWindow is what it may be sent when memory is plenty, maxWindow what it
	// grows to while its sender is faster than the credit comes back: what one TCP
	// connection has.
	firstWindow = 16 << 10
	maxWindow   = 1 << 20
	// growWithin: half a window was used in less time, or in less than four round
	// trips, so the next may be twice as large.
	growWithin = 10 * time.Millisecond
	// maxStreams bounds the streams of a hop: what a client uses, and what a server
	// bears, for whom streams may end later than for the client.
	maxStreams       = 1024
	maxServerStreams = 2 * maxStreams
	// linger bounds how long a closed stream waits for its peer's FIN.
	linger = 10 * time.Second
)

// Errors that are the answer to Open, besides aio.ErrRefused and aio.ErrTimeout.
var (
	// ErrElsewhere: the hop takes no new stream.
	ErrElsewhere = errors.New("the byte hop takes no new stream")
	// ErrFlood: the peer says more than its streams have reason for.
	ErrFlood = errors.New("flood of frames on a byte hop")
)

// errTruncated: the connection ended and the stream had not.
var errTruncated = fmt.Errorf("%w: the byte hop ended in mid-stream", aio.ErrReset)

// Owner hears of what happens to a hop beside its streams. Its methods are called
// on the hop's loop, and may be called from inside a method of a Stream.
type Owner interface {
	// Asked: the client wants a stream. Server hops only; Accept, Refuse or
	// Elsewhere answers, now or later.
	Asked(s *Stream)
	// Idle: the last stream is over.
	Idle(h *Hop)
	// Gone: the hop is over, once; err is nil after an orderly end.
	Gone(h *Hop, err error)
}

// Shared is what the hops of one loop share.
type Shared struct {
	// Bound is of the bytes that were promised to be held.
	Bound *memory.Bound
	// Floods and Breaches count hops that were broken for what their peers said.
	// They may be read from any goroutine.
	Floods, Breaches atomic.Uint64

	in     []byte // what one read fetches; borrowed
	spare  []byte // for a hop's out
	served int    // streams of server hops
}

// DefaultLimit is a Bound's limit in bytes unless another is given: as many
// connections as clients may have, of the smallest window each.
const DefaultLimit = 64 << 20

// NewShared makes what the hops of one loop share. limit bounds what they may have
// promised, in bytes; 0: DefaultLimit.
func NewShared(limit int) *Shared {
	if limit <= 0 {
		limit = DefaultLimit
	}
	return &Shared{Bound: memory.NewBound(limit), in: make([]byte, 2*(headerLen+MaxData))}
}

// Served is how many streams the loop's server hops have.
func (s *Shared) Served() int { return s.served }

// window is what a new stream gets.
func (s *Shared) window() int {
	if s.Bound.Roomy() {
		return firstWindow
	}
	return baseWindow
}

// Hop is a connection that carries streams. Its methods belong to its loop.
type Hop struct {
	c      aio.Conn
	shared *Shared
	owner  Owner
	server bool
	gone   bool
	full   bool // takes no new stream any more

	told aio.Stats // what streams have said of the connection

	streams map[uint32]*Stream
	first   *Stream
	last    uint32 // the newest stream's id
	asked   int    // server: streams without an answer
	bulkAt  time.Duration
	heard   time.Duration // when something came

	reader
	writer
}

// Client makes a hop of c, which it takes, for the side that dialled. Server is
// the same for the other one. The first stream is open.
func Client(c aio.Conn, s *Shared, o Owner) *Hop { return begin(c, s, o, false) }

// Server is described at Client.
func Server(c aio.Conn, s *Shared, o Owner) *Hop { return begin(c, s, o, true) }

func begin(c aio.Conn, sh *Shared, o Owner, server bool) *Hop {
	h := &Hop{c: c, shared: sh, owner: o, server: server, streams: make(map[uint32]*Stream)}
	h.bulkAt, h.heard = -time.Hour, c.Loop().Now()
	h.first = h.stream(0)
	h.first.state = open
	if more := h.first.window - baseWindow; more > 0 {
		h.say(frame{kindCredit, more, 0})
	}
	c.SetHandler(h)
	return h
}

// attribute lets a stream say what the connection went through and no stream has
// said: sums over streams are true.
func (h *Hop) attribute(s *Stream) {
	now := h.c.Stats()
	s.net.RTT = now.RTT
	s.net.Retransmits += now.Retransmits - h.told.Retransmits
	s.net.Timeouts += now.Timeouts - h.told.Timeouts
	s.net.OutOfOrder += now.OutOfOrder - h.told.OutOfOrder
	s.net.ZeroWindows += now.ZeroWindows - h.told.ZeroWindows
	s.net.DroppedMemory += now.DroppedMemory - h.told.DroppedMemory
	s.net.DroppedQueue += now.DroppedQueue - h.told.DroppedQueue
	h.told = now
}

// First is the stream that the hop was made for.
func (h *Hop) First() *Stream { return h.first }

// Conn is what the hop runs on. It is for asking, not for using.
func (h *Hop) Conn() aio.Conn { return h.c }

// Len is the number of streams.
func (h *Hop) Len() int { return len(h.streams) }

// Room reports whether Open would ask.
func (h *Hop) Room() bool { return !h.gone && !h.full && len(h.streams) < maxStreams }

// Bulk reports whether a stream has moved much of late: others would wait behind
// its bytes.
func (h *Hop) Bulk() bool { return h.c.Loop().Now()-h.bulkAt < bulkFor }

// stream makes a stream and its promise.
func (h *Hop) stream(id uint32) *Stream {
	s := &Stream{hop: h, id: id, window: h.shared.window(), credit: baseWindow}
	s.granted = h.c.Loop().Now()
	s.marked = s.granted
	s.promised = s.window
	h.shared.Bound.Hold(s.window)
	h.streams[id] = s
	if h.server {
		h.shared.served++
	}
	return s
}

// Open asks for a stream on a client hop that has Room. done is called once, on
// the loop and never from inside: with the stream; with aio.ErrRefused when the
// other end's app refused; or with another error, after which nobody knows about
// the app.
func (h *Hop) Open(timeout time.Duration, done func(*Stream, error)) {
	h.last++
	s := h.stream(h.last)
	s.done = done
	s.timer = h.c.Loop().AfterFunc(timeout, s.unanswered)
	s.askedAt = h.c.Loop().Now()
	h.say(frame{kindOpen, s.window - baseWindow, s.id})
}

// Close ends a hop without streams, in order, and another one once it has none.
func (h *Hop) Close() {
	h.full = true
	if h.gone || len(h.streams) > 0 {
		return
	}
	if !h.flush() { // push goes on
		h.c.Loop().AfterFunc(linger, func() { h.abort(aio.ErrTimeout) })
		return
	}
	h.c.Close()
	h.end(nil)
}

// abort resets the connection and forgets it.
func (h *Hop) abort(err error) {
	if !h.gone {
		h.c.Reset()
		h.end(err)
	}
}

// breach is abort for what the peer said.
func (h *Hop) breach(err error) {
	if h.gone {
		return
	}
	if errors.Is(err, ErrFlood) {
		h.shared.Floods.Add(1)
	} else {
		h.shared.Breaches.Add(1)
	}
	h.abort(err)
}

// end forgets the connection; streams hear of it.
func (h *Hop) end(err error) {
	if h.gone {
		return
	}
	h.gone = true
	h.out, h.waiting = nil, nil
	why := err
	if why == nil {
		why = aio.ErrClosed
	}
	for _, s := range h.streams {
		s.broke(why)
	}
	h.owner.Gone(h, err)
}

// forget takes a stream out of the table.
func (h *Hop) forget(s *Stream) {
	if h.streams[s.id] != s {
		return
	}
	delete(h.streams, s.id)
	if h.server {
		h.shared.served--
	}
	if s.state == asked {
		h.asked--
	}
	s.state = over
	s.buf, s.view = nil, nil
	if s.timer != nil {
		s.timer.Stop()
	}
	h.shared.Bound.Hold(-s.window)
	s.window = 0
	if len(h.streams) == 0 && !h.gone {
		if h.full {
			h.c.Loop().Post(h.Close)
		} else {
			h.owner.Idle(h)
		}
	}
}

// Readable implements aio.Handler for the connection. What comes while the turn is
// over does not begin another: a peer would have as many as it sends packets.
func (h *Hop) Readable(aio.Conn) {
	if !h.more {
		h.read()
	}
}

// Writable implements aio.Handler for the connection.
func (h *Hop) Writable(aio.Conn) {
	h.stuck = false
	h.push()
}

// Closed implements aio.Handler for the connection.
func (h *Hop) Closed(_ aio.Conn, err error) {
	if err == nil {
		h.read() // what came before the end is still there
		err = errTruncated
	}
	h.abort(err)
}

var _ aio.Handler = (*Hop)(nil)
