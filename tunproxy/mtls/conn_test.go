package mtls_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

func read(t testing.TB, c aio.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	k, err := c.Read(b)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return b[:k]
}

func TestBytesBothWays(t *testing.T) {
	l, e, _, _ := pair(t, 0)
	var ce, se events
	e.c.SetHandler(&ce)
	e.s.SetHandler(&se)
	l.Run(t)
	if n, err := e.c.Write([]byte("question")); n != 8 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	before := se.readable
	l.Run(t)
	if se.readable == before {
		t.Error("the server was not told of data")
	}
	peek := make([]byte, 5)
	for range 2 { // a peek changes nothing
		if n, err := e.s.Peek(peek); n != 5 || err != nil || string(peek) != "quest" {
			t.Fatalf("peek: %q, %v", peek[:n], err)
		}
	}
	if got := read(t, e.s, 100); string(got) != "question" {
		t.Errorf("read %q", got)
	}
	if _, err := e.s.Read(peek); !errors.Is(err, aio.ErrWouldBlock) {
		t.Errorf("read of nothing: %v", err)
	}
	if _, err := e.s.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if got := read(t, e.c, 3); string(got) != "ans" {
		t.Errorf("read %q", got)
	}
	if got := read(t, e.c, 3); string(got) != "wer" {
		t.Errorf("read %q", got)
	}
}

// slowly passes bytes between two pipes one at a time, which is also a way to
// see every partial record.
type slowly struct {
	from, to *aiotest.Conn
}

func (s *slowly) Readable(aio.Conn) {
	var b [1]byte
	for {
		n, err := s.from.Read(b[:])
		if n == 0 {
			if errors.Is(err, io.EOF) {
				_ = s.to.CloseWrite()
			}
			return
		}
		s.to.Put(b[:])
		s.from.Loop().Post(func() { s.Readable(nil) })
		return
	}
}
func (s *slowly) Writable(aio.Conn)          {}
func (s *slowly) Closed(_ aio.Conn, _ error) {}

func TestByteByByte(t *testing.T) {
	ca := mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	a, a2 := aiotest.Pipe(l, 1<<20)
	b2, b := aiotest.Pipe(l, 1<<20)
	a2.SetHandler(&slowly{a2, b2})
	b2.SetHandler(&slowly{b2, a2})
	e := dial(t, l, a, b, params(ca.Store(t, web, mtls.Config{})), ca.Store(t, api, mtls.Config{}))
	if e.cerr != nil || e.serr != nil {
		t.Fatal(e.cerr, e.serr)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 2000) // two records
	var got []byte
	ended := false
	h := &events{onReadable: func(c aio.Conn) {
		buf := make([]byte, 1000)
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if errors.Is(err, io.EOF) {
				ended = true
			}
			if err != nil {
				return
			}
		}
	}}
	e.s.SetHandler(h)
	if n, err := e.c.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	if err := e.c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if !bytes.Equal(got, want) || !ended {
		t.Errorf("%d bytes, ended %v; want %d and the end", len(got), ended, len(want))
	}
}

func TestHalfClose(t *testing.T) {
	l, e, a, b := pair(t, 0)
	var ce, se events
	e.c.SetHandler(&ce)
	e.s.SetHandler(&se)
	if _, err := e.c.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := e.c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.c.Write([]byte("x")); !errors.Is(err, aio.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	l.Run(t)
	if got := read(t, e.s, 10); string(got) != "last" {
		t.Errorf("read %q", got)
	}
	if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want EOF", err)
	}
	// The other direction goes on.
	if _, err := e.s.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if got := read(t, e.c, 10); string(got) != "answer" {
		t.Errorf("read %q", got)
	}
	if ce.closed+se.closed != 0 {
		t.Error("closed while one direction is open")
	}
	if err := e.s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if _, err := e.c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want EOF", err)
	}
	l.Run(t)
	if ce.closed != 1 || ce.err != nil || se.closed != 1 || se.err != nil {
		t.Errorf("closed %d %v and %d %v, want once each, without error", ce.closed, ce.err, se.closed, se.err)
	}
	e.c.Close()
	e.s.Close()
	l.Run(t)
	if !a.IsClosed() || !b.IsClosed() {
		t.Error("the transport is still open")
	}
}

