package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Config is a Conn's.
type Config struct {
	// Authority is the :authority of every call.
	Authority string
	// UserAgent is sent with every call.
	UserAgent string
	// Plain: the connection is not secured, as :scheme then says.
	Plain bool
	// Fields are sent with every call, by names in lower case.
	Fields []message.Field
	// MaxMessage bounds a received message, and all messages that are received
	// in part at a time to twice as much, in bytes. 0: 4 MiB.
	MaxMessage int
	// MaxStreams bounds the streams open at once. 0: 2048.
	MaxStreams int
	// Quiet is how long the server may say nothing before it is asked with a
	// PING, and again how long its answer may take. 0: 10 s.
	Quiet time.Duration
	// WriteTimeout bounds one write to the connection. 0: 10 s.
	WriteTimeout time.Duration
}

const (
	// maxOut bounds, in bytes, what waits to be written. Beyond it senders
	// wait, and beyond twice as much of it in answers to the server's own
	// frames the connection ends: such a server does not read.
	maxOut = 256 << 10
	// window is the stream and connection window that we give, in bytes: a large
	// target's whole state comes in a few round trips.
	window = 256 << 10
	// beforeSettings is how many streams may be opened before the server said
	// how many it takes (RFC 9113, section 6.5.2, recommends no less).
	beforeSettings = 100
	// maxHeaderList bounds the fields of a response's head or trailers, in bytes.
	maxHeaderList = 16 << 10
)

// Errors of a connection that callers branch on.
var (
	// ErrClosed: the connection is over, or Run was never called.
	ErrClosed = errors.New("rpc connection is over")
	// ErrTooManyStreams: the server's or our own limit of streams is reached.
	ErrTooManyStreams = errors.New("too many streams")
	errGoAway         = errors.New("the server is going away")
	errSilent         = errors.New("the server does not answer a ping")
)

// A Conn is one HTTP/2 connection to a gRPC server. Its methods are safe from
// any goroutine.
type Conn struct {
	nc  net.Conn
	cfg Config

	mu      sync.Mutex
	room    sync.Cond // out got shorter, a window larger, or something ended
	streams map[uint32]*Stream
	next    uint32
	err     error // why it is over
	started bool

	out     []byte        // waits for the writer
	wake    chan struct{} // 1 slot: out is not empty
	enc     *hpack.Encoder
	sendWin int64
	peer    settings
	partial int // bytes of messages received in part, of all streams
	heard   time.Time
	pinged  bool

	reader reader // of the reader's goroutine
}

// settings are the server's.
type settings struct {
	maxStreams uint32
	window     int64
	maxFrame   int
}

// New makes a Conn of a connection that is secured already. Run takes it.
func New(nc net.Conn, c Config) *Conn {
	if c.MaxMessage <= 0 {
		c.MaxMessage = 4 << 20
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = 2048
	}
	if c.Quiet <= 0 {
		c.Quiet = 10 * time.Second
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 10 * time.Second
	}
	k := &Conn{
		nc: nc, cfg: c, streams: map[uint32]*Stream{}, next: 1,
		wake: make(chan struct{}, 1), enc: hpack.NewEncoder(hpack.DefaultTableSize),
		sendWin: frame.InitialWindow,
		peer:    settings{maxStreams: beforeSettings, window: frame.InitialWindow, maxFrame: frame.MinMaxSize},
	}
	k.room.L = &k.mu
	k.reader = reader{conn: k, dec: hpack.NewDecoder(hpack.NewInterner(), hpack.NewClassifier(func(string, string) uint8 { return 0 }))}
	k.out = append(k.out, frame.Preface...)
	k.out = frame.AppendSettings(k.out,
		frame.Setting{ID: frame.EnablePush, Value: 0},
		frame.Setting{ID: frame.InitialWindowSize, Value: window},
		frame.Setting{ID: frame.MaxHeaderListSize, Value: maxHeaderList},
	)
	k.out = frame.AppendWindowUpdate(k.out, 0, window-frame.InitialWindow)
	return k
}

// Run serves the connection until it breaks, the server leaves or ctx ends,
// and closes it. Every stream has ended when it returns.
func (c *Conn) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.started {
		c.mu.Unlock()
		return ErrClosed
	}
	c.started = true
	c.heard = time.Now()
	c.mu.Unlock()
	c.signal()

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { c.write(stop) })
	wg.Go(func() { c.watch(ctx, stop) })
	err := c.reader.run()
	c.end(err)
	close(stop)
	wg.Wait()
	c.mu.Lock()
	err = c.err
	left := c.streams
	c.streams = map[uint32]*Stream{}
	c.mu.Unlock()
	for _, s := range left {
		s.finish(&Status{Code: Unavailable, Cause: err})
	}
	return err
}

// Close ends the connection; Run returns soon. It is idempotent.
func (c *Conn) Close() { c.end(ErrClosed) }

// end notes why the connection is over, first reason first, and unblocks
// everything.
func (c *Conn) end(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = fmt.Errorf("rpc with %s: %w", c.nc.RemoteAddr(), err)
	}
	c.room.Broadcast()
	c.mu.Unlock()
	if first {
		_ = c.nc.Close()
	}
}

// watch asks a silent server whether it is there, and ends with ctx.
func (c *Conn) watch(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(c.cfg.Quiet / 2)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			c.end(context.Cause(ctx))
			return
		case now := <-tick.C:
			if err := c.alive(now); err != nil {
				c.end(err)
				return
			}
		}
	}
}

func (c *Conn) alive(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	quiet := now.Sub(c.heard)
	switch {
	case quiet >= 2*c.cfg.Quiet:
		return errSilent
	case quiet >= c.cfg.Quiet && !c.pinged:
		c.pinged = true
		c.out = frame.AppendPing(c.out, false, 1)
		c.signal()
	}
	return nil
}

// signal wakes the writer.
func (c *Conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write is the writer: it takes all that waits and writes it at once.
func (c *Conn) write(stop <-chan struct{}) {
	var buf []byte
	for {
		select {
		case <-stop:
			return
		case <-c.wake:
		}
		c.mu.Lock()
		buf, c.out = c.out, buf[:0]
		c.room.Broadcast()
		c.mu.Unlock()
		if len(buf) == 0 {
			continue
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout))
		if _, err := c.nc.Write(buf); err != nil {
			c.end(err)
			return
		}
		if cap(buf) > 16<<10 {
			buf = nil // a quiet connection holds no large buffer
		}
	}
}

// control queues an answer to the server's own frames.
func (c *Conn) control(add func(dst []byte) []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = add(c.out)
	if len(c.out) > 2*maxOut {
		return frame.Errorf(message.EnhanceYourCalm, "the server does not read what it asks for")
	}
	c.signal()
	return nil
}
