package query

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/tap"
)

// Connections implements the wire API.
func (s *Server) Connections(ctx context.Context, req *api.ConnectionsRequest) (*api.ConnectionsResponse, error) {
	if s.tap == nil {
		return nil, status.Error(codes.Unimplemented, "connections: no sidecar is attached here")
	}
	k, err := s.watched(req.GetNamespace(), req.GetPod())
	if err != nil {
		return nil, err
	}
	list, total, err := s.tap.Connections(ctx, k, req.GetLimit())
	switch {
	case errors.Is(err, tap.ErrBusy):
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, tap.ErrAbsent), errors.Is(err, tap.ErrForbidden): // since it was looked at
		return nil, status.Errorf(codes.FailedPrecondition, "pod %s: %v", k, err)
	case err != nil:
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	slices.SortStableFunc(list, func(a, b *tapapi.Connection) int { return cmp.Compare(b.GetAgeUs(), a.GetAgeUs()) })
	resp := &api.ConnectionsResponse{Total: total}
	for _, c := range list {
		resp.Rows = append(resp.Rows, &api.ConnectionRow{Connection: c, Peer: s.podAt(c.GetRemote())})
	}
	return resp, nil
}

// podAt is the pod that has an address, if one is known.
func (s *Server) podAt(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	if p, ok := s.catalog.PodByIP(at.Addr()); ok {
		return p.Key.String()
	}
	return ""
}