// The transport ends, and has given everything to crypto/tls, before the user has
// room for it.
func TestTheEndWaitsForAReader(t *testing.T) {
	l, e, _, _ := pair(t, 0)
	var ce events
	e.c.SetHandler(&ce)
	want := bytes.Repeat([]byte("0123456789abcdef"), 500) // in one record
	if n, err := e.s.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	if err := errors.Join(e.c.CloseWrite(), e.s.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	var got []byte
	for len(got) < len(want) {
		got = append(got, read(t, e.c, 1000)...)
		l.Run(t)
		if ce.closed != 0 {
			t.Fatalf("closed after %d bytes of %d", len(got), len(want))
		}
	}
	if _, err := e.c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want EOF", err)
	}
	l.Run(t)
	if !bytes.Equal(got, want) || ce.closed != 1 || ce.err != nil {
		t.Errorf("closed %d, %v", ce.closed, ce.err)
	}
}

func TestReset(t *testing.T) {
	l, e, a, _ := pair(t, 0)
	var se events
	e.s.SetHandler(&se)
	l.Run(t)
	e.c.Reset()
	l.Run(t)
	if !a.IsClosed() || se.closed != 1 || !errors.Is(se.err, aio.ErrReset) {
		t.Errorf("closed %d with %v, want a reset", se.closed, se.err)
	}
	if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, aio.ErrReset) {
		t.Errorf("read: %v, want a reset", err)
	}
	if _, err := e.c.Read(nil); !errors.Is(err, aio.ErrClosed) {
		t.Errorf("read after our own reset: %v", err)
	}
}

// A FIN that is not preceded by close_notify may be anybody's: it is no EOF.
func TestTruncation(t *testing.T) {
	for _, partial := range []int{0, 1, 7} {
		l, e, a, b := pair(t, 0)
		var se events
		e.s.SetHandler(&se)
		if _, err := e.c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		l.Run(t)
		if got := read(t, e.s, 10); string(got) != "hello" {
			t.Errorf("read %q", got)
		}
		a.Put([]byte{23, 3, 3, 0, 40, 1, 2}[:partial]) // a record's beginning
		_ = a.CloseWrite()
		l.Run(t)
		if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, aio.ErrReset) || errors.Is(err, io.EOF) {
			t.Errorf("read: %v, want a reset", err)
		}
		_ = b.CloseWrite() // both directions over: the last event says so too
		l.Run(t)
		if se.closed != 1 || !errors.Is(se.err, aio.ErrReset) {
			t.Errorf("closed %d with %v, want a reset", se.closed, se.err)
		}
	}
}

// A record that was touched ends the connection, and both sides know.
func TestForgedRecord(t *testing.T) {
	l, e, a, _ := pair(t, 0)
	a.Put([]byte{23, 3, 3, 0, 32})
	a.Put(make([]byte, 32))
	l.Run(t)
	_, err := e.s.Read(make([]byte, 1))
	if err == nil || errors.Is(err, aio.ErrWouldBlock) || errors.Is(err, io.EOF) {
		t.Fatalf("read: %v", err)
	}
	l.Run(t)
	if _, err := e.c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("the client heard %v", err)
	}
	e.s.Reset()
	e.c.Reset()
}

