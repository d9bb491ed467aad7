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

	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw is a codec that leaves messages as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

func (raw) Name() string { return "raw" }

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
		var in []byte
		_ = s.RecvMsg(&in) // the client has half-closed: its Send is done
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
