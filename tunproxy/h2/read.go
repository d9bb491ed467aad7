package h2

import (
	"errors"
	"io"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// readsPerPass bounds how much of one connection is read before others have
// their turn: 16 reads of at most 64 KiB.
const readsPerPass = 16

// framesPerPass is the same for frames, of which 64 KiB can hold seven thousand:
// those take a millisecond or ten, a thousand a few hundred microseconds, and so
// do a sixteenth as many requests, 32 KiB of header blocks, 34 KiB of what they
// decode to (a byte may stand for a field of 4 KiB), or a head of 500 fields: one
// is decoded, judged, copied, looked at and encoded in 200 to 300 ns. Eight
// connections with 16 streams each see a few dozen frames at a time, and the one
// between two sidecars that carries them all has room for one of each.
const (
	framesPerPass = 1024
	headersFrames = 15 // besides the one that it is
	headersBytes  = 32 // are as much as another frame
	listFree      = 2 << 10
	listBytes     = 32 // decoded, beyond listFree, likewise
	fieldsFree    = 32
	fieldFrames   = 2 // a field beyond fieldsFree is as much as so many frames
)

// input is where the parser stands.
type input struct {
	preface  bool   // still to come
	settings bool   // the first frame, SETTINGS, has come
	held     []byte // the front of a frame that is not whole
	waiting  bool   // for the rest of a frame or header block
	turn     int    // frames to go until others have their turn
	paused   bool   // held is there to be parsed: the turn is over
	resumes  bool   // in Memory.turns

	// The rest of a DATA frame.
	left, pad int           // payload bytes to come, and padding behind them
	took      int           // of these, since by was set
	by        time.Duration // when more must be here; 0: not waiting
	padLen    bool          // the pad length comes first
	end       bool
	s         *stream // nil: drop it

	block block
}

// block is a header block that CONTINUATION frames go on with.
type block struct {
	active bool
	id     uint32
	end    bool
	self   bool // depends on itself
	frames int
	b      []byte
}

// drop gives back what is held.
func (in *input) drop(m *Memory) {
	m.free(in.held)
	m.free(in.block.b)
	*in = input{turn: in.turn, resumes: in.resumes}
}

// Readable implements aio.Handler. What comes while the turn is over does not
// begin another: a peer would have as many as it sends packets.
func (c *Conn) Readable(aio.Conn) {
	switch {
	case c.in.resumes:
	case c.mem.turns.over():
		c.mem.turns.wait(c)
	default:
		c.read()
	}
}

// Writable implements aio.Handler.
func (c *Conn) Writable(aio.Conn) {
	c.out.blocked = false
	c.wake()
}

// Closed implements aio.Handler.
func (c *Conn) Closed(_ aio.Conn, err error) { c.broken(err) }

// resume goes on reading after other connections had their turn.
func (c *Conn) resume() {
	c.in.resumes = false
	c.read()
}

// read takes a turn.
func (c *Conn) read() {
	c.in.turn = framesPerPass
	c.readTurn()
	c.mem.turns.spend(c, framesPerPass-c.in.turn)
}

func (c *Conn) readTurn() {
	buf := c.mem.readBuffer()
	n := copy(buf, c.in.held)
	if c.in.paused {
		c.in.paused = false
		n = c.use(buf, n)
	}
	for range readsPerPass {
		if c.in.paused {
			break
		}
		k, err := 0, error(nil)
		if c.state != closed {
			k, err = c.conn.Read(buf[n:])
		}
		if k > 0 {
			c.lastRead = c.loop.Now()
			c.due.ping = 0
			n = c.use(buf, n+k)
		}
		switch {
		case c.state == closed:
			return
		case err == nil:
		case errors.Is(err, aio.ErrWouldBlock):
			c.hold(buf[:n])
			return
		case errors.Is(err, io.EOF):
			c.eof()
			return
		default:
			c.broken(err)
			return
		}
	}
	c.hold(buf[:n])
	if !c.in.resumes { // this is not expire's look
		c.mem.turns.pause(c)
	}
}

// use parses the first n bytes of buf and moves what is left to its front.
func (c *Conn) use(buf []byte, n int) int {
	if c.state == open {
		n = copy(buf, c.parse(buf[:n]))
	}
	if c.state != open {
		c.in.paused = false
		return 0
	}
	return n
}

// eof: the peer says no more. Without it there are no window updates and no
// acknowledgements: the connection is over, but what is queued still goes.
func (c *Conn) eof() {
	if c.state == open {
		c.flush()
	}
	c.broken(nil)
}

// hold keeps the front of a frame until the next read, and watches how long it
// takes to become whole.
func (c *Conn) hold(rest []byte) {
	if len(rest) == 0 {
		c.mem.free(c.in.held)
		c.in.held = nil
	} else {
		if cap(c.in.held) < len(rest) {
			c.mem.free(c.in.held)
			c.in.held = c.mem.chunk(len(rest))
		}
		c.in.held = append(c.in.held[:0], rest...)
	}
	if c.in.left+c.in.pad > 0 {
		c.paceFrame()
		return
	}
	c.in.by = 0
	if len(rest) == 0 && !c.in.block.active || c.in.paused {
		c.in.waiting = false
		c.due.frame = 0
	} else if !c.in.waiting {
		c.in.waiting = true
		c.setDue(&c.due.frame, c.cfg.Timeouts.Frame)
	}
}

// parse acts on everything in b that is whole and returns the rest.
func (c *Conn) parse(b []byte) []byte {
	if c.in.preface {
		n := min(len(b), len(frame.Preface))
		if string(b[:n]) != frame.Preface[:n] {
			c.fail(frame.Errorf(message.ProtocolError, "not the HTTP/2 preface"))
			return nil
		}
		if n < len(frame.Preface) {
			return b
		}
		b = b[n:]
		c.in.preface = false
	}
	for c.state == open {
		if c.in.left > 0 || c.in.pad > 0 {
			if len(b) == 0 {
				break
			}
			b = c.dataPart(b)
			continue
		}
		if len(b) < frame.HeaderLen {
			break
		}
		h := frame.Parse(b)
		if c.in.turn <= 0 {
			c.in.paused = true
			c.count.Paused.Add(1)
			break
		}
		c.in.turn--
		if h.Type == frame.Headers || h.Type == frame.Continuation {
			c.in.turn -= headersFrames + h.Length/headersBytes
		}
		if err := c.checkFrame(h); err != nil {
			c.fail(err)
			break
		}
		if h.Type == frame.Data {
			b = b[frame.HeaderLen:]
			c.in.waiting = false
			if err := c.dataStart(h); err != nil {
				c.fail(err)
			}
			continue
		}
		if len(b) < frame.HeaderLen+h.Length {
			break
		}
		payload := b[frame.HeaderLen : frame.HeaderLen+h.Length]
		b = b[frame.HeaderLen+h.Length:]
		if !c.in.block.active {
			c.in.waiting = false
		}
		if err := c.frame(h, payload); err != nil {
			c.fail(err)
		}
	}
	return b
}

func (c *Conn) checkFrame(h frame.Header) error {
	in := &c.in
	switch {
	case h.Length > frame.MinMaxSize:
		return frame.Errorf(message.FrameSizeError, "%v frame of %d bytes, more than the %d allowed", h.Type, h.Length, frame.MinMaxSize)
	case !in.settings && (h.Type != frame.Settings || h.Flags.Has(frame.Ack)):
		return frame.Errorf(message.ProtocolError, "%v frame before SETTINGS", h.Type)
	case in.block.active && (h.Type != frame.Continuation || h.Stream != in.block.id):
		return frame.Errorf(message.ProtocolError, "%v frame inside a header block", h.Type)
	case !in.block.active && h.Type == frame.Continuation:
		return frame.Errorf(message.ProtocolError, "CONTINUATION frame without a header block")
	}
	return frame.CheckHeader(h)
}

func (c *Conn) frame(h frame.Header, p []byte) error {
	switch h.Type {
	case frame.Headers:
		return c.headers(h, p)
	case frame.Continuation:
		return c.continuation(h, p)
	case frame.RSTStream:
		return c.rstStream(h, p)
	case frame.Settings:
		return c.settings(h, p)
	case frame.Ping:
		return c.ping(h, p)
	case frame.GoAway:
		return c.goneAway(p)
	case frame.WindowUpdate:
		return c.windowUpdate(h, p)
	case frame.Priority:
		return c.priority(h, p)
	case frame.PushPromise: // we never allow it
		return frame.Errorf(message.ProtocolError, "PUSH_PROMISE, which we did not allow")
	}
	c.noise() // unknown types are ignored (section 4.1)
	return nil
}

// noise is charged for frames that are allowed and of no use.
func (c *Conn) noise() {
	c.spend(&c.control, c.cfg.Limits.Control, &c.count.ControlFloods, "too many control frames")
}

// dataStart takes the header of a DATA frame: its whole length counts for flow
// control (section 6.1), wherever it goes.
func (c *Conn) dataStart(h frame.Header) error {
	in := &c.in
	if h.Length > c.recvWindow {
		return frame.Errorf(message.FlowControlError, "DATA of %d bytes beyond the connection's window of %d", h.Length, c.recvWindow)
	}
	c.recvWindow -= h.Length
	in.left, in.pad, in.end, in.s = h.Length, 0, h.Flags.Has(frame.EndStream), nil
	in.padLen = h.Flags.Has(frame.Padded)
	in.by = 0
	if in.padLen && h.Length == 0 {
		return frame.Errorf(message.FrameSizeError, "padded DATA frame without a pad length")
	}
	s := c.streams.get(h.Stream)
	switch {
	case s == nil:
		if err := c.strayFrame(h); err != nil {
			return err
		}
	case s.recvEnd:
		c.breach(s, message.StreamClosed, "DATA after END_STREAM")
	case !s.recvHead:
		c.breach(s, message.ProtocolError, "DATA before the head")
	case h.Length > s.recvWindow:
		c.breach(s, message.FlowControlError, "DATA beyond the stream's window")
	default:
		s.recvWindow -= h.Length
		in.s = s
	}
	c.reopen()
	if c.state == open && h.Length == 0 {
		if !in.end {
			c.spend(&c.empty, c.cfg.Limits.Empty, &c.count.EmptyFloods, "too many empty frames")
		}
		c.deliver(nil, true)
	}
	return nil
}

// dataPart takes what b has of the current DATA frame and returns the rest.
func (c *Conn) dataPart(b []byte) []byte {
	in := &c.in
	if in.padLen {
		in.padLen = false
		in.pad = int(b[0])
		in.left -= 1 + in.pad
		if in.left < 0 {
			c.fail(frame.Errorf(message.ProtocolError, "DATA padded with %d bytes, more than it has", in.pad))
			return nil
		}
		if in.left == 0 {
			if !in.end {
				c.spend(&c.empty, c.cfg.Limits.Empty, &c.count.EmptyFloods, "too many empty frames")
			}
			c.deliver(nil, true)
		}
		return b[1:]
	}
	if in.left > 0 {
		n := min(in.left, len(b))
		in.left -= n
		in.took += n
		c.deliver(b[:n], in.left == 0)
		return b[n:]
	}
	n := min(in.pad, len(b))
	in.took += n
	if in.pad -= n; in.pad == 0 && in.s != nil {
		c.reopenStream(in.s)
	}
	return b[n:]
}

// deliver hands body bytes to their stream's receiver. last: the frame ends
// here, and with it the body when END_STREAM is set.
func (c *Conn) deliver(p []byte, last bool) {
	s := c.in.s
	if s == nil || c.state != open {
		return
	}
	end := last && c.in.end
	if len(p) > 0 {
		c.pinged = false
	}
	if s.expect >= 0 {
		s.expect -= int64(len(p))
		switch {
		case end && s.expect > 0 && c.responding(s):
			c.curtail(s)
			return
		case s.expect < 0 || end && s.expect > 0:
			c.breach(s, message.ProtocolError, wrongLength)
			return
		}
	}
	if len(p) == 0 && !end {
		return
	}
	s.unread += len(p)
	c.unread += len(p)
	if s.recvBy > 0 {
		c.earn(&s.recvBy, len(p), c.cfg.Timeouts.Body)
	}
	r := s.r
	if end {
		s.recvEnd = true
	}
	if r != nil {
		r.Data(s, p, end)
	} else if !s.resetAfter {
		s.Consumed(len(p))
	}
	if end {
		c.recvEnded(s)
	}
}

const wrongLength = "body and Content-Length differ"

// responding reports whether a response has begun and is not over.
func (c *Conn) responding(s *stream) bool { return c.server && s.sentHead && !s.sentEnd }

// curtail ends a request that is shorter than it said after its response began.
// Clients that see an early response stop like that (curl, of a status from 300
// on), and the response is for them, whole (RFC 9113, section 8.1.1). The receiver
// is not told of an end that is none; it is aborted when the response is over,
// which has as long as a body may rest.
func (c *Conn) curtail(s *stream) {
	s.recvEnd = true
	s.curtailed = true
	s.recvBy = c.loop.Now() + c.cfg.Timeouts.Body
	c.look(s.recvBy)
}

// recvEnded closes s when our direction has ended, too.
func (c *Conn) recvEnded(s *stream) {
	if !s.closed && s.sentEnd {
		c.forget(s, bothEnded)
	}
}

// reopen widens the connection's window again. Updates are due when a third of
// what the peer has left can be added: few while the window is wide open.
func (c *Conn) reopen() {
	more := c.cfg.ConnWindow - c.recvWindow - c.unread
	if c.state != open || more < max(c.recvWindow/2, 16<<10) {
		return
	}
	c.recvWindow += more
	c.replied(frame.AppendWindowUpdate(c.frames(), 0, uint32(more)))
}

// reopenStream does the same for a stream, and doubles the window of one whose
// receiver keeps up, as long as the connection does not hold much.
func (c *Conn) reopenStream(s *stream) {
	more := s.window - s.recvWindow - s.unread
	if c.state != open || s.closed || s.recvEnd || more < max(s.recvWindow/2, 1) {
		return
	}
	if s.window < c.cfg.StreamWindow && c.unread < c.cfg.ConnWindow/4 && c.mem.Bound.Roomy() {
		grown := min(2*s.window, c.cfg.StreamWindow)
		more += grown - s.window
		s.window = grown
	}
	s.recvWindow += more
	c.replied(frame.AppendWindowUpdate(c.frames(), s.id, uint32(more)))
}
