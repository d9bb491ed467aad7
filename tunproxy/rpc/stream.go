package rpc

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// A Handler hears a stream on the reader's goroutine: it must not block, and
// must not wait for anything that comes over the same connection.
type Handler interface {
	// Message is one message, borrowed for the call.
	Message(s *Stream, p []byte)
	// End is the last event: nil after status OK, else a *Status. It is called
	// exactly once for each stream that Start returned, also after Cancel, from
	// whose goroutine it then comes: a Message may be under way at that moment.
	End(s *Stream, err error)
}

// A Stream is one call.
type Stream struct {
	conn    *Conn
	id      uint32
	handler Handler

	// Of the connection's lock.
	sendWin int64
	ended   bool // taken out of the connection
	sentEnd bool
	partial int // len(in), as counted

	// Of the reader's goroutine.
	headed   bool
	in       []byte
	consumed int
}

// ID is the stream's identifier on the connection.
func (s *Stream) ID() uint32 { return s.id }

// Start opens a stream and sends its head; method is "/package.Service/Method".
// timeout, when positive, is told to the server.
func (c *Conn) Start(method string, timeout time.Duration, h Handler) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, &Status{Code: Unavailable, Cause: c.err}
	case len(c.streams) >= c.cfg.MaxStreams || uint64(len(c.streams)) >= uint64(c.peer.maxStreams):
		return nil, fmt.Errorf("start %s: %w (%d open)", method, ErrTooManyStreams, len(c.streams))
	case c.next > frame.MaxStreamID:
		return nil, &Status{Code: Unavailable, Message: "the connection has used up its stream identifiers"}
	}
	s := &Stream{conn: c, id: c.next, handler: h, sendWin: c.peer.window}
	c.next += 2
	c.streams[s.id] = s
	at := len(c.out)
	c.out = frame.AppendHeader(c.out, frame.Header{Type: frame.Headers, Stream: s.id})
	b := c.enc.Begin(c.out)
	b = c.enc.Append(b, ":method", "POST", hpack.Always)
	b = c.enc.Append(b, ":scheme", c.scheme(), hpack.Always)
	b = c.enc.Append(b, ":path", method, hpack.Always)
	b = c.enc.Append(b, ":authority", c.cfg.Authority, hpack.Always)
	b = c.enc.Append(b, "te", "trailers", hpack.Always)
	b = c.enc.Append(b, "content-type", "application/grpc", hpack.Always)
	if c.cfg.UserAgent != "" {
		b = c.enc.Append(b, "user-agent", c.cfg.UserAgent, hpack.Always)
	}
	for i := range c.cfg.Fields {
		b = c.enc.Append(b, c.cfg.Fields[i].Name, c.cfg.Fields[i].Value, hpack.Always)
	}
	if timeout > 0 {
		b = c.enc.Append(b, "grpc-timeout", strconv.FormatInt((timeout+time.Millisecond-1).Milliseconds(), 10)+"m", hpack.Without)
	}
	c.out = frame.FinishHeaders(b, at, frame.MinMaxSize)
	c.signal()
	return s, nil
}

func (c *Conn) scheme() string {
	if c.cfg.Plain {
		return "http"
	}
	return "https"
}

