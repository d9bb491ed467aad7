package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

// fake is a server of frames.
type fake struct {
	t   *testing.T
	nc  net.Conn
	buf []byte
}

func newFake(t *testing.T, cfg rpc.Config) (*rpc.Conn, *fake) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	c := run(t, nc, cfg)
	f := &fake{t: t, nc: far}
	pre := make([]byte, len(frame.Preface))
	if _, err := io.ReadFull(far, pre); err != nil || string(pre) != frame.Preface {
		t.Fatalf("preface %q, %v", pre, err)
	}
	return c, f
}

func (f *fake) send(b []byte) {
	if _, err := f.nc.Write(b); err != nil {
		f.t.Error(err)
	}
}

// next is the next frame of that type.
func (f *fake) next(want frame.Type) (frame.Header, []byte) {
	f.t.Helper()
	_ = f.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if h, p, rest, ok, err := frame.Split(f.buf, 1<<14); err != nil {
			f.t.Fatal(err)
		} else if ok {
			f.buf = rest
			if h.Type == want {
				return h, p
			}
			continue
		}
		b := make([]byte, 4096)
		n, err := f.nc.Read(b)
		if err != nil {
			f.t.Fatalf("waiting for %s: %v", want, err)
		}
		f.buf = append(append([]byte{}, f.buf...), b[:n]...)
	}
}

func headers(stream uint32, end bool, kv ...string) []byte {
	e := hpack.NewEncoder(0)
	b := e.Begin(nil)
	for i := 0; i < len(kv); i += 2 {
		b = e.Append(b, kv[i], kv[i+1], hpack.Without)
	}
	return frame.AppendHeaders(nil, stream, b, end, 1<<14)
}

func TestOddServers(t *testing.T) {
	ok := headers(1, false, ":status", "200", "content-type", "application/grpc")
	msg := frame.AppendData(nil, 1, []byte{0, 0, 0, 0, 1, 'x'}, false)
	join := func(bs ...[]byte) []byte { return bytes.Join(bs, nil) }
	for _, c := range []struct {
		name    string
		send    []byte
		want    rpc.Code
		mention string
	}{
		{"http error", headers(1, true, ":status", "503"), rpc.Unavailable, "503"},
		{"not found", headers(1, true, ":status", "404"), rpc.Unimplemented, "404"},
		{"a web page", headers(1, false, ":status", "200", "content-type", "text/html"), rpc.Unknown, "text/html"},
		{"trailers only", headers(1, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "7", "grpc-message", "n%6f"), rpc.PermissionDenied, "no"},
		{"no status", join(ok, frame.AppendData(nil, 1, nil, true)), rpc.Unknown, "without a status"},
		{"no status in trailers", join(ok, headers(1, true, "x", "y")), rpc.Unknown, "without a status"},
		{"status that is no number", join(ok, headers(1, true, "grpc-status", "fine")), rpc.Unknown, ""},
		{"cut message", join(ok, frame.AppendData(nil, 1, []byte{0, 0, 0, 0, 9, 'x'}, false), headers(1, true, "grpc-status", "0")), rpc.Internal, "inside a message"},
		{"compressed", join(ok, frame.AppendData(nil, 1, []byte{1, 0, 0, 0, 1, 'x'}, false)), rpc.Unimplemented, "compressed"},
		{"data first", msg, rpc.Internal, "before"},
		{"reset", join(ok, frame.AppendRST(nil, 1, message.RefusedStream)), rpc.Unavailable, "reset"},
		{"reset too fast", join(ok, frame.AppendRST(nil, 1, message.EnhanceYourCalm)), rpc.ResourceExhausted, "reset"},
		{"two messages", join(ok, msg, msg, headers(1, true, "grpc-status", "0")), rpc.Internal, "2 messages"},
		{"going away", frame.AppendGoAway(nil, 0, message.NoError, "max age"), rpc.Unavailable, "max age"},
		{"push", frame.AppendHeader(nil, frame.Header{Type: frame.PushPromise, Stream: 1, Length: 0}), rpc.Unavailable, ""},
		{"huge frame", frame.AppendHeader(nil, frame.Header{Type: frame.Data, Stream: 1, Length: 1 << 20}), rpc.Unavailable, ""},
		{"continuation alone", frame.AppendHeader(nil, frame.Header{Type: frame.Continuation, Stream: 1, Length: 0}), rpc.Unavailable, ""},
		{"a block of garbage", join(frame.AppendHeader(nil, frame.Header{Type: frame.Headers, Flags: frame.EndHeaders, Stream: 1, Length: 2}), []byte{0xff, 0xff}), rpc.Unavailable, ""},
		{"window overflow", join(frame.AppendWindowUpdate(nil, 0, frame.MaxWindow), frame.AppendWindowUpdate(nil, 0, frame.MaxWindow)), rpc.Unavailable, "window"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, f := newFake(t, rpc.Config{})
			f.send(frame.AppendSettings(nil))
			done := make(chan error, 1)
			go func() { _, err := k.Call(timeout(t), "/a/B", []byte("q")); done <- err }()
			f.next(frame.Data)
			f.send(c.send)
			err := <-done
			if rpc.CodeOf(err) != c.want || !strings.Contains(err.Error(), c.mention) {
				t.Errorf("%v, want %v and %q", err, c.want, c.mention)
			}
		})
	}
	t.Run("informational and unknown frames", func(t *testing.T) {
		k, f := newFake(t, rpc.Config{})
		f.send(frame.AppendSettings(nil))
		done := make(chan error, 1)
		go func() { _, err := k.Call(timeout(t), "/a/B", []byte("q")); done <- err }()
		f.next(frame.Data)
		f.send(headers(1, false, ":status", "103"))
		f.send(join(frame.AppendHeader(nil, frame.Header{Type: 0x42, Stream: 1, Length: 3}), []byte("abc")))
		for _, b := range join(ok, msg, headers(1, true, "grpc-status", "0")) { // byte by byte
			f.send([]byte{b})
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.send(frame.AppendPing(nil, false, 77))
		if h, p := f.next(frame.Ping); !h.Flags.Has(frame.Ack) || frame.ParsePing(p) != 77 {
			t.Error("the ping was not answered")
		}
	})
	t.Run("no settings", func(t *testing.T) {
		k, f := newFake(t, rpc.Config{})
		f.send(frame.AppendPing(nil, false, 1))
		if _, err := k.Call(timeout(t), "/a/B", nil); rpc.CodeOf(err) != rpc.Unavailable || !strings.Contains(err.Error(), "not SETTINGS") {
			t.Error(err)
		}
	})
}

