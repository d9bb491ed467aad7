package h2

import (
	"errors"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// highWater is where heads and data stop being added to the output, in bytes:
// enough for one write per pass to fill a GSO segment and four TLS records.
// Beyond it a stream's output waits with the stream, where a reset can still
// take it back.
const highWater = 64 << 10

// output is what goes to the transport next: whole frames, in order. It is
// flushed once per pass.
type output struct {
	buf     []byte
	off     int    // of buf, written already
	flushed uint64 // bytes that the transport took, ever
	marks   []mark // data in buf, in order
	first   int    // of marks
	replies int    // bytes of answers in buf since it was last empty
	blocked bool   // until Writable
}

// mark remembers that n bytes of a stream's data end at an offset.
type mark struct {
	s   *stream
	end uint64
	n   int
}

func (o *output) unsent() int   { return len(o.buf) - o.off }
func (o *output) hasRoom() bool { return o.unsent() < highWater }

// end is the offset behind the last byte.
func (o *output) end() uint64 { return o.flushed + uint64(o.unsent()) }

// frames is the buffer to append whole frames to; give it back with appended.
func (c *Conn) frames() []byte {
	if c.out.buf == nil {
		c.out.buf = c.mem.output()
	}
	return c.out.buf
}

func (c *Conn) appended(b []byte) {
	c.out.buf = b
	c.wake()
}

// replied is appended for frames that a peer can provoke or that a stalled
// transport would pile up; too many unsent end the connection.
func (c *Conn) replied(b []byte) {
	c.out.replies += len(b) - len(c.out.buf)
	c.appended(b)
	if c.out.replies > c.cfg.Limits.Replies && c.state == open {
		c.flood(&c.count.ReplyFloods, "the peer does not read its answers")
	}
}

// wake has the output flushed at the end of the pass.
func (c *Conn) wake() {
	if !c.awake {
		c.awake = true
		c.loop.Defer(c.onPassEnd)
	}
}

// sendable is how many of n bytes may go in one DATA frame of s now.
func (c *Conn) sendable(s *stream, n int) int {
	if !c.out.hasRoom() {
		return 0
	}
	return max(0, min(n, s.sendWindow, c.sendWindow, frame.MinMaxSize))
}

// appendData appends one DATA frame that sendable allowed.
func (c *Conn) appendData(s *stream, p []byte, end bool) {
	c.appended(frame.AppendData(c.frames(), s.id, p, end))
	c.sentData(s, len(p), end)
}

func (c *Conn) sentData(s *stream, n int, end bool) {
	s.sendWindow -= n
	c.sendWindow -= n
	c.dataFrames++
	c.morsels = max(0, c.morsels-n>>10)
	c.pinged = false
	if n > 0 {
		c.mark(s, n)
	}
	if end {
		c.endSent(s)
	}
}

func (c *Conn) mark(s *stream, n int) {
	o := &c.out
	if k := len(o.marks); k > o.first && o.marks[k-1].s == s {
		o.marks[k-1].n += n
		o.marks[k-1].end = o.end()
		return
	}
	s.marks++
	o.marks = append(o.marks, mark{s, o.end(), n})
}

// morselSize: DATA frames that a window cuts to less than this are the peer's
// wish, and cost us more than it.
const morselSize = 64

// freeMorsels come free, and one more for each KiB of data sent: a window that is
// nearly used up leaves a morsel now and then, and honest ones are 16 KiB or more.
const freeMorsels = 64

// morsel charges the peer for a frame of k of n bytes that its window left no
// more room for. Like every charge it can end the connection.
func (c *Conn) morsel(k, n int) {
	if k >= morselSize || k >= n {
		return
	}
	if c.morsels++; c.morsels > freeMorsels {
		c.spend(&c.empty, c.cfg.Limits.Empty, &c.count.EmptyFloods, "too many small windows")
	}
}

// makeReady lets s send when there is room.
func (c *Conn) makeReady(s *stream) {
	if s.in == nil {
		c.ready.push(s)
	}
	c.wake()
}

// fill moves what streams have waiting into the output, a frame each in turn.
func (c *Conn) fill() {
	for c.out.hasRoom() && c.ready.head != nil {
		s := c.ready.head
		c.ready.remove(s)
		if c.advance(s) && !s.closed && s.in == nil {
			c.ready.push(s)
		}
	}
}

// advance moves the next of s's heads, data or trailers into the output. It
// reports whether there is more that could go.
func (c *Conn) advance(s *stream) bool {
	if s.heads.len() > 0 {
		if s.id == 0 && !c.giveID(s) {
			return false
		}
		p := s.heads.next()
		c.encodeHead(s, &p.head, p.end)
		if !s.closed { // its end may have closed it, which clears the queue
			s.heads.pop()
		}
		return true
	}
	if n := s.queue.size; n > 0 {
		k := c.sendable(s, n)
		if k == 0 {
			// WINDOW_UPDATE for s or for the connection makes it ready again.
			if s.sendWindow > 0 {
				c.starved.push(s)
			}
			return false
		}
		last := k == n && s.localEnd && !s.hasTrailers
		flags := frame.Flags(0)
		if last {
			flags = frame.EndStream
		}
		if c.morsel(k, n); s.closed {
			return false
		}
		b := frame.AppendHeader(c.frames(), frame.Header{Length: k, Type: frame.Data, Flags: flags, Stream: s.id})
		c.appended(s.queue.appendTo(c.mem, b, k))
		c.holds(-k)
		c.paced(s, k)
		c.sentData(s, k, last)
		return true
	}
	switch {
	case s.sentEnd || !s.localEnd:
	case s.hasTrailers:
		c.encodeTrailers(s, s.trailers)
		s.trailers = nil
	default:
		c.appendData(s, nil, true)
	}
	return false
}

// endSent notes END_STREAM in the output.
func (c *Conn) endSent(s *stream) {
	s.sentEnd = true
	switch {
	case s.curtailed:
		c.doomed = append(c.doomed, doom{s, s.r, message.NoError, nil})
		s.r = nil
		c.forget(s, bothEnded)
		c.wake()
	case s.recvEnd:
		c.forget(s, bothEnded)
	case s.resetAfter:
		c.reset(s, message.NoError)
	}
}

// encodeHead writes a HEADERS frame.
func (c *Conn) encodeHead(s *stream, h *message.Head, end bool) {
	b := c.frames()
	at := len(b)
	b = frame.AppendHeader(b, frame.Header{Type: frame.Headers, Flags: endStream(end), Stream: s.id})
	b = c.enc.Begin(b)
	if c.server {
		b = c.enc.Append(b, ":status", c.statusText(h.Status), hpack.Auto)
	} else {
		b = c.encodeRequest(b, h)
	}
	c.finishHeaders(s, c.encodeFields(b, h.Fields), at, end)
}

func (c *Conn) encodeRequest(b []byte, h *message.Head) []byte {
	method := h.Method
	if h.Protocol != "" {
		method = "CONNECT"
	}
	b = c.enc.Append(b, ":method", method, hpack.Auto)
	if method != "CONNECT" || h.Protocol != "" {
		scheme, path := h.Scheme, h.Path
		if scheme == "" {
			scheme = "http"
		}
		if path == "" { // absolute form without a path (RFC 9113, section 8.3.1)
			path = "/"
			if method == "OPTIONS" {
				path = "*"
			}
		}
		b = c.enc.Append(b, ":scheme", scheme, hpack.Auto)
		b = c.enc.Append(b, ":path", path, hpack.Auto)
	}
	if h.Authority != "" {
		b = c.enc.Append(b, ":authority", h.Authority, hpack.Auto)
	}
	if h.Protocol != "" {
		b = c.enc.Append(b, ":protocol", h.Protocol, hpack.Auto)
	}
	return b
}

func (c *Conn) encodeTrailers(s *stream, f []message.Field) {
	b := c.frames()
	at := len(b)
	b = frame.AppendHeader(b, frame.Header{Type: frame.Headers, Flags: frame.EndStream, Stream: s.id})
	start := len(b)
	b = c.encodeFields(c.enc.Begin(b), f)
	if len(b) == start { // nothing to say: an empty DATA frame is what everybody takes
		c.out.buf = b[:at]
		c.appendData(s, nil, true)
		return
	}
	c.finishHeaders(s, b, at, true)
}

func (c *Conn) finishHeaders(s *stream, b []byte, at int, end bool) {
	c.appended(frame.FinishHeaders(b, at, frame.MinMaxSize))
	c.pinged = false
	if s.headAt == 0 {
		s.headAt = c.out.end()
	}
	if end {
		c.endSent(s)
	}
}

// shortSecret: a cookie or credential of fewer bytes could be guessed through
// the table's effect on sizes (RFC 7541, section 7.1).
const shortSecret = 20

// encodeFields appends fields, in lower case, without those that are specific
// to an HTTP/1 connection (RFC 9113, section 8.2.2).
func (c *Conn) encodeFields(b []byte, fields []message.Field) []byte {
	for i := range fields {
		f := &fields[i]
		if f.Name == "" || f.Name[0] == ':' {
			continue
		}
		name := c.mem.strings.Lower(f.Name)
		how := hpack.Auto
		switch name {
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host":
			continue
		case "te":
			if f.Value != "trailers" {
				continue
			}
		case "authorization", "proxy-authorization", "cookie":
			if len(f.Value) < shortSecret {
				how = hpack.Never
			}
		}
		if f.Sensitive {
			how = hpack.Never
		}
		b = c.enc.Append(b, name, f.Value, how)
	}
	return b
}

func (c *Conn) statusText(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	}
	return c.mem.strings.String([]byte{byte('0' + status/100%10), byte('0' + status/10%10), byte('0' + status%10)})
}

