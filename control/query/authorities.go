package query

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/metrics"
)

// authorities answers stat for the names that requests ask for: those that came
// to a namespace's pods, or, with "from", those that its pods asked for.
func (s *Server) authorities(ctx context.Context, req *api.StatRequest) (*api.StatResponse, error) {
	r := req.GetResource()
	if r.GetLabelSelector() != "" || req.GetTo() != nil {
		return nil, status.Error(codes.InvalidArgument, "stat: an authority has no labels, and sends nothing: name it, or say whom requests come from")
	}
	match := []metrics.Matcher{metrics.IsNot("authority", "")}
	if r.GetName() != "" {
		match = []metrics.Matcher{metrics.Is("authority", r.GetName())}
	}
	if from := req.GetFrom(); from != nil {
		sel, err := choose(s.catalog, from)
		if err != nil {
			return nil, err
		}
		if sel.kind == service {
			return nil, status.Error(codes.InvalidArgument, "stat: a Service sends nothing: use the workloads behind it with from")
		}
		match = append(append(match, metrics.Is("direction", "outbound")), sel.match("")...)
	} else {
		match = append(match, metrics.Is("direction", "inbound"), metrics.IsNot("authz_name", "probe"), metrics.IsNot("route_name", "probe"))
		if ns := r.GetNamespace(); !r.GetAllNamespaces() {
			if ns == "" {
				ns = files.DefaultNamespace
			}
			match = append(match, metrics.Is("namespace", ns))
		}
	}
	q := question{match: match, by: []string{"namespace", "authority"}}
	figures, err := gather(ctx, s.metrics, q, windowOf(req.GetWindowSeconds()), q.row)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "stat: %v", err)
	}
	resp := &api.StatResponse{}
	for _, k := range slices.SortedFunc(maps.Keys(figures), rowKey.compare) {
		if !figures[k].traffic() {
			continue
		}
		row := &api.StatRow{Namespace: k.namespace, Kind: string(authority), Name: k.name}
		figures[k].fill(row)
		resp.Rows = append(resp.Rows, row)
	}
	return resp, nil
}

func (k rowKey) compare(o rowKey) int {
	if c := strings.Compare(k.namespace, o.namespace); c != 0 {
		return c
	}
	return strings.Compare(k.name, o.name)
}
