package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw is a codec that leaves messages as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (raw) Name() string                       { return "raw" }

// serve runs a grpc-go server whose every method is h, and returns a connection
// to it that is already running.
func serve(t *testing.T, cfg rpc.Config, h func(method string, s grpc.ServerStream) error) *rpc.Conn {
	t.Helper()
	srv := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		m, _ := grpc.MethodFromServerStream(s)
		return h(m, s)
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, nc, cfg)
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	return c
}

func run(t *testing.T, nc net.Conn, cfg rpc.Config) *rpc.Conn {
	t.Helper()
	if cfg.Authority == "" {
		cfg.Authority = "control.example"
	}
	c := rpc.New(nc, cfg)
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(context.Background()) })
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return c
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// record collects what a stream hears.
type record struct {
	mu   sync.Mutex
	got  [][]byte
	over chan struct{}
	err  error
	ends int
	on   func(s *rpc.Stream, p []byte)
}

func newRecord() *record { return &record{over: make(chan struct{})} }

func (r *record) Message(s *rpc.Stream, p []byte) {
	r.mu.Lock()
	r.got = append(r.got, bytes.Clone(p))
	r.mu.Unlock()
	if r.on != nil {
		r.on(s, p)
	}
}

func (r *record) End(_ *rpc.Stream, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if r.ends++; r.ends == 1 {
		close(r.over)
	}
}

