// Package h2 is HTTP/2 (RFC 9113) on an event loop: it turns one aio.Conn into
// many message.Streams. It owns frames, header compression, flow control,
// stream states, keepalive and the bounds on what a peer may cost; it refuses
// to know routing, policy, pools of connections and HTTP/1.
//
// The way of bytes through a connection, all on its loop:
//
//  1. Readable reads into the loop's shared buffer and parses frames in place
//     (read.go). DATA is delivered as it comes, also from half a frame; other
//     frames wait until they are whole.
//  2. Header blocks are decoded into one reused head, checked, and delivered
//     (headers.go, head.go); the other frames act on the connection (control.go).
//  3. Receivers answer with Send calls on this or another connection. These
//     append frames to that connection's output, or leave what has no window or
//     room with the stream (stream.go, output.go).
//  4. At the end of the pass the output is written with one call, streams hear
//     what has drained, and whoever has to hear that a stream or the connection
//     is over, hears it (ending.go).
//
// One timer per connection serves all that must happen in time (deadline.go).
package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// state of a connection.
type state uint8

const (
	open      state = iota
	lingering       // GOAWAY is written or queued; what comes in is dropped
	closed          // the transport is gone
)

// peer is what the other side announced in SETTINGS.
type peer struct {
	maxStreams    int
	initialWindow int
	connect       bool // extended CONNECT
}

// Conn is what a Server and a Client have in common. All methods belong to the
// connection's loop.
type Conn struct {
	cfg    Config
	mem    *Memory
	count  *Counters
	conn   aio.Conn
	loop   aio.Loop
	server bool
	accept func(message.Stream)

	state state
	err   error // why it is not open
	peer  peer

	streams  table
	unborn   []*stream // a client's, without an identifier
	nextID   uint32    // a client's next stream
	lastPeer uint32    // the highest that the peer opened
	lastKept uint32    // the highest that is served, once final
	past     history
	total    uint64
	activity time.Duration

	draining  bool // no new streams are made, or accepted after the final GOAWAY
	final     bool // the final GOAWAY is in the output
	saturated bool // OpenStream said so
	goAway    *GoAwayError

	in  input
	dec *hpack.Decoder
	enc *hpack.Encoder

	out        output
	ready      list // streams with something to send
	starved    list // and with window of their own, but not of the connection
	sendWindow int
	recvWindow int // what the peer may send
	unread     int // delivered on open streams, not consumed
	held       int // what waits for the peer, and the heads of open streams
	long       int // what the fields of long heads of open streams take
	heldOut    int // of that, in the output
	initial    int // window of new streams, as acknowledged by the peer
	acked      bool

	resets, control, empty bucket
	pinged                 bool // a PING or SETTINGS came after the last head or data
	dataFrames, updates    int  // DATA sent and WINDOW_UPDATE received
	morsels                int  // DATA sent that a window made small

	due      due
	timer    aio.Timer
	timerAt  time.Duration
	lastRead time.Duration

	awake        bool   // onPassEnd is deferred
	onPassEnd    func() // method values, made once
	onTimer      func()
	doomed       []doom
	graves       []*stream
	tellDrain    bool
	tellCapacity bool
	tellClosed   bool
	discard      bool // orphans count on it that unsent output is never sent
	finished     bool // CloseWrite was called
}

// doom is an Aborted to be delivered at the end of the pass.
type doom struct {
	s    *stream
	r    message.Receiver
	code message.Code
	err  error
}

// Stats describe a connection now.
type Stats struct {
	Open         int           // streams
	Total        uint64        // streams, ever
	LastActivity time.Duration // on the loop's clock: the last stream opened or closed
	LastRead     time.Duration // on the loop's clock: the peer's last sign of life
	Unread       int           // bytes delivered and not consumed
	Unsent       int           // bytes of output that the transport has not taken
	Draining     bool          // takes no more streams
	Closed       bool
}

// Stats reports the connection's figures.
func (c *Conn) Stats() Stats {
	return Stats{
		Open: c.streams.n + len(c.unborn), Total: c.total, LastActivity: c.activity, LastRead: c.lastRead,
		Unread: c.unread, Unsent: c.out.unsent(), Draining: c.draining, Closed: c.state != open,
	}
}

// Transport is the connection below.
func (c *Conn) Transport() aio.Conn { return c.conn }

// Drain ends the connection gracefully: no new streams, open ones finish, then
// it closes. The caller bounds the wait with Close. Idempotent.
func (c *Conn) Drain() {
	if c.draining || c.state != open {
		return
	}
	c.draining = true
	if c.server {
		// Streams on their way are still served: the final GOAWAY follows when
		// the PING shows that the peer has read this one (section 6.8).
		b := frame.AppendGoAway(c.frames(), frame.MaxStreamID, message.NoError, "draining")
		c.appended(frame.AppendPing(b, false, drainPing))
		c.setDue(&c.due.drain, c.cfg.Timeouts.DrainRTT)
	}
	c.wake()
}

// Close ends the connection now: GOAWAY, what is queued is still sent, streams
// hear Aborted. Idempotent.
func (c *Conn) Close() { c.shut(nil, message.NoError, "") }

