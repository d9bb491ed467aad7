package h1

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func release(s message.Stream) { s.(message.Releaser).Release() }

// A released stream says nothing any more and serves another exchange, once its
// bytes have left.
func TestReleasedStreamsServeAgain(t *testing.T) {
	loop := aiotest.NewLoop()
	a, b := aiotest.Pipe(loop, 100) // the client takes so much
	var streams []message.Stream
	var logs []*log
	s := NewServer(b, Config{}, func(s message.Stream) {
		l := &log{t: t}
		l.onHead = func(s message.Stream, _ *message.Head, _ bool) {
			s.SendHead(ok(1000), false)
			s.SendData([]byte(strings.Repeat("x", 1000)), true)
			release(s)
			release(s) // no harm
		}
		streams, logs = append(streams, s), append(logs, l)
		s.SetReceiver(l)
	})
	a.Put([]byte("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"))
	loop.Run(t)
	if len(s.cfg.Buffers.streams) != 0 {
		t.Fatal("used again while its bytes wait")
	}
	got := len(a.Take())
	for loop.Run(t); ; loop.Run(t) {
		n := len(a.Take())
		if got += n; n == 0 {
			break
		}
	}
	a.Put([]byte("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"))
	loop.Run(t)
	if len(streams) != 2 || streams[0] != streams[1] || got < 1000 {
		t.Errorf("%d streams, %d bytes of the first response", len(streams), got)
	}
	mustEqual(t, logs[0].String(), "head GET a /1 11 end=true")
	if logs[0].drained != 0 {
		t.Error("a released stream told what drained")
	}
}

// Releasing an exchange that is not over ends it.
func TestReleaseEndsWhatIsUnderWay(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
	release(v.logs[0].stream)
	v.loop.Run(t)
	if !v.client.WasReset() || v.logs[0].aborted {
		t.Errorf("reset %v, told so %v", v.client.WasReset(), v.logs[0].aborted)
	}

	c := call(t, Config{})
	s, l := c.open(get("/"), true)
	c.put("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
	release(s)
	c.loop.Run(t)
	if !c.server.WasReset() || l.aborted || len(c.closed) != 1 {
		t.Errorf("reset %v, told so %v, closed %v", c.server.WasReset(), l.aborted, c.closed)
	}
	if len(c.client.cfg.Buffers.streams) != 1 {
		t.Error("its stream is not used again")
	}
}

// What is deferred for a stream must not reach the exchange that has it next.
func TestDeferredEndsStayWithTheirStream(t *testing.T) {
	c := call(t, Config{})
	s, err := c.client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	s.SetReceiver(&log{t: t})
	s.SendHead(&message.Head{Method: "BAD METHOD", Path: "/"}, true)
	s.Abort(message.Cancel)
	release(s)
	again, l := c.open(get("/"), true)
	c.put("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if again == s || l.aborted || !l.ended {
		t.Errorf("the same stream %v, aborted %v, ended %v", again == s, l.aborted, l.ended)
	}
	if n := len(c.client.cfg.Buffers.streams); n != 0 {
		t.Errorf("%d streams to be used again", n)
	}
}
