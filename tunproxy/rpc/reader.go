package rpc

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// reader is the receiving side; its fields are its goroutine's.
type reader struct {
	conn     *Conn
	dec      *hpack.Decoder
	settled  bool   // the server's SETTINGS came
	block    []byte // header block in parts
	blockOf  uint32 // its stream; 0: none
	blockEnd bool
	consumed int // of the connection window, not given back yet
}

func (r *reader) run() error {
	buf := make([]byte, 0, 8<<10)
	for {
		n, err := r.conn.nc.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest := buf
		for n > 0 {
			h, payload, after, ok, ferr := frame.Split(rest, frame.MinMaxSize)
			if ferr != nil {
				return ferr
			}
			if !ok {
				break
			}
			if ferr := r.frame(h, payload); ferr != nil {
				return ferr
			}
			rest = after
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the server closed the connection")
			}
			return err
		}
		keep := copy(buf[:cap(buf)], rest)
		buf = buf[:keep]
		if cap(buf)-len(buf) < 4<<10 {
			buf = append(make([]byte, 0, frame.MinMaxSize+frame.HeaderLen+4<<10), buf...)
		}
	}
}

// frame handles one whole frame. An error ends the connection.
func (r *reader) frame(h frame.Header, p []byte) error {
	c := r.conn
	c.mu.Lock()
	c.heard = time.Now()
	c.pinged = false
	c.mu.Unlock()
	if err := frame.CheckHeader(h); err != nil {
		return err
	}
	switch {
	case !r.settled && (h.Type != frame.Settings || h.Flags.Has(frame.Ack)):
		return frame.Errorf(message.ProtocolError, "the server began with %s, not SETTINGS", h.Type)
	case r.blockOf != 0 && (h.Type != frame.Continuation || h.Stream != r.blockOf):
		return frame.Errorf(message.ProtocolError, "%s inside a header block", h.Type)
	}
	switch h.Type {
	case frame.Data:
		return r.data(h, p)
	case frame.Headers:
		fragment, _, err := frame.ParseHeaders(h, p)
		if err != nil {
			return err
		}
		r.blockOf, r.blockEnd = h.Stream, h.Flags.Has(frame.EndStream)
		return r.fragment(h, fragment)
	case frame.Continuation:
		if r.blockOf == 0 {
			return frame.Errorf(message.ProtocolError, "CONTINUATION without HEADERS")
		}
		return r.fragment(h, p)
	case frame.RSTStream:
		code := frame.ParseCode(p)
		c.finish(h.Stream, &Status{Code: ofReset(code), Message: fmt.Sprintf("the server reset the stream with code %d", code)})
	case frame.Settings:
		return r.settings(h, p)
	case frame.Ping:
		if !h.Flags.Has(frame.Ack) {
			v := frame.ParsePing(p)
			return c.control(func(dst []byte) []byte { return frame.AppendPing(dst, true, v) })
		}
	case frame.GoAway:
		_, code, debug := frame.ParseGoAway(p)
		return fmt.Errorf("%w (code %d %q)", errGoAway, code, debug)
	case frame.WindowUpdate:
		return c.windowUpdate(h.Stream, frame.ParseWindow(p))
	case frame.PushPromise:
		return frame.Errorf(message.ProtocolError, "PUSH_PROMISE, which we forbade")
	case frame.Priority:
	}
	return nil
}

func (r *reader) settings(h frame.Header, p []byte) error {
	if h.Flags.Has(frame.Ack) {
		return nil
	}
	c := r.conn
	c.mu.Lock()
	if !r.settled {
		r.settled = true
		c.peer.maxStreams = math.MaxUint32 // unless it says otherwise
	}
	for i := range len(p) / 6 {
		s := frame.SettingAt(p, i)
		if err := s.Check(); err != nil {
			c.mu.Unlock()
			return err
		}
		switch s.ID {
		case frame.HeaderTableSize:
			c.enc.SetLimit(s.Value)
		case frame.MaxConcurrentStreams:
			c.peer.maxStreams = s.Value
		case frame.InitialWindowSize:
			for _, st := range c.streams {
				st.sendWin += int64(s.Value) - c.peer.window
			}
			c.peer.window = int64(s.Value)
		case frame.MaxFrameSize:
			c.peer.maxFrame = int(s.Value)
		}
	}
	c.room.Broadcast()
	c.mu.Unlock()
	return c.control(frame.AppendSettingsAck)
}

func (c *Conn) windowUpdate(stream, n uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.room.Broadcast()
	if stream == 0 {
		c.sendWin += int64(n)
		if n == 0 || c.sendWin > frame.MaxWindow {
			return frame.Errorf(message.FlowControlError, "window update by %d", n)
		}
		return nil
	}
	if s := c.streams[stream]; s != nil {
		s.sendWin += int64(n)
		if n == 0 || s.sendWin > frame.MaxWindow {
			return frame.Errorf(message.FlowControlError, "window update by %d on stream %d", n, stream)
		}
	}
	return nil
}
