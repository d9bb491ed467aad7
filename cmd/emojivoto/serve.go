package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	// callWithin bounds a call to another service.
	callWithin = 5 * time.Second
	// drainWithin bounds the end of what is in flight.
	drainWithin = 5 * time.Second
)

// serveGRPC serves what register adds until ctx ends, then drains.
func serveGRPC(ctx context.Context, addr string, register func(*grpc.Server)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen at %s: %w", addr, err)
	}
	s := grpc.NewServer()
	register(s)
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(drainWithin, s.Stop)
		s.GracefulStop()
		t.Stop()
	})
	defer stop()
	if err := s.Serve(l); err != nil {
		return fmt.Errorf("serve at %s: %w", addr, err)
	}
	return nil
}

func dialGRPC(addr string) (*grpc.ClientConn, error) {
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return c, nil
}

func notFound(what string) error { return status.Errorf(codes.NotFound, "no emoji %s", what) }
