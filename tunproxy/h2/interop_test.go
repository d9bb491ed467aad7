package h2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// bridge joins one end of a pipe on a loop with a net.Conn of the outside
// world, whose goroutines it runs until both are closed.
type bridge struct {
	loop *aiotest.Loop
	end  *aiotest.Conn
	out  net.Conn
	in   chan []byte // written on the loop, for out
	wg   sync.WaitGroup
}

func newBridge(t *testing.T, loop *aiotest.Loop, end *aiotest.Conn) (outside net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	outside, err = net.DialTimeout("tcp", ln.Addr().String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{loop: loop, end: end, out: inside, in: make(chan []byte, 1<<16)}
	b.wg.Add(2)
	go b.reads()
	go b.writes()
	end.SetHandler(b)
	t.Cleanup(func() {
		_ = outside.Close()
		_ = inside.Close()
		close(b.in)
		b.wg.Wait()
	})
	return outside
}

func (b *bridge) reads() {
	defer b.wg.Done()
	buf := make([]byte, 32<<10)
	for {
		n, err := b.out.Read(buf)
		p := append([]byte(nil), buf[:n]...)
		b.loop.Post(func() {
			if !b.end.IsClosed() && !b.end.WasReset() {
				b.end.Put(p)
			}
		})
		if err != nil {
			b.loop.Post(func() { _ = b.end.CloseWrite() })
			return
		}
	}
}

func (b *bridge) writes() {
	defer b.wg.Done()
	for p := range b.in {
		if p == nil {
			_ = b.out.(*net.TCPConn).CloseWrite()
		} else if _, err := b.out.Write(p); err != nil {
			return
		}
	}
}

func (b *bridge) Readable(aio.Conn) {
	if p := b.end.Take(); len(p) > 0 {
		b.in <- p
	}
	if b.end.EOF() || b.end.WasReset() {
		b.in <- nil
	}
}
func (b *bridge) Writable(aio.Conn)      {}
func (b *bridge) Closed(aio.Conn, error) {}

// TestNetHTTPClient: x/net's client speaks to our server.
func TestNetHTTPClient(t *testing.T) {
	loop := aiotest.NewLoop()
	ours, theirs := aiotest.Pipe(loop, 64<<20)
	outside := newBridge(t, loop, theirs)
	server := NewServer(ours, Config{Keepalive: Keepalive{Interval: -1}}, func(s message.Stream) {
		r := &recorder{lazy: true}
		r.onHead = func(s message.Stream, h *message.Head, end bool) {
			r.heads = nil
			path := h.Path
			s.SendHead(&message.Head{Status: 103, Fields: []message.Field{{Name: "link", Value: "</early>"}}}, false)
			s.SendHead(&message.Head{Status: 200, Fields: []message.Field{{Name: "Trailer", Value: "X-Path"}, {Name: "x-agent", Value: first(h.Get("user-agent"))}}}, false)
			r.onEnd = func(s message.Stream) { s.SendTrailers([]message.Field{{Name: "X-Path", Value: path}}) }
		}
		l := &relay{to: s}
		r.onData = func(s message.Stream, p []byte) { l.data(s, p); r.body.Reset() }
		s.SetReceiver(r)
	})
	client, err := (&http2.Transport{AllowHTTP: true, StrictMaxConcurrentStreams: true}).NewClientConn(outside)
	if err != nil {
		t.Fatal(err)
	}
	const calls = 150
	var wg sync.WaitGroup
	errs := make(chan error, calls)
	for i := range calls {
		wg.Add(1)
		go func() {
			defer wg.Done()
			body := bytes.Repeat([]byte(fmt.Sprint(i, ",")), 1+i*i/4)
			req, _ := http.NewRequest("POST", fmt.Sprintf("http://emoji/call/%d", i), bytes.NewReader(body))
			res, err := client.RoundTrip(req)
			if err != nil {
				errs <- err
				return
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || !bytes.Equal(got, body) || res.Trailer.Get("X-Path") != req.URL.Path || res.Header.Get("x-agent") != "Go-http-client/2.0" {
				errs <- fmt.Errorf("call %d: %d bytes of %d, trailer %q, %v", i, len(got), len(body), res.Trailer, err)
			}
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done); loop.Post(func() {}) }()
	loop.RunUntil(t, 60*time.Second, func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if st := server.Stats(); st.Open != 0 || st.Total != calls || st.Unread != 0 {
		t.Errorf("%+v", st)
	}
	server.Drain()
	loop.RunUntil(t, 10*time.Second, func() bool { return server.Stats().Closed })
}

func first(s string, _ bool) string { return s }

// TestNetHTTPServer: our client speaks to net/http's server.
func TestNetHTTPServer(t *testing.T) {
	loop := aiotest.NewLoop()
	ours, theirs := aiotest.Pipe(loop, 64<<20)
	outside := newBridge(t, loop, theirs)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	ln := &oneConn{conn: outside, done: make(chan struct{})}
	srv := &http.Server{
		Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.WriteHeader(http.StatusEarlyHints)
			if strings.HasSuffix(r.URL.Path, "/abort") {
				panic(http.ErrAbortHandler)
			}
			n, err := io.Copy(w, r.Body)
			w.Header().Set("X-Sum", fmt.Sprint(n, err, r.Trailer.Get("x-more")))
		}),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	c := NewClient(ours, Config{Keepalive: Keepalive{Interval: -1}})
	var rs []*recorder
	var sizes []int
	const calls = 200
	ended := 0
	open := func() {
		for len(rs) < calls {
			s, err := c.OpenStream()
			if errors.Is(err, ErrSaturated) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			i := len(rs)
			r := &recorder{onEnd: func(message.Stream) { ended++ }}
			rs, sizes = append(rs, r), append(sizes, i*i)
			s.SetReceiver(r)
			s.SendHead(post(fmt.Sprint("/", i)), false)
			s.SendData(bytes.Repeat([]byte{'x'}, i*i), false)
			s.SendTrailers([]message.Field{{Name: "x-more", Value: "yes"}})
		}
	}
	c.cfg.OnCapacity = open
	open()
	loop.RunUntil(t, 60*time.Second, func() bool { return ended == calls })
	for i, r := range rs {
		// The trailer is announced or net/http would not have it: no x-more.
		if r.body.Len() != sizes[i] || !strings.Contains(text(r.trailers), fmt.Sprintf("x-sum: %d <nil>", sizes[i])) || r.heads[0].Status != 103 || r.status() != 200 {
			t.Fatalf("call %d: %d bytes of %d, %q", i, r.body.Len(), sizes[i], text(r.trailers))
		}
	}
	s, err := c.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	s.SetReceiver(r)
	s.SendHead(get("/abort"), true)
	loop.RunUntil(t, 10*time.Second, func() bool { return r.aborted })
	if r.code != message.InternalError || r.err != nil {
		t.Errorf("%+v", r)
	}
	// The server says goodbye; the connection ends by itself.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- srv.Shutdown(ctx) }()
	loop.RunUntil(t, 15*time.Second, func() bool { return c.Stats().Closed })
	if err := <-shut; err != nil {
		t.Error(err)
	}
	<-served
}

// oneConn is a listener for one connection.
type oneConn struct {
	conn net.Conn
	done chan struct{}
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
