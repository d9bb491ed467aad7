package query

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Taps implements the wire API.
func (s *Server) Taps(_ context.Context, req *api.TapsRequest) (*api.TapsResponse, error) {
	if s.tap == nil {
		return nil, status.Error(codes.Unimplemented, "taps: no sidecar is attached here")
	}
	return s.TapsOf(req, s.tap.Attached)
}

// TapsOf answers where attached says whose sidecars have a stream.
func (s *Server) TapsOf(req *api.TapsRequest, attached func(catalog.Key) bool) (*api.TapsResponse, error) {
	sel, err := choose(s.catalog, req.GetResource())
	if err != nil {
		return nil, err
	}
	resp := &api.TapsResponse{}
	for _, p := range sel.pods(s.catalog) {
		if !p.Meshed || p.Finished() {
			continue
		}
		row := &api.TapsRow{Namespace: p.Namespace, Pod: p.Name, State: api.TapsRow_ENABLED}
		switch {
		case p.Annotations[annotation.DisableTap] == "true":
			row.State = api.TapsRow_DISABLED
		case !attached(p.Key):
			row.State = api.TapsRow_NOT_CONNECTED
		}
		resp.Rows = append(resp.Rows, row)
	}
	return resp, nil
}