func endStream(end bool) frame.Flags {
	if end {
		return frame.EndStream
	}
	return 0
}

// flush writes until the output is empty or the transport full, and reports
// what has drained. It is never called from inside a stream's method.
func (c *Conn) flush() {
	o := &c.out
	for c.state != closed && !o.blocked {
		c.fill()
		if o.unsent() == 0 {
			return
		}
		n, err := c.conn.Write(o.buf[o.off:])
		o.off += n
		o.flushed += uint64(n)
		if o.unsent() == 0 {
			c.mem.freeOutput(o.buf)
			o.buf, o.off, o.replies = nil, 0, 0
		} else if o.off >= highWater {
			o.buf, o.off = o.buf[:copy(o.buf, o.buf[o.off:])], 0
		}
		switch {
		case errors.Is(err, aio.ErrWouldBlock):
			o.blocked = true
			if c.due.write == 0 {
				c.setDue(&c.due.write, c.cfg.Timeouts.Write)
			} else {
				c.earn(&c.due.write, n, c.cfg.Timeouts.Write)
			}
		case err != nil:
			c.broken(err)
			return
		default:
			c.due.write = 0
		}
		c.drained()
	}
}

// drained tells streams what has left. It is not re-entered: receivers are
// called from here, and what they send waits for the next round of flush.
func (c *Conn) drained() {
	o := &c.out
	for o.first < len(o.marks) && o.marks[o.first].end <= o.flushed {
		m := o.marks[o.first]
		o.marks[o.first] = mark{}
		if o.first++; o.first == len(o.marks) {
			o.marks, o.first = o.marks[:0], 0
		}
		m.s.marks--
		if m.s.r != nil {
			m.s.r.Drained(m.s, m.n)
		}
		c.bury(m.s)
	}
}