// pump copies everything that comes to w, resuming whenever it can.
func copyAll(t *testing.T, l *aiotest.Loop, from, to *mtls.Conn, data []byte, chunk int) []byte {
	t.Helper()
	var got []byte
	ended := false
	sent, finned := 0, false
	send := func(aio.Conn) {
		for sent < len(data) {
			n, err := from.Write(data[sent:min(len(data), sent+chunk)])
			sent += n
			if errors.Is(err, aio.ErrWouldBlock) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !finned {
			finned = true
			if err := from.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
	}
	to.SetHandler(&events{onReadable: func(c aio.Conn) {
		buf := make([]byte, 1+rand.IntN(40000))
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if errors.Is(err, io.EOF) {
				ended = true
			} else if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
		}
	}})
	from.SetHandler(&events{onWritable: send})
	send(nil)
	l.Run(t)
	if !ended {
		t.Error("no end")
	}
	return got
}

func TestLargeTransfers(t *testing.T) {
	for _, limit := range []int{100, 4000, 64 << 10, 1 << 20} {
		for _, chunk := range []int{777, 16 << 10, 100_000, 1 << 20} {
			l, e, a, b := pair(t, limit)
			data := make([]byte, 1<<20)
			_, _ = rand.NewChaCha8([32]byte{byte(limit), byte(chunk)}).Read(data)
			if got := copyAll(t, l, e.c, e.s, data, chunk); !bytes.Equal(got, data) {
				t.Errorf("pipe of %d, writes of %d: received %d bytes that are not those sent", limit, chunk, len(got))
			}
			if got := copyAll(t, l, e.s, e.c, data, chunk); !bytes.Equal(got, data) {
				t.Errorf("pipe of %d, writes of %d, back: received %d bytes that are not those sent", limit, chunk, len(got))
			}
			e.c.Close()
			e.s.Close()
			l.Run(t)
			if !a.IsClosed() || !b.IsClosed() || a.WasReset() || b.WasReset() {
				t.Error("the transport did not end in order")
			}
		}
	}
}

// Close delivers what was written before, also when the transport is full.
func TestCloseDelivers(t *testing.T) {
	l, e, _, _ := pair(t, 1000)
	want := bytes.Repeat([]byte("x"), 20000)
	n, err := e.c.Write(want)
	if n != len(want) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	if n, err := e.c.Write([]byte("y")); n != 0 || !errors.Is(err, aio.ErrWouldBlock) {
		t.Fatalf("write into a full connection: %d, %v", n, err)
	}
	e.c.Close()
	e.c.Close()
	var got []byte
	ended := false
	e.s.SetHandler(&events{onReadable: func(c aio.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			ended = ended || errors.Is(err, io.EOF)
			if err != nil {
				return
			}
		}
	}})
	l.Run(t)
	if !bytes.Equal(got, want) || !ended {
		t.Errorf("%d bytes, ended %v", len(got), ended)
	}
}

// A Close that nobody reads for ends with a reset, not never.
func TestCloseLingers(t *testing.T) {
	l, e, a, b := pair(t, 1000)
	if _, err := e.c.Write(make([]byte, 20000)); err != nil {
		t.Fatal(err)
	}
	e.c.Close()
	l.Advance(t, 9*time.Second)
	if a.IsClosed() {
		t.Error("closed before everything was delivered")
	}
	l.Advance(t, 2*time.Second)
	if !a.IsClosed() || !b.WasReset() {
		t.Error("still open")
	}
}

// Closing with unread data is a reset, as in TCP; a session ticket that nobody
// read is not data.
func TestCloseWithUnread(t *testing.T) {
	l, e, _, b := pair(t, 0)
	if _, err := e.s.Write([]byte("for nobody")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	e.c.Close()
	l.Run(t)
	if !b.WasReset() {
		t.Error("unread data, and no reset")
	}

	l, e, _, b = pair(t, 0)
	e.c.Close() // the server's ticket lies unread in the transport
	l.Run(t)
	if b.WasReset() {
		t.Error("a ticket was taken for data")
	}
	if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want EOF", err)
	}
}

func TestHandlerChange(t *testing.T) {
	l, e, _, _ := pair(t, 0)
	if _, err := e.c.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	l.Run(t) // nobody listens: the data stays
	var first events
	e.s.SetHandler(&first)
	if first.readable != 0 {
		t.Error("called from inside SetHandler")
	}
	l.Run(t)
	if first.readable == 0 {
		t.Error("data that came before the handler was not told of")
	}
	if got := read(t, e.s, 2); string(got) != "ea" {
		t.Errorf("read %q", got)
	}
	var second events // what TLS has decrypted already counts as well
	e.s.SetHandler(&second)
	l.Run(t)
	if second.readable == 0 {
		t.Error("the rest was not told of")
	}
	if got := read(t, e.s, 10); string(got) != "rly" {
		t.Errorf("read %q", got)
	}
	e.s.SetHandler(nil) // parked: also the end waits for a handler
	e.c.Reset()
	l.Run(t)
	var third events
	e.s.SetHandler(&third)
	l.Run(t)
	if third.closed != 1 {
		t.Errorf("closed %d times, want once", third.closed)
	}
}
