package tunproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// testService is the service of gRPC's interoperability tests.
type testService struct {
	testgrpc.UnimplementedTestServiceServer
}

func (testService) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

func (testService) UnaryCall(ctx context.Context, r *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if s := r.GetResponseStatus(); s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.GetCode()), s.GetMessage())
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get("x-echo")) > 0 {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-echo", md.Get("x-echo")[0]))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-echo-bin", md.Get("x-echo-bin")[0]))
	}
	return &testgrpc.SimpleResponse{Payload: &testgrpc.Payload{Body: make([]byte, r.GetResponseSize())}}, nil
}

func (testService) StreamingInputCall(s testgrpc.TestService_StreamingInputCallServer) error {
	var sum int
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(r.GetPayload().GetBody())
	}
}

func (testService) StreamingOutputCall(r *testgrpc.StreamingOutputCallRequest, s testgrpc.TestService_StreamingOutputCallServer) error {
	for _, p := range r.GetResponseParameters() {
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	return nil
}

func (testService) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// serveGRPC runs a real gRPC server on a port.
func (h *host) serveGRPC(port uint16, opts ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(opts...)
	testgrpc.RegisterTestServiceServer(s, testService{})
	l := h.listen(port)
	go func() { _ = s.Serve(l) }()
	h.w.t.Cleanup(s.Stop)
	return s
}

func (h *host) dialGRPC(addr string) testgrpc.TestServiceClient {
	h.w.t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(_ context.Context, addr string) (net.Conn, error) { return h.dialTo(addr) }))
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.w.t.Cleanup(func() { _ = cc.Close() })
	return testgrpc.NewTestServiceClient(cc)
}

func TestGRPCOfEveryKind(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveGRPC(80)
	c := a.dialGRPC("10.96.0.1:80")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	body := func(n int) *testgrpc.Payload { return &testgrpc.Payload{Body: make([]byte, n)} }

	t.Run("unary", func(t *testing.T) {
		r, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: body(271828), ResponseSize: 314159})
		if err != nil || len(r.GetPayload().GetBody()) != 314159 {
			t.Fatal(len(r.GetPayload().GetBody()), err)
		}
	})
	t.Run("metadata", func(t *testing.T) {
		var header, trailer metadata.MD
		binary := string([]byte{0, 1, 0xff})
		ctx := metadata.AppendToOutgoingContext(ctx, "x-echo", "value", "x-echo-bin", binary)
		if _, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if header.Get("x-echo")[0] != "value" || trailer.Get("x-echo-bin")[0] != binary {
			t.Errorf("header %v, trailer %v", header, trailer)
		}
	})
	t.Run("status", func(t *testing.T) {
		const message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
		_, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseStatus: &testgrpc.EchoStatus{Code: 2, Message: message}})
		if s := status.Convert(err); s.Code() != codes.Unknown || s.Message() != message {
			t.Error(err)
		}
	})
	t.Run("unimplemented", func(t *testing.T) {
		if _, err := c.UnimplementedCall(ctx, &testgrpc.Empty{}); status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
	})
	t.Run("client streaming", func(t *testing.T) {
		s, err := c.StreamingInputCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{27182, 8, 1828, 45904, 1 << 20} {
			if err := s.Send(&testgrpc.StreamingInputCallRequest{Payload: body(n)}); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := s.CloseAndRecv(); err != nil || r.GetAggregatedPayloadSize() != 27182+8+1828+45904+1<<20 {
			t.Fatal(r, err)
		}
	})
	t.Run("server streaming", func(t *testing.T) {
		r := &testgrpc.StreamingOutputCallRequest{}
		for _, n := range []int32{31415, 9, 2653, 1 << 20, 58979} {
			r.ResponseParameters = append(r.ResponseParameters, &testgrpc.ResponseParameters{Size: n})
		}
		s, err := c.StreamingOutputCall(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.GetResponseParameters() {
			if m, err := s.Recv(); err != nil || len(m.GetPayload().GetBody()) != int(p.GetSize()) {
				t.Fatal(len(m.GetPayload().GetBody()), p.GetSize(), err)
			}
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
	t.Run("duplex", func(t *testing.T) {
		s, err := c.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			want := bytes.Repeat([]byte{byte(i)}, i*100)
			if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: want}}); err != nil {
				t.Fatal(err)
			}
			if m, err := s.Recv(); err != nil || !bytes.Equal(m.GetPayload().GetBody(), want) {
				t.Fatal(i, err)
			}
		}
		_ = s.CloseSend()
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		s, err := c.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&testgrpc.StreamingOutputCallRequest{Payload: body(10)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := s.Recv(); status.Code(err) != codes.Canceled {
			t.Error(err)
		}
		eventually(t, "the server's side is over", func() bool {
			return b.metric("response_total", `error="h2(CANCEL)"`) == 1
		})
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		s, err := c.FullDuplexCall(ctx)
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
	})
	if n := a.metric("tcp_open_total", `direction="outbound"`, `peer="dst"`, `tls="true"`); n != 1 {
		t.Errorf("%v connections between the sidecars, want 1", n)
	}
}

// One gRPC connection, three endpoints: calls spread evenly; one that is slow
// gets less.
func TestGRPCCallsSpread(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	var counts [3]atomic.Int64
	var delay [3]atomic.Int64
	var eps []string
	for i := range 3 {
		p := w.pod(fmt.Sprintf("b%d", i), fmt.Sprintf("10.0.1.%d", i+1))
		p.serveGRPC(80, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			counts[i].Add(1)
			time.Sleep(time.Duration(delay[i].Load()))
			return h(ctx, req)
		}))
		eps = append(eps, fmt.Sprintf("10.0.1.%d:80=b%d", i+1, i))
	}
	w.service("10.96.0.1:80", eps...)
	c := a.dialGRPC("10.96.0.1:80")
	calls := func(n, parallel int) {
		t.Helper()
		for i := range counts {
			counts[i].Store(0)
		}
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(func() {
				for range n / parallel {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					_, err := c.EmptyCall(ctx, &testgrpc.Empty{})
					cancel()
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	start := time.Now()
	calls(3000, 4)
	each := time.Since(start) * 4 / 3000
	for i := range counts {
		if n := counts[i].Load(); n < 900 || n > 1100 {
			t.Errorf("endpoint %d got %d of 3000 calls, want 1000 ± 10 %%", i, n)
		}
	}
	// Where a call takes as long by itself (a busy machine, the race detector),
	// 20 ms are no difference to see: the delay stays as large in proportion.
	slower := max(20*time.Millisecond, 4*each)
	delay[0].Store(int64(slower))
	calls(1500, 4)
	if n := counts[0].Load(); n >= 250 {
		t.Errorf("an endpoint %v slower (a call takes %v) got %d of 1500 calls, want less than half of 500", slower, each, n)
	}
}

// gRPC clients get errors in their own language.
func TestGRPCErrors(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	target := w.service("10.96.0.1:80", "10.0.0.2:80=b")
	s := b.serveGRPC(80)
	c := a.dialGRPC("10.96.0.1:80")
	call := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := c.EmptyCall(ctx, &testgrpc.Empty{})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := call(); status.Code(err) != codes.Unavailable {
		t.Errorf("app gone: %v", err)
	}
	snap := *target.Load()
	snap.Endpoints = nil
	target.Publish(&snap)
	time.Sleep(20 * time.Millisecond)
	if err := call(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "no endpoint" {
		t.Errorf("no endpoint: %v", err)
	}
}
