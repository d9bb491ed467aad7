package tunproxy_test

import (
	"errors"
	"io"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
)

// cheap is an app that speaks HTTP/2 and costs next to nothing: it takes all
// that comes, on its kernel's loop. It answers requests with so many bytes that
// have no end, or, with 0, not at all.
type cheap struct {
	bytes int
	of    *siege
	begun bool
	skip  int    // of the preface, or a frame's payload
	head  []byte // of the next frame
	out   []byte
}

// serveApp is the attacker's app.
func (s *siege) serveApp(handler func() aio.Handler) {
	s.apps = map[aio.Conn]struct{}{}
	s.b.serveRaw(80, func(c aio.Conn) {
		s.apps[c] = struct{}{}
		c.SetHandler(handler())
	})
}

// endless is an app that answers whatever comes with a response without an end, of
// which it holds nothing.
type endless struct {
	zeros []byte // of all of them
	begun bool
}

func endlessApp() func() aio.Handler {
	zeros := make([]byte, 64<<10)
	return func() aio.Handler { return &endless{zeros: zeros} }
}

func (e *endless) Readable(c aio.Conn) {
	var buf [4 << 10]byte
	for {
		n, err := c.Read(buf[:])
		if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
			c.Reset()
			return
		}
		if n == 0 {
			break
		}
		if !e.begun {
			e.begun = true
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
		}
	}
	e.Writable(c)
}

func (e *endless) Writable(c aio.Conn) {
	for e.begun {
		if n, err := c.Write(e.zeros); n < len(e.zeros) || err != nil {
			return
		}
	}
}
func (*endless) Closed(c aio.Conn, _ error) { c.Reset() }

// hangUp resets what the attacker's app has.
func (s *siege) hangUp() {
	done := make(chan struct{})
	s.b.stack.Loops()[0].Post(func() {
		for c := range s.apps {
			c.Reset()
		}
		clear(s.apps)
		close(done)
	})
	<-done
}

func (s *cheap) Readable(c aio.Conn) {
	if !s.begun {
		s.begun, s.skip = true, len(frame.Preface)
		s.out = frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 1 << 30}, frame.Setting{ID: frame.MaxConcurrentStreams, Value: 20_000})
		s.out = frame.AppendWindowUpdate(frame.AppendSettingsAck(s.out), 0, 1<<30)
	}
	var buf [32 << 10]byte
	for {
		n, err := c.Read(buf[:])
		s.parse(buf[:n])
		if err != nil {
			break
		}
	}
	s.Writable(c)
}

func (s *cheap) parse(b []byte) {
	for len(b) > 0 {
		if n := min(s.skip, len(b)); n > 0 {
			s.skip -= n
			b = b[n:]
			continue
		}
		n := min(frame.HeaderLen-len(s.head), len(b))
		s.head = append(s.head, b[:n]...)
		b = b[n:]
		if len(s.head) < frame.HeaderLen {
			return
		}
		h := s.head
		s.skip = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		if s.bytes > 0 && frame.Type(h[3]) == frame.Headers {
			id := uint32(h[5]&0x7f)<<24 | uint32(h[6])<<16 | uint32(h[7])<<8 | uint32(h[8])
			s.out = frame.AppendHeaders(s.out, id, []byte{0x88}, false, frame.MinMaxSize)
			for left := s.bytes; left > 0; left -= frame.MinMaxSize {
				s.out = frame.AppendData(s.out, id, make([]byte, min(left, frame.MinMaxSize)), false)
			}
		}
		s.head = s.head[:0]
	}
}

func (s *cheap) Writable(c aio.Conn) {
	n, _ := c.Write(s.out)
	s.out = s.out[n:]
}
func (s *cheap) Closed(c aio.Conn, _ error) {
	delete(s.of.apps, c)
	c.Reset()
}