// The server's limits of windows and frames are kept, as it changes them.
func TestPeerLimits(t *testing.T) {
	k, f := newFake(t, rpc.Config{})
	f.send(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 10}, frame.Setting{ID: frame.MaxConcurrentStreams, Value: 1}))
	f.next(frame.Settings) // ours
	f.next(frame.Settings) // the acknowledgement
	r := newRecord()
	s, err := k.Start("/a/B", 0, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Start("/a/B", 0, r); !errors.Is(err, rpc.ErrTooManyStreams) {
		t.Errorf("a second stream: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Send(timeout(t), []byte("0123456789"), true) }()
	if h, _ := f.next(frame.Data); h.Length != 10 || h.Flags.Has(frame.EndStream) {
		t.Fatalf("%+v", h)
	}
	f.send(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 12})) // two more
	if h, _ := f.next(frame.Data); h.Length != 2 {
		t.Fatalf("%+v", h)
	}
	f.send(frame.AppendWindowUpdate(nil, s.ID(), 100))
	if h, p := f.next(frame.Data); h.Length != 3 || !h.Flags.Has(frame.EndStream) || string(p) != "789" {
		t.Fatalf("%+v %q", h, p)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A server that vanished is noticed; one that only has nothing to say is not
// taken for it.
func TestKeepalive(t *testing.T) {
	k, f := newFake(t, rpc.Config{Quiet: 100 * time.Millisecond})
	f.send(frame.AppendSettings(nil))
	r := newRecord()
	if _, err := k.Start("/a/B", 0, r); err != nil {
		t.Fatal(err)
	}
	for range 3 { // it answers
		h, p := f.next(frame.Ping)
		if h.Flags.Has(frame.Ack) {
			t.Fatal("not a ping")
		}
		f.send(frame.AppendPing(nil, true, frame.ParsePing(p)))
	}
	select {
	case <-r.over:
		t.Fatal("ended although the server answers")
	default:
	}
	began := time.Now()
	if err := r.wait(t); rpc.CodeOf(err) != rpc.Unavailable || !strings.Contains(err.Error(), "ping") || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// A server that sends requests for answers and never reads is left.
func TestPingFlood(t *testing.T) {
	k, f := newFake(t, rpc.Config{WriteTimeout: 300 * time.Millisecond})
	f.send(frame.AppendSettings(nil))
	r := newRecord()
	if _, err := k.Start("/a/B", 0, r); err != nil {
		t.Fatal(err)
	}
	flood := bytes.Repeat(frame.AppendPing(nil, false, 1), 1000)
	_ = f.nc.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, err := f.nc.Write(flood); err != nil {
			break // we were hung up on
		}
	}
	if err := r.wait(t); rpc.CodeOf(err) != rpc.Unavailable {
		t.Error(err)
	}
}

// Whatever a server sends: the connection ends or goes on, nothing else.
func FuzzServer(f *testing.F) {
	ok := headers(1, false, ":status", "200", "content-type", "application/grpc")
	f.Add(append(frame.AppendSettings(nil), ok...))
	f.Add(append(append(frame.AppendSettings(nil), ok...), frame.AppendData(nil, 1, []byte{0, 0, 0, 0, 1, 'x'}, true)...))
	f.Add(frame.AppendGoAway(frame.AppendSettings(nil), 1, 0, "bye"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, y := net.Pipe()
		c := rpc.New(x, rpc.Config{MaxMessage: 1 << 16})
		r := newRecord()
		if _, err := c.Start("/a/B", 0, r); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, y) }()
		go func() {
			_, _ = y.Write(b)
			_ = y.Close()
		}()
		if err := c.Run(context.Background()); err == nil {
			t.Error("Run ended without a reason")
		}
		if _ = r.wait(t); r.ends != 1 {
			t.Errorf("%d ends", r.ends)
		}
	})
}
