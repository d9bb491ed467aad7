package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// The payloads of our PINGs; a peer's answer carries them back.
const (
	keepalivePing uint64 = 0x74756e6d65736831
	drainPing     uint64 = 0x74756e6d65736832
)

// rapidReset: a stream that its client resets before any response and before
// this age cost it nothing, and us a request. Older ones are bounded by
// MaxStreams, answered ones are requests that were served.
const rapidReset = time.Second

// maxDebug is how much of a GOAWAY's debug data is kept, in bytes.
const maxDebug = 128

func (c *Conn) rstStream(h frame.Header, p []byte) error {
	s := c.streams.get(h.Stream)
	if s == nil {
		if c.isIdle(h.Stream) {
			return frame.Errorf(message.ProtocolError, "RST_STREAM on idle stream %d", h.Stream)
		}
		c.noise() // it crossed our own end
		return nil
	}
	code := frame.ParseCode(p)
	c.count.Resets.Add(1)
	if code == message.RefusedStream && !c.server {
		s.undelivered = true
	}
	rapid := c.server && s.headAt == 0 && c.loop.Now()-s.at < rapidReset
	r := s.r
	s.r = nil
	c.forget(s, theyReset)
	if r != nil {
		r.Aborted(s, code, nil)
	}
	if rapid {
		c.spend(&c.resets, c.cfg.Limits.Resets, &c.count.ResetFloods, "too many streams reset")
	}
	return nil
}

func (c *Conn) settings(h frame.Header, p []byte) error {
	if h.Flags.Has(frame.Ack) {
		c.settingsAcked()
		return nil
	}
	if c.in.settings {
		c.noise()
	}
	c.in.settings = true
	c.pinged = true
	window := c.peer.initialWindow
	for i := range len(p) / 6 {
		s := frame.SettingAt(p, i)
		if err := s.Check(); err != nil {
			return err
		}
		switch s.ID {
		case frame.HeaderTableSize:
			c.enc.SetLimit(s.Value)
		case frame.MaxConcurrentStreams:
			c.peer.maxStreams = int(s.Value)
		case frame.InitialWindowSize:
			window = int(s.Value) // the last counts: each would cost a walk over all streams
		case frame.EnablePush:
			if s.Value == 1 && !c.server {
				return frame.Errorf(message.ProtocolError, "a server that enables push")
			}
		case frame.EnableConnectProtocol:
			if s.Value == 0 && c.peer.connect {
				return frame.Errorf(message.ProtocolError, "extended CONNECT withdrawn")
			}
			c.peer.connect = s.Value == 1
		}
	}
	if err := c.resizeWindows(window); err != nil {
		return err
	}
	if c.acked {
		c.due.settings = 0
	}
	c.replied(frame.AppendSettingsAck(c.frames()))
	if !c.server {
		if !c.peer.connect {
			c.refuseExtended()
		}
		c.roomForStreams()
	}
	return nil
}

// resizeWindows applies the peer's INITIAL_WINDOW_SIZE to open streams, whose
// windows may become negative (RFC 9113, section 6.9.2).
func (c *Conn) resizeWindows(window int) error {
	delta := window - c.peer.initialWindow
	c.peer.initialWindow = window
	if delta == 0 {
		return nil
	}
	for _, s := range c.streams.slots {
		if s == nil {
			continue
		}
		if s.sendWindow += delta; s.sendWindow > frame.MaxWindow {
			return frame.Errorf(message.FlowControlError, "INITIAL_WINDOW_SIZE overflows the window of stream %d", s.id)
		}
		if s.sendWindow > 0 && s.queue.size > 0 {
			c.makeReady(s)
		}
	}
	return nil
}

// settingsAcked: from here on the peer keeps to what we announced.
func (c *Conn) settingsAcked() {
	if c.acked {
		c.noise()
		return
	}
	c.acked = true
	if c.in.settings {
		c.due.settings = 0
	}
	c.dec.SetLimit(c.cfg.HeaderTable)
	delta := c.announcedWindow() - c.initial
	c.initial += delta
	for _, s := range c.streams.slots {
		if s != nil {
			s.window += delta
			s.recvWindow += delta
		}
	}
	for _, s := range c.unborn {
		s.window += delta
		s.recvWindow += delta
	}
}

