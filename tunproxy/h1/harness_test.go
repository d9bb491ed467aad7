package h1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// log is a receiver that writes down what it hears.
type log struct {
	t       testing.TB
	events  []string
	stream  message.Stream
	head    *message.Head
	body    []byte
	keep    bool // do not consume by itself
	drained int
	aborted bool
	ended   bool
	err     error
	code    message.Code
	onHead  func(s message.Stream, h *message.Head, end bool)
	onData  func(s message.Stream, p []byte, end bool)
}

func (l *log) Head(s message.Stream, h *message.Head, end bool) {
	l.stream, l.head = s, h.Clone()
	l.ended = l.ended || end
	l.add("head %s end=%v", headLine(h), end)
	if l.onHead != nil {
		l.onHead(s, h, end)
	}
}

func (l *log) Data(s message.Stream, p []byte, end bool) {
	if l.ended || l.aborted {
		l.t.Errorf("data %q after the end", p)
	}
	l.body = append(l.body, p...)
	l.ended = end
	if end {
		l.add("end")
	}
	if l.onData != nil {
		l.onData(s, p, end)
	}
	if !l.keep {
		s.Consumed(len(p))
	}
}

func (l *log) Trailers(_ message.Stream, f []message.Field) {
	l.ended = true
	l.add("trailers %s", fieldList(f))
}

func (l *log) Drained(_ message.Stream, n int) { l.drained += n }

func (l *log) Aborted(_ message.Stream, code message.Code, err error) {
	if l.aborted {
		l.t.Error("aborted twice")
	}
	l.aborted, l.code, l.err = true, code, err
	l.add("aborted %v", code)
}

func (l *log) add(format string, args ...any) {
	l.events = append(l.events, fmt.Sprintf(format, args...))
}

func (l *log) String() string { return strings.Join(l.events, "\n") }

func headLine(h *message.Head) string {
	if h.Status != 0 {
		return fmt.Sprintf("%d %q %v", h.Status, h.Reason, h.Version)
	}
	return fmt.Sprintf("%s %s %s %v", h.Method, h.Authority, h.Path, h.Version)
}

func fieldList(f []message.Field) string {
	var b strings.Builder
	for _, f := range f {
		fmt.Fprintf(&b, "%s=%s;", f.Name, f.Value)
	}
	return b.String()
}

// served is a Server with the client's end of its connection.
type served struct {
	t       testing.TB
	loop    *aiotest.Loop
	client  *aiotest.Conn
	server  *Server
	logs    []*log // one per request
	refused []string
	closed  []error
	// setup prepares the receiver of each request.
	setup func(l *log)
}

func serve(t testing.TB, cfg Config, setup func(*log)) *served {
	v := &served{t: t, loop: aiotest.NewLoop(), setup: setup}
	a, b := aiotest.Pipe(v.loop, 1<<20)
	v.client = a
	cfg.Refused = func(e *Error) { v.refused = append(v.refused, e.Reason) }
	cfg.OnClose = func(err error) { v.closed = append(v.closed, err) }
	v.server = NewServer(b, cfg, func(s message.Stream) {
		l := &log{t: t}
		v.logs = append(v.logs, l)
		if v.setup != nil {
			v.setup(l)
		}
		s.SetReceiver(l)
	})
	v.loop.Run(t)
	return v
}

// put writes bytes as the client and lets the server act.
func (v *served) put(s string) {
	v.t.Helper()
	v.client.Put([]byte(s))
	v.loop.Run(v.t)
}

// take is what the client has received since.
func (v *served) take() string {
	v.t.Helper()
	v.loop.Run(v.t)
	return string(v.client.Take())
}

// called is a Client with the server's end of its connection.
type called struct {
	t      testing.TB
	loop   *aiotest.Loop
	server *aiotest.Conn
	client *Client
	idle   int
	closed []error
}

func call(t testing.TB, cfg Config) *called {
	v := &called{t: t, loop: aiotest.NewLoop()}
	a, b := aiotest.Pipe(v.loop, 1<<20)
	v.server = b
	cfg.OnIdle = func() { v.idle++ }
	cfg.OnClose = func(err error) { v.closed = append(v.closed, err) }
	v.client = NewClient(a, cfg)
	v.loop.Run(t)
	return v
}

// open begins an exchange and sends a request head.
func (v *called) open(h *message.Head, end bool) (message.Stream, *log) {
	v.t.Helper()
	s, err := v.client.OpenStream()
	if err != nil {
		v.t.Fatal(err)
	}
	l := &log{t: v.t}
	s.SetReceiver(l)
	s.SendHead(h, end)
	v.loop.Run(v.t)
	return s, l
}

func (v *called) put(s string) {
	v.t.Helper()
	v.server.Put([]byte(s))
	v.loop.Run(v.t)
}

func (v *called) take() string {
	v.t.Helper()
	v.loop.Run(v.t)
	return string(v.server.Take())
}

// echo answers each request with its own body once it is whole.
func echo(l *log) {
	answer := func(s message.Stream) {
		s.SendHead(&message.Head{Status: 200, Reason: "OK", Version: message.HTTP11, ContentLength: int64(len(l.body))}, len(l.body) == 0)
		if len(l.body) > 0 {
			s.SendData(l.body, true)
		}
	}
	l.onHead = func(s message.Stream, _ *message.Head, end bool) {
		if end {
			answer(s)
		}
	}
	l.onData = func(s message.Stream, _ []byte, end bool) {
		if end {
			answer(s)
		}
	}
}

// get is a request head.
func get(path string, fields ...message.Field) *message.Head {
	return &message.Head{
		Method: "GET", Scheme: "http", Authority: "a.example", Path: path, Version: message.HTTP11, Fields: fields,
	}
}

// ok is a response head.
func ok(length int64) *message.Head {
	return &message.Head{Status: 200, Reason: "OK", Version: message.HTTP11, ContentLength: length}
}

func mustEqual(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%q\nwant:\n%q", got, want)
	}
}