func (r *record) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-r.over:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream does not end")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func TestUnary(t *testing.T) {
	c := serve(t, rpc.Config{UserAgent: "test/1"}, func(m string, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		if m != "/pkg.Service/Echo" || md.Get(":authority")[0] != "control.example" || !strings.HasPrefix(md.Get("user-agent")[0], "test/1") {
			return status.Errorf(codes.InvalidArgument, "method %s, metadata %v", m, md)
		}
		if _, ok := s.Context().Deadline(); !ok {
			return status.Error(codes.InvalidArgument, "no deadline")
		}
		var b []byte
		if err := s.RecvMsg(&b); err != nil {
			return err
		}
		if err := s.RecvMsg(new([]byte)); !errors.Is(err, io.EOF) {
			return status.Errorf(codes.InvalidArgument, "more than one message: %v", err)
		}
		return s.SendMsg(&b)
	})
	ctx := timeout(t)
	for _, size := range []int{0, 1, 100, 16384, 70_000, 300_000, 3 << 20} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		got, err := c.Call(ctx, "/pkg.Service/Echo", want)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d back, %v", size, len(got), err)
		}
	}
	// Many at once share the connection.
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := bytes.Repeat([]byte{byte(i)}, 50_000)
			if got, err := c.Call(ctx, "/pkg.Service/Echo", want); err != nil || !bytes.Equal(got, want) {
				t.Errorf("call %d: %d back, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestStatus(t *testing.T) {
	c := serve(t, rpc.Config{}, func(_ string, s grpc.ServerStream) error {
		var b []byte
		_ = s.RecvMsg(&b)
		if string(b) == "panic-free" {
			return nil // no message in a unary answer
		}
		return status.Error(codes.Code(len(b)), "because of % and ü and\nline feeds")
	})
	for code := 1; code <= 16; code++ {
		_, err := c.Call(timeout(t), "/a/B", bytes.Repeat([]byte("x"), code))
		var st *rpc.Status
		if !errors.As(err, &st) || st.Code != rpc.Code(code) || st.Message != "because of % and ü and\nline feeds" {
			t.Errorf("code %d: %v", code, err)
		}
		if got, want := rpc.Code(code).String(), strings.ReplaceAll(codes.Code(code).String(), "Canceled", "Cancelled"); strings.ReplaceAll(got, "_", "") != strings.ToUpper(want) {
			t.Errorf("code %d is called %s, and %s by grpc-go", code, got, want)
		}
	}
	if _, err := c.Call(timeout(t), "/a/B", []byte("panic-free")); rpc.CodeOf(err) != rpc.Internal {
		t.Errorf("no answer: %v", err)
	}
}

func TestServerStreaming(t *testing.T) {
	const n = 500
	c := serve(t, rpc.Config{}, func(_ string, s grpc.ServerStream) error {
		var b []byte
		if err := s.RecvMsg(&b); err != nil {
			return err
		}
		for i := range n {
			m := bytes.Repeat([]byte{byte(i)}, i*10)
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
		return nil
	})
	r := newRecord()
	s, err := c.Start("/a/B", 0, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(timeout(t), []byte("go"), true); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != n || r.ends != 1 {
		t.Fatalf("%d messages, %d ends", len(r.got), r.ends)
	}
	for i, m := range r.got {
		if !bytes.Equal(m, bytes.Repeat([]byte{byte(i)}, i*10)) {
			t.Fatalf("message %d has %d bytes", i, len(m))
		}
	}
}

func TestBidi(t *testing.T) {
	c := serve(t, rpc.Config{}, func(_ string, s grpc.ServerStream) error {
		for {
			var b []byte
			if err := s.RecvMsg(&b); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(&b); err != nil {
				return err
			}
		}
	})
	r := newRecord()
	back := make(chan struct{}, 1)
	r.on = func(*rpc.Stream, []byte) { back <- struct{}{} }
	s, err := c.Start("/a/B", 0, r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := s.Send(timeout(t), []byte(fmt.Sprint(i)), i == 99); err != nil {
			t.Fatal(err)
		}
		<-back
	}
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(timeout(t), nil, false); rpc.CodeOf(err) != rpc.Canceled {
		t.Errorf("send after the end: %v", err)
	}
	if len(r.got) != 100 || string(r.got[99]) != "99" {
		t.Errorf("%d messages", len(r.got))
	}
}

// A server that does not read stops its own stream's sender, no more.
func TestSendWaits(t *testing.T) {
	release := make(chan struct{})
	c := serve(t, rpc.Config{}, func(m string, s grpc.ServerStream) error {
		if m == "/slow/S" {
			<-release
		}
		var b []byte
		n := 0
		for s.RecvMsg(&b) == nil {
			n += len(b)
		}
		b = []byte(fmt.Sprint(n))
		return s.SendMsg(&b)
	})
	r := newRecord()
	s, err := c.Start("/slow/S", 0, r)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	sent := 0
	chunk := make([]byte, 10_000)
	for {
		if err = s.Send(ctx, chunk, false); err != nil {
			break
		}
		sent += len(chunk)
	}
	if !errors.Is(err, context.DeadlineExceeded) || sent > 1<<20 {
		t.Fatalf("%d bytes were taken, then %v", sent, err)
	}
	if _, err := c.Call(timeout(t), "/other/S", []byte("x")); err != nil {
		t.Errorf("another call: %v", err)
	}
	close(release)
	s.Cancel()
	if err := r.wait(t); rpc.CodeOf(err) != rpc.Canceled {
		t.Errorf("canceled: %v", err)
	}
}

func TestDeadline(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, rpc.Config{}, func(_ string, s grpc.ServerStream) error {
		<-s.Context().Done()
		close(gone)
		return s.Context().Err()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := c.Call(ctx, "/a/B", nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the server was not told")
	}
}

func TestCancelTellsTheServer(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, rpc.Config{}, func(_ string, s grpc.ServerStream) error {
		m := []byte("here")
		_ = s.SendMsg(&m)
		<-s.Context().Done()
		close(gone)
		return nil
	})
	r := newRecord()
	r.on = func(s *rpc.Stream, _ []byte) { s.Cancel(); s.Cancel() } // from inside, twice
	s, err := c.Start("/a/B", 0, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(timeout(t), nil, true); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); rpc.CodeOf(err) != rpc.Canceled {
		t.Errorf("%v", err)
	}
	<-gone
	if r.ends != 1 {
		t.Errorf("%d ends", r.ends)
	}
}

func TestLargeMessageRefused(t *testing.T) {
	c := serve(t, rpc.Config{MaxMessage: 1000}, func(_ string, s grpc.ServerStream) error {
		var b []byte
		_ = s.RecvMsg(&b)
		m := make([]byte, 1000+len(b))
		return s.SendMsg(&m)
	})
	if _, err := c.Call(timeout(t), "/a/B", nil); err != nil {
		t.Errorf("1000 bytes: %v", err)
	}
	if _, err := c.Call(timeout(t), "/a/B", []byte("x")); rpc.CodeOf(err) != rpc.ResourceExhausted {
		t.Errorf("1001 bytes: %v", err)
	}
}

func TestTooManyStreams(t *testing.T) {
	c := serve(t, rpc.Config{MaxStreams: 3}, func(_ string, s grpc.ServerStream) error {
		<-s.Context().Done()
		return nil
	})
	var all []*rpc.Stream
	for range 3 {
		s, err := c.Start("/a/B", 0, newRecord())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if _, err := c.Start("/a/B", 0, newRecord()); !errors.Is(err, rpc.ErrTooManyStreams) {
		t.Errorf("the fourth: %v", err)
	}
	all[0].Cancel()
	if _, err := c.Start("/a/B", 0, newRecord()); err != nil {
		t.Errorf("after one ended: %v", err)
	}
}

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

func TestRunEndsWithContext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	c := rpc.New(a, rpc.Config{})
	r := newRecord()
	if _, err := c.Start("/a/B", 0, r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("that will do")
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	if err := c.Run(ctx); !errors.Is(err, cause) {
		t.Errorf("Run: %v", err)
	}
	if err := r.wait(t); rpc.CodeOf(err) != rpc.Unavailable || !errors.Is(err, cause) {
		t.Errorf("stream: %v", err)
	}
	if _, err := c.Start("/a/B", 0, r); rpc.CodeOf(err) != rpc.Unavailable {
		t.Errorf("start after the end: %v", err)
	}
	if err := c.Run(context.Background()); !errors.Is(err, rpc.ErrClosed) {
		t.Errorf("a second Run: %v", err)
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