func (c *Conn) ping(h frame.Header, p []byte) error {
	data := frame.ParsePing(p)
	if h.Flags.Has(frame.Ack) {
		switch data {
		case drainPing:
			c.drainFinal()
		case keepalivePing:
		default:
			c.noise()
		}
		return nil
	}
	// A PING now and then after data measures bandwidth (gRPC's does, at every
	// round trip); many in a row serve nobody.
	if c.pinged {
		c.noise()
	}
	c.pinged = true
	c.replied(frame.AppendPing(c.frames(), true, data))
	return nil
}

// drainFinal sends the GOAWAY that names the last stream that is served.
func (c *Conn) drainFinal() {
	if !c.draining || c.final || c.state != open {
		return
	}
	c.due.drain = 0
	c.final = true
	c.lastKept = c.lastPeer
	c.appended(frame.AppendGoAway(c.frames(), c.lastKept, message.NoError, "draining"))
}

func (c *Conn) goneAway(p []byte) error {
	last, code, debug := frame.ParseGoAway(p)
	if c.goAway != nil { // the first announces, the second names the last stream
		c.noise()
	}
	c.goAway = &GoAwayError{Code: code, Debug: string(debug[:min(len(debug), maxDebug)])}
	if c.server { // it says that the client wants no pushes; requests still come
		return nil
	}
	if !c.draining {
		c.draining, c.tellDrain = true, true
	}
	lost := func(s *stream) {
		if s == nil || s.id != 0 && s.id <= last {
			return
		}
		s.undelivered = true
		c.doomed = append(c.doomed, doom{s, s.r, message.RefusedStream, c.goAway})
	}
	before := len(c.doomed)
	for _, s := range c.streams.slots {
		lost(s)
	}
	for _, s := range c.unborn {
		lost(s)
	}
	for _, d := range c.doomed[before:] {
		d.s.r = nil
		if d.s.id != 0 {
			c.past.add(d.s.id, theyReset)
		}
		c.take(d.s)
	}
	c.wake()
	return nil
}

func (c *Conn) windowUpdate(h frame.Header, p []byte) error {
	n := int(frame.ParseWindow(p))
	// A few updates for each DATA frame of ours are everybody's habit.
	if c.updates++; c.updates > 1000+10*c.dataFrames {
		c.noise()
	}
	if h.Stream == 0 {
		if n == 0 {
			return frame.Errorf(message.ProtocolError, "WINDOW_UPDATE of 0")
		}
		if c.sendWindow += n; c.sendWindow > frame.MaxWindow {
			return frame.Errorf(message.FlowControlError, "WINDOW_UPDATE overflows the connection's window")
		}
		for c.sendWindow > 0 && c.starved.head != nil {
			s := c.starved.head
			c.starved.remove(s)
			c.makeReady(s)
		}
		return nil
	}
	s := c.streams.get(h.Stream)
	switch {
	case s == nil:
		if c.isIdle(h.Stream) {
			return frame.Errorf(message.ProtocolError, "WINDOW_UPDATE on idle stream %d", h.Stream)
		}
	case n == 0:
		c.breach(s, message.ProtocolError, "WINDOW_UPDATE of 0")
	case s.sendWindow+n > frame.MaxWindow:
		c.breach(s, message.FlowControlError, "WINDOW_UPDATE overflows the stream's window")
	default:
		s.sendWindow += n
		if s.sendWindow > 0 && s.queue.size > 0 {
			c.makeReady(s)
		}
	}
	return nil
}

// priority is ignored (RFC 9113, section 5.3.2) but for its form.
func (c *Conn) priority(h frame.Header, p []byte) error {
	c.noise()
	var err *frame.Error
	switch {
	case len(p) != 5:
		err = frame.Errorf(message.FrameSizeError, "a PRIORITY frame that is not 5 bytes long")
	case frame.ParseDependency(p) == h.Stream:
		err = frame.Errorf(message.ProtocolError, "a stream that depends on itself")
	default:
		return nil
	}
	if c.isIdle(h.Stream) { // there is nothing to reset
		return err
	}
	if s := c.streams.get(h.Stream); s != nil {
		c.breach(s, err.Code, err.Reason)
		return nil
	}
	c.sendReset(h.Stream, err.Code)
	return nil
}
