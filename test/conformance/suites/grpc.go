package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

func serveGRPC(ctx context.Context, address string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	context.AfterFunc(ctx, s.Stop)
	return s.Serve(l)
}

// callGRPC runs a case. One that fails ends the process: that is how the suite
// reports.
func callGRPC(ctx context.Context, name, address string) error {
	dial := func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	calls := map[string]func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
		"empty_unary":                 interop.DoEmptyUnaryCall,
		"large_unary":                 interop.DoLargeUnaryCall,
		"client_streaming":            interop.DoClientStreaming,
		"server_streaming":            interop.DoServerStreaming,
		"ping_pong":                   interop.DoPingPong,
		"empty_stream":                interop.DoEmptyStream,
		"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
		"cancel_after_begin":          interop.DoCancelAfterBegin,
		"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
		"custom_metadata":             interop.DoCustomMetadata,
		"status_code_and_message":     interop.DoStatusCodeAndMessage,
		"special_status_message":      interop.DoSpecialStatusMessage,
	}
	soak := interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, ServerAddr: address, NumWorkers: 2, Iterations: 60,
		PerIterationMaxAcceptableLatency: 10 * time.Second, OverallTimeout: 60 * time.Second,
	}
	switch {
	case calls[name] != nil:
		calls[name](ctx, client)
	case name == "unimplemented_method":
		interop.DoUnimplementedMethod(ctx, conn)
	case name == "unimplemented_service":
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	case name == "rpc_soak":
		soak.ChannelForTest = func() (*grpc.ClientConn, func()) { return conn, func() {} }
		interop.DoSoakTest(ctx, soak)
	case name == "channel_soak":
		soak.ChannelForTest = func() (*grpc.ClientConn, func()) {
			c, err := dial()
			if err != nil {
				panic(err) // only for an address that is none
			}
			return c, func() { _ = c.Close() }
		}
		interop.DoSoakTest(ctx, soak)
	default:
		return fmt.Errorf("no case %q in gRPC's interoperability suite", name)
	}
	return nil
}
