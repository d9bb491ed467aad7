package replicas

import (
	"context"
	"errors"
	"io"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
)

// Record opens a capture at the replica that has the pod's sidecar and calls send
// for each message, until ctx ends or send fails. Its errors are gRPC statuses.
func (s *Set) Record(ctx context.Context, req *api.CaptureRequest, send func(*tapapi.Packets) error) error {
	begun := false
	return s.whoHasIt(ctx, func(at netip.AddrPort) (bool, error) {
		err := s.record(ctx, at, req, func(m *tapapi.Packets) error { begun = true; return send(m) })
		return begun, err
	})
}

// whoHasIt asks one replica after the other, until one has the sidecar that ask is
// about: it answers, or says something else than that another may have it. done ends
// it, too. Where all say the same, that is the answer.
func (s *Set) whoHasIt(ctx context.Context, ask func(at netip.AddrPort) (done bool, err error)) error {
	err := status.Error(codes.Unavailable, "no replica of the control plane answers: there is none")
	for _, at := range s.list() {
		var done bool
		done, err = ask(at)
		if done || ctx.Err() != nil || status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.Unavailable {
			return err
		}
	}
	return err
}

// Connections asks the replica that has the pod's sidecar. Its errors are gRPC
// statuses.
func (s *Set) Connections(ctx context.Context, req *api.ConnectionsRequest) (*api.ConnectionsResponse, error) {
	var resp *api.ConnectionsResponse
	err := s.whoHasIt(ctx, func(at netip.AddrPort) (_ bool, err error) {
		resp, err = s.connections(ctx, at, req)
		return err == nil, err
	})
	return resp, err
}

func (s *Set) connections(ctx context.Context, at netip.AddrPort, req *api.ConnectionsRequest) (*api.ConnectionsResponse, error) {
	conn, err := s.dial(at)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return api.NewQueryClient(conn).Connections(ctx, req)
}

func (s *Set) record(ctx context.Context, at netip.AddrPort, req *api.CaptureRequest, send func(*tapapi.Packets) error) error {
	conn, err := s.dial(at)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer conn.Close()
	stream, err := api.NewQueryClient(conn).Capture(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the capture was cut off")
		}
		if err != nil {
			return err
		}
		if err := send(m); err != nil {
			return err
		}
	}
}