func (c *Conn) start(conn aio.Conn, cfg Config, server bool) {
	c.cfg = cfg.withDefaults(server)
	c.conn, c.loop, c.mem, c.count, c.server = conn, conn.Loop(), c.cfg.Memory, c.cfg.Counters, server
	c.peer = peer{maxStreams: 100, initialWindow: frame.InitialWindow}
	c.sendWindow, c.recvWindow, c.initial = frame.InitialWindow, frame.InitialWindow, frame.InitialWindow
	c.dec = hpack.NewDecoder(c.mem.strings, classes)
	c.enc = hpack.NewEncoder(c.cfg.HeaderTable)
	c.lastRead = c.loop.Now()
	c.activity = c.lastRead
	c.onPassEnd, c.onTimer = c.passEnd, c.expire
	c.in.preface = server
	if !server {
		c.nextID = 1
		c.appended(append(c.frames(), frame.Preface...))
	}
	c.announce()
	c.setDue(&c.due.settings, c.cfg.Timeouts.Settings)
	conn.SetHandler(c)
}

// announce sends our SETTINGS and opens the connection's window.
func (c *Conn) announce() {
	settings := make([]frame.Setting, 0, 6)
	add := func(id frame.SettingID, v int) {
		settings = append(settings, frame.Setting{ID: id, Value: uint32(min(v, frame.MaxWindow))})
	}
	add(frame.MaxHeaderListSize, c.cfg.MaxHeaderList)
	if c.server {
		add(frame.MaxConcurrentStreams, c.cfg.MaxStreams)
		if c.cfg.ExtendedConnect {
			add(frame.EnableConnectProtocol, 1)
		}
	} else {
		add(frame.EnablePush, 0)
	}
	if c.cfg.HeaderTable != hpack.DefaultTableSize {
		add(frame.HeaderTableSize, c.cfg.HeaderTable)
	}
	if w := c.announcedWindow(); w != frame.InitialWindow {
		add(frame.InitialWindowSize, w)
	}
	b := frame.AppendSettings(c.frames(), settings...)
	if more := c.cfg.ConnWindow - c.recvWindow; more > 0 {
		b = frame.AppendWindowUpdate(b, 0, uint32(more))
		c.recvWindow += more
	}
	c.appended(b)
}

// announcedWindow is the window that streams begin with: a stream gets more
// when its receiver shows that it consumes.
func (c *Conn) announcedWindow() int { return min(frame.InitialWindow, c.cfg.StreamWindow) }

// newStream makes a stream in state idle.
func (c *Conn) newStream() *stream {
	s := c.mem.stream()
	s.c = c
	s.recvWindow, s.window, s.expect = c.initial, c.initial, -1
	s.sendWindow = c.peer.initialWindow
	c.total++
	c.count.Streams.Add(1)
	c.activity = c.loop.Now()
	s.at = c.activity
	return s
}

// reset ends s with RST_STREAM; its receiver hears nothing of it.
func (c *Conn) reset(s *stream, code message.Code) {
	s.r = nil
	c.take(s)
	if s.id != 0 {
		c.sendReset(s.id, code)
	}
}

func (c *Conn) sendReset(id uint32, code message.Code) {
	if c.state != open {
		return
	}
	c.count.Aborts.Add(1)
	c.past.add(id, weReset)
	c.replied(frame.AppendRST(c.frames(), id, code))
}

// resetLater is reset for a stream whose receiver is in the middle of a call:
// it hears at the end of the pass.
func (c *Conn) resetLater(s *stream, code message.Code, err error) {
	c.doomed = append(c.doomed, doom{s, s.r, code, err})
	c.reset(s, code)
	c.wake()
}

// breach resets s because the peer broke a rule, and tells its receiver.
func (c *Conn) breach(s *stream, code message.Code, reason string) {
	c.count.Breaches.Add(1)
	r := s.r
	c.reset(s, code)
	c.spend(&c.resets, c.cfg.Limits.Resets, &c.count.ResetFloods, "too many streams reset")
	if r != nil {
		r.Aborted(s, code, frame.Errorf(code, "%s", reason))
	}
}

// forget closes a stream that both ended or the peer reset.
func (c *Conn) forget(s *stream, w how) {
	c.past.add(s.id, w)
	c.take(s)
}

// take removes s from the connection.
func (c *Conn) take(s *stream) {
	s.closed = true
	s.unlink()
	if c.in.s == s {
		c.in.s = nil
	}
	c.holds(-s.queue.size - s.cost)
	c.long -= s.long
	s.cost, s.long = 0, 0
	s.queue.clear(c.mem)
	s.heads.clear()
	s.trailers = nil
	c.activity = c.loop.Now()
	if s.id != 0 {
		c.streams.remove(s.id)
	} else {
		c.dropUnborn(s)
	}
	if s.unread > 0 {
		c.unread -= s.unread
		s.unread = 0
		c.reopen()
	}
	if c.draining && c.streams.n == 0 {
		c.wake()
	}
	if !c.server {
		c.roomForStreams()
	}
	c.bury(s)
}

// bury makes s available again once nobody knows it any more. That happens at
// the end of a pass: callers up the stack may still hold it.
func (c *Conn) bury(s *stream) {
	if s.released && s.closed && s.marks == 0 {
		s.marks = -1 // only once
		c.graves = append(c.graves, s)
		c.wake()
	}
}

// spend takes a token from a bucket; without one it ends the connection.
func (c *Conn) spend(b *bucket, r Rate, counter counter, reason string) bool {
	if b.take(r, c.loop.Now()) {
		return true
	}
	c.flood(counter, reason)
	return false
}

func (c *Conn) flood(counter counter, reason string) {
	if c.state == open {
		counter.Add(1)
		c.shut(frame.Errorf(message.EnhanceYourCalm, "%s", reason), message.EnhanceYourCalm, reason)
	}
}

type counter interface{ Add(uint64) uint64 }
