package h1

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// wireConn is a connection without a peer or a cost: reads come from in, writes are
// counted.
type wireConn struct {
	loop  *benchLoop
	in    string
	wrote int
}

func (c *wireConn) Loop() aio.Loop           { return c.loop }
func (c *wireConn) Local() netip.AddrPort    { return netip.AddrPort{} }
func (c *wireConn) Remote() netip.AddrPort   { return netip.AddrPort{} }
func (c *wireConn) Peek([]byte) (int, error) { return 0, aio.ErrWouldBlock }
func (c *wireConn) Read(p []byte) (int, error) {
	if c.in == "" {
		return 0, aio.ErrWouldBlock
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}
func (c *wireConn) Write(p []byte) (int, error) { c.wrote++; return len(p), nil }
func (c *wireConn) CloseWrite() error           { return nil }
func (c *wireConn) Close()                      {}
func (c *wireConn) Reset()                      {}
func (c *wireConn) SetHandler(aio.Handler)      {}
func (c *wireConn) Stats() aio.Stats            { return aio.Stats{} }

// benchLoop runs deferred functions when told to.
type benchLoop struct {
	*aiotest.Loop
	defers []func()
}

func (l *benchLoop) Defer(f func()) { l.defers = append(l.defers, f) }

func (l *benchLoop) pass() {
	for len(l.defers) > 0 {
		f := l.defers[len(l.defers)-1]
		l.defers = l.defers[:len(l.defers)-1]
		f()
	}
}

// AfterFunc never fires: the benchmark's time stands still.
func (l *benchLoop) AfterFunc(time.Duration, func()) aio.Timer { return noTimer{} }

type noTimer struct{}

func (noTimer) Stop() bool          { return true }
func (noTimer) Reset(time.Duration) {}

// quick answers at once.
type quick struct{ head *message.Head }

func (q quick) Head(s message.Stream, _ *message.Head, _ bool) {
	s.SendHead(q.head, true)
	s.(message.Releaser).Release()
}
func (quick) Data(message.Stream, []byte, bool)           {}
func (quick) Trailers(message.Stream, []message.Field)    {}
func (quick) Drained(message.Stream, int)                 {}
func (quick) Aborted(message.Stream, message.Code, error) {}

const browser = "GET /api/leaderboard?page=1 HTTP/1.1\r\nHost: web.emojivoto:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
	"Accept: text/html,application/xhtml+xml;q=0.9\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n" +
	"Cookie: session=0123456789abcdef\r\nX-Request-Id: 7f9a2c\r\n\r\n"

// serverForBench returns a server's connection and what makes it act.
func serverForBench() (*wireConn, func()) {
	l := &benchLoop{Loop: aiotest.NewLoop()}
	c := &wireConn{loop: l}
	q := quick{&message.Head{Status: 200, Reason: "OK", Version: message.HTTP11, Fields: []message.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Date", Value: "Thu, 01 Jan 1970 00:00:00 GMT"}}}}
	var rcv message.Receiver = q
	s := NewServer(c, Config{}, func(s message.Stream) { s.SetReceiver(rcv) })
	return c, func() {
		s.Readable(c)
		l.pass()
	}
}

func clientForBench() func() {
	l := &benchLoop{Loop: aiotest.NewLoop()}
	c := &wireConn{loop: l}
	k := NewClient(c, Config{})
	h := get("/api/leaderboard", message.Field{Name: "User-Agent", Value: "x"}, message.Field{Name: "Accept", Value: "*/*"})
	return func() {
		s, err := k.OpenStream()
		if err != nil {
			panic(err)
		}
		s.SetReceiver(quiet)
		s.SendHead(h, true)
		l.pass()
		c.in = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello"
		k.Readable(c)
		l.pass()
	}
}

type silent struct{ noReceiver }

func (silent) Head(message.Stream, *message.Head, bool) {}
func (silent) Data(s message.Stream, p []byte, end bool) {
	s.Consumed(len(p))
	if end {
		s.(message.Releaser).Release()
	}
}
func (silent) Aborted(message.Stream, message.Code, error) {}

var quiet message.Receiver = silent{} // boxed once

// TestAllocations: a head's text and nothing else.
func TestAllocations(t *testing.T) {
	c, s := serverForBench()
	if n := testing.AllocsPerRun(200, func() {
		c.in = browser
		s()
	}); n > 1 {
		t.Errorf("server: %v allocations a request", n)
	}
	do := clientForBench()
	if n := testing.AllocsPerRun(200, do); n > 1 {
		t.Errorf("client: %v allocations a request", n)
	}
}

// TestOneWritePerPass: pipelined requests that come in one read are answered in one
// write.
func TestOneWritePerPass(t *testing.T) {
	c, s := serverForBench()
	c.in = browser + browser + browser
	s()
	if c.wrote != 1 {
		t.Errorf("%d writes for three responses", c.wrote)
	}
}

func BenchmarkServer(b *testing.B) {
	c, s := serverForBench()
	b.ReportAllocs()
	b.SetBytes(int64(len(browser)))
	for b.Loop() {
		c.in = browser
		s()
	}
}

func BenchmarkClient(b *testing.B) {
	do := clientForBench()
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
}

func BenchmarkChunked(b *testing.B) {
	d := body{mode: chunkedBody}
	in := []byte("400\r\n" + string(make([]byte, 1024)) + "\r\n")
	b.SetBytes(1024)
	for b.Loop() {
		for p := in; len(p) > 0; {
			_, n, _, _, err := d.next(p, 1<<20)
			if err != nil {
				b.Fatal(err)
			}
			p = p[n:]
		}
	}
}