// Send sends one message and, with end, says that it was the last. It waits
// while the server's window or our buffer is full; ctx bounds the wait.
func (s *Stream) Send(ctx context.Context, p []byte, end bool) error {
	c := s.conn
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		c.room.Broadcast()
		c.mu.Unlock()
	})
	defer stop()
	msg := make([]byte, prefixLen, prefixLen+len(p))
	binary.BigEndian.PutUint32(msg[1:], uint32(len(p)))
	msg = append(msg, p...)

	c.mu.Lock()
	defer c.mu.Unlock()
	for len(msg) > 0 {
		n := int(min(int64(len(msg)), s.sendWin, c.sendWin, int64(c.peer.maxFrame)))
		switch {
		case c.err != nil:
			return &Status{Code: Unavailable, Cause: c.err}
		case s.ended || s.sentEnd:
			return &Status{Code: Canceled, Message: "send on a stream that is over"}
		case ctx.Err() != nil:
			return fmt.Errorf("send: %w", context.Cause(ctx))
		case n <= 0 || len(c.out) > maxOut:
			c.room.Wait()
			continue
		}
		s.sendWin -= int64(n)
		c.sendWin -= int64(n)
		s.sentEnd = end && n == len(msg)
		c.out = frame.AppendData(c.out, s.id, msg[:n], s.sentEnd)
		msg = msg[n:]
		c.signal()
	}
	return nil
}

// Cancel ends the stream; the handler's End follows, from this call, unless it
// was called already.
func (s *Stream) Cancel() {
	s.conn.abort(s, &Status{Code: Canceled, Message: "canceled by the caller"})
}

// stream finds one that is still open.
func (c *Conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// abort resets a stream and ends it.
func (c *Conn) abort(s *Stream, st *Status) {
	c.mu.Lock()
	open := c.streams[s.id] == s
	if open && c.err == nil {
		c.out = frame.AppendRST(c.out, s.id, message.Cancel)
		c.signal()
	}
	c.mu.Unlock()
	if open {
		c.finish(s.id, st)
	}
}

// finish takes a stream out and tells its handler.
func (c *Conn) finish(id uint32, st *Status) {
	c.mu.Lock()
	s := c.streams[id]
	delete(c.streams, id)
	if s != nil {
		c.partial -= s.partial
	}
	c.mu.Unlock()
	if s != nil {
		s.finish(st)
	}
}

// finish tells the handler; the stream is out of the connection's map.
func (s *Stream) finish(st *Status) {
	c := s.conn
	c.mu.Lock()
	s.ended = true
	c.room.Broadcast()
	c.mu.Unlock()
	if st == nil {
		s.handler.End(s, nil)
		return
	}
	s.handler.End(s, st)
}

// serverFirst is how much sooner than ours the server's clock may say that a
// call's time is up.
const serverFirst = 10 * time.Millisecond

// Call makes a unary call. The answer is the caller's. ctx should have a
// deadline: it is told to the server.
func (c *Conn) Call(ctx context.Context, method string, req []byte) ([]byte, error) {
	u := &unary{done: make(chan struct{})}
	began := time.Now()
	var timeout time.Duration
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	s, err := c.Start(method, timeout, u)
	if err != nil {
		return nil, err
	}
	if err := s.Send(ctx, req, true); err != nil && ctx.Err() != nil {
		s.Cancel()
	}
	select {
	case <-u.done:
	case <-ctx.Done():
		s.Cancel()
		<-u.done
	}
	switch {
	case ctx.Err() != nil && u.err != nil:
		return nil, fmt.Errorf("%s: %w", method, context.Cause(ctx))
	case CodeOf(u.err) == Canceled && timeout > 0 && time.Since(began) > timeout-serverFirst:
		// The server knows the deadline too, and resets the stream at it.
		return nil, fmt.Errorf("%s: %w", method, context.DeadlineExceeded)
	case u.err != nil:
		return nil, fmt.Errorf("%s: %w", method, u.err)
	case u.count != 1:
		return nil, fmt.Errorf("%s: %w", method, &Status{Code: Internal, Message: fmt.Sprintf("%d messages in a unary response", u.count)})
	}
	return u.answer, nil
}

// unary is the handler of a Call.
type unary struct {
	answer []byte
	count  int
	err    error
	done   chan struct{}
}

// Message implements Handler.
func (u *unary) Message(_ *Stream, p []byte) {
	u.count++
	u.answer = append([]byte{}, p...)
}

// End implements Handler.
func (u *unary) End(_ *Stream, err error) {
	u.err = err
	close(u.done)
}
