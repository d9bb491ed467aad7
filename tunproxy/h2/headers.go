package h2

import (
	"errors"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// headers begins a header block; most are whole in one frame and read in place.
func (c *Conn) headers(h frame.Header, p []byte) error {
	fragment, dependsOn, err := frame.ParseHeaders(h, p)
	if err != nil {
		return err
	}
	b := &c.in.block
	b.id, b.end = h.Stream, h.Flags.Has(frame.EndStream)
	b.self = h.Flags.Has(frame.HasPriority) && dependsOn == h.Stream
	if h.Flags.Has(frame.EndHeaders) {
		return c.headerBlock(fragment)
	}
	b.active, b.frames = true, 0
	b.b = append(c.mem.chunk(largeSize), fragment...)
	c.chargeEmpty(fragment)
	return nil
}

func (c *Conn) continuation(h frame.Header, p []byte) error {
	b := &c.in.block
	b.frames++
	if b.frames > c.cfg.Limits.Continuations || len(b.b)+len(p) > c.cfg.MaxHeaderList+frame.MinMaxSize {
		c.flood(&c.count.ContinuationFloods, "header block too long")
		return nil
	}
	b.b = append(b.b, p...)
	if !h.Flags.Has(frame.EndHeaders) {
		c.chargeEmpty(p)
		return nil
	}
	b.active = false
	whole := b.b
	b.b = nil
	err := c.headerBlock(whole)
	c.mem.free(whole)
	return err
}

func (c *Conn) chargeEmpty(p []byte) {
	if len(p) == 0 {
		c.spend(&c.empty, c.cfg.Limits.Empty, &c.count.EmptyFloods, "too many empty frames")
	}
}

// maxLong bounds, in bytes, what the fields beyond fieldsUsual of a connection's
// open requests take: the collector looks at each of them again and again, for
// which everybody waits. It allows for 60 requests of 500 fields at a time, and for
// 700 of 100.
const (
	maxLong     = 1 << 20
	fieldsUsual = 64
)

// fieldShare is how many bytes of MaxHeaderList allow for a field: a field costs
// those who look for one much, and its sender a byte.
const fieldShare = 128

// headerBlock decodes a block, whatever becomes of its stream: the decoder's
// table must stay in step (RFC 9113, section 4.3).
func (c *Conn) headerBlock(b []byte) error {
	id, end, self := c.in.block.id, c.in.block.end, c.in.block.self
	c.mem.head.reset(c.cfg.MaxHeaderList / fieldShare)
	err := c.dec.Decode(b, c.cfg.MaxHeaderList, c.mem.onField)
	c.in.turn -= max(0, c.mem.head.listed()-listFree)/listBytes + fieldFrames*max(0, c.mem.head.n-fieldsFree)
	if errors.Is(err, hpack.ErrBomb) {
		c.count.Oversize.Add(1)
		c.flood(&c.count.Bombs, "header list far too large")
		return nil
	}
	tooLarge := errors.Is(err, hpack.ErrListTooLarge) || err == nil && c.mem.head.tooMany()
	if err != nil && !tooLarge {
		return frame.Errorf(message.CompressionError, "%v", err)
	}
	if tooLarge {
		c.count.Oversize.Add(1)
	}
	c.pinged = false
	s := c.streams.get(id)
	switch {
	case s == nil && c.server && id&1 == 1 && id > c.lastPeer:
		c.lastPeer = id
		c.request(id, end, self, tooLarge)
	case s == nil:
		return c.strayFrame(frame.Header{Type: frame.Headers, Stream: id})
	case s.recvEnd:
		c.breach(s, message.StreamClosed, "HEADERS after END_STREAM")
	case self:
		c.breach(s, message.ProtocolError, "a stream that depends on itself")
	case tooLarge:
		c.breach(s, message.EnhanceYourCalm, "header list too large")
	case c.server || s.recvHead:
		c.trailers(s, end)
	default:
		c.response(s, end)
	}
	return nil
}

// refuse refuses a request beyond what the client may have open. Who goes on with
// such requests is cut off, for that reason.
func (c *Conn) refuse(id uint32, flood string) {
	c.count.Refused.Add(1)
	c.sendReset(id, message.RefusedStream)
	c.spend(&c.resets, c.cfg.Limits.Resets, &c.count.ResetFloods, flood)
}

// request opens a stream for a client's request, or says why not.
func (c *Conn) request(id uint32, end, self, tooLarge bool) {
	switch {
	case c.final:
		c.count.Refused.Add(1)
		c.sendReset(id, message.RefusedStream)
		return
	case c.streams.n >= c.cfg.MaxStreams:
		c.refuse(id, "too many streams refused")
		return
	case tooLarge:
		c.answerTooLarge(id, end)
		return
	}
	b := &c.mem.head
	b.request(c.cfg.ExtendedConnect)
	if end && b.head.ContentLength > 0 {
		b.note("Content-Length without a body")
	}
	if self {
		b.note("a stream that depends on itself")
	}
	if b.malformed != "" {
		c.count.Breaches.Add(1)
		c.sendReset(id, message.ProtocolError)
		c.spend(&c.resets, c.cfg.Limits.Resets, &c.count.ResetFloods, "too many malformed requests")
		return
	}
	cost := b.size()
	if c.mem.Bound.Over(c.held + cost) {
		c.shedHit()
		c.count.Refused.Add(1)
		c.sendReset(id, message.RefusedStream)
		return
	}
	long := max(0, len(b.head.Fields)-fieldsUsual) * fieldCost
	if c.long+long > maxLong {
		c.refuse(id, "too many long heads refused")
		return
	}
	s := c.newStream()
	s.id, s.recvHead, s.recvEnd = id, true, end
	s.grpc, s.cost, s.long = b.grpc, cost, long
	c.long += long
	c.holds(cost)
	s.noBody = b.head.Method == "HEAD"
	if b.head.Method != "CONNECT" {
		s.expect = b.head.ContentLength
	}
	c.streams.add(s)
	c.paceInput(s)
	c.accept(s)
	switch {
	case s.closed:
	case s.r == nil:
		c.count.Refused.Add(1)
		c.reset(s, message.RefusedStream)
	default:
		s.r.Head(s, &b.head, end)
		if end {
			c.recvEnded(s)
		}
	}
}

// answerTooLarge answers a request whose head is beyond MaxHeaderList
// (RFC 6585, section 5).
func (c *Conn) answerTooLarge(id uint32, end bool) {
	b := c.frames()
	at := len(b)
	b = frame.AppendHeader(b, frame.Header{Type: frame.Headers, Flags: frame.EndStream, Stream: id})
	b = c.enc.Append(c.enc.Begin(b), ":status", "431", hpack.Without)
	b = frame.FinishHeaders(c.enc.Append(b, "content-length", "0", hpack.Without), at, frame.MinMaxSize)
	c.replied(b)
	if end {
		c.past.add(id, bothEnded)
	} else {
		c.sendReset(id, message.NoError)
	}
}

func (c *Conn) response(s *stream, end bool) {
	b := &c.mem.head
	b.response()
	h := &b.head
	informational := h.Informational()
	switch {
	case informational:
		if end {
			b.note("an informational response that ends its stream")
		}
	case s.noBody, h.Status == 204, h.Status == 304:
		s.expect = 0
	case !s.connect || h.Status < 200 || h.Status > 299:
		s.expect = h.ContentLength
	}
	if end && s.expect > 0 {
		b.note("Content-Length without a body")
	}
	if b.malformed != "" {
		c.breach(s, message.ProtocolError, string(b.malformed))
		return
	}
	s.recvHead = !informational
	s.recvEnd = end
	if s.r != nil {
		s.r.Head(s, h, end)
	}
	if end {
		c.recvEnded(s)
	}
}

func (c *Conn) trailers(s *stream, end bool) {
	b := &c.mem.head
	b.trailers()
	if end && b.malformed == "" && s.expect > 0 && c.responding(s) {
		c.curtail(s)
		return
	}
	switch {
	case !end:
		b.note("trailers that do not end their stream")
	case s.expect > 0:
		b.note(wrongLength)
	}
	if b.malformed != "" {
		c.breach(s, message.ProtocolError, string(b.malformed))
		return
	}
	s.recvEnd = true
	if s.r != nil {
		s.r.Trailers(s, b.head.Fields)
	}
	c.recvEnded(s)
}

// isIdle reports whether the stream was never opened.
func (c *Conn) isIdle(id uint32) bool {
	if c.server {
		return id&1 == 0 || id > c.lastPeer
	}
	return id&1 == 0 || id >= c.nextID
}

// strayFrame judges a DATA or HEADERS frame for a stream that is not open
// (section 5.1). An error ends the connection.
func (c *Conn) strayFrame(h frame.Header) error {
	if c.isIdle(h.Stream) {
		return frame.Errorf(message.ProtocolError, "%v frame on idle stream %d", h.Type, h.Stream)
	}
	switch how := c.past.get(h.Stream); {
	case how == weReset: // sent before our reset arrived
		return nil
	case how == theyReset:
		c.sendReset(h.Stream, message.StreamClosed)
		c.spend(&c.resets, c.cfg.Limits.Resets, &c.count.ResetFloods, "too many frames on closed streams")
		return nil
	case how == unknown && c.past.forgot: // maybe so, too
		c.noise()
		return nil
	case how == unknown && h.Type == frame.Headers:
		return frame.Errorf(message.ProtocolError, "stream %d is lower than stream %d before it", h.Stream, c.lastPeer)
	}
	return frame.Errorf(message.StreamClosed, "%v frame on closed stream %d", h.Type, h.Stream)
}
