package query

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/metrics"
)

// route is what a row of stat-inbound or stat-outbound is about.
type route struct {
	row        rowKey
	parent     string // a Server, or a Service as name.namespace
	port       uint32
	kind, name string // "": the default route
}

func (r route) compare(o route) int {
	return cmp.Or(r.row.compare(o.row), cmp.Compare(r.parent, o.parent), cmp.Compare(r.port, o.port), cmp.Compare(r.kind, o.kind), cmp.Compare(r.name, o.name))
}

// Routes implements the wire API.
func (s *Server) Routes(ctx context.Context, req *api.RoutesRequest) (*api.RoutesResponse, error) {
	if s.metrics == nil {
		return nil, status.Error(codes.Unimplemented, "routes: no figures are kept here")
	}
	sel, err := choose(s.catalog, req.GetResource())
	if err != nil {
		return nil, err
	}
	if sel.kind == service {
		return nil, status.Error(codes.InvalidArgument, "a Service has no sidecar: ask for the workloads or pods behind it")
	}
	ask := s.inboundRoutes
	if req.GetOutbound() {
		ask = s.outboundRoutes
	}
	rows, err := ask(ctx, sel, req)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "routes: %v", err)
	}
	return &api.RoutesResponse{Rows: rows}, nil
}

func (s *Server) inboundRoutes(ctx context.Context, sel selection, req *api.RoutesRequest) ([]*api.RouteRow, error) {
	labels := rowLabels("", sel.kind)
	found, err := gather(ctx, s.metrics, question{
		match: append(sel.match(""), metrics.Is("direction", "inbound")),
		by:    append(slices.Clone(labels), "srv_kind", "srv_name", "srv_port", "route_kind", "route_name", "authz_name"),
	}, windowOf(req.GetWindowSeconds()), func(l map[string]string) (route, bool) {
		r := route{row: rowKey{l[labels[0]], l[labels[len(labels)-1]]}, port: portOf(l["srv_port"]), name: l["route_name"], kind: l["route_kind"]}
		if l["srv_kind"] != "default" {
			r.parent = l["srv_name"]
		}
		switch {
		case l["authz_name"] == "probe":
			r.name, r.kind = "probe", ""
		case r.kind == "default":
			r.name, r.kind = "", ""
		}
		return r, true
	})
	if err != nil {
		return nil, err
	}
	var rows []*api.RouteRow
	for _, r := range slices.SortedFunc(maps.Keys(found), route.compare) {
		if f := found[r]; f.success+f.failure > 0 {
			rows = append(rows, r.message(sel.kind, f))
		}
	}
	return rows, nil
}

// outboundRoutes answers for the requests that apps made (a row) and those that
// were sent for them (its backends): one that was sent again is one of the former.
func (s *Server) outboundRoutes(ctx context.Context, sel selection, req *api.RoutesRequest) ([]*api.RouteRow, error) {
	labels, window := rowLabels("", sel.kind), windowOf(req.GetWindowSeconds())
	match := append(sel.match(""), metrics.Is("direction", "outbound"), metrics.IsNot("dst_service", ""))
	by := append(slices.Clone(labels), "dst_namespace", "dst_service", "authority", "route_kind", "route_name")
	key := func(l map[string]string) (route, bool) {
		_, port, _ := strings.Cut(l["authority"], ":")
		r := route{row: rowKey{l[labels[0]], l[labels[len(labels)-1]]}, parent: l["dst_service"] + "." + l["dst_namespace"], port: portOf(port), kind: l["route_kind"], name: l["route_name"]}
		if r.kind == "default" {
			r.kind, r.name = "", ""
		}
		return r, true
	}
	found, err := gather(ctx, s.metrics, question{match: match, by: by}, window, key)
	if err != nil {
		return nil, err
	}
	sent, err := gather(ctx, s.metrics, question{match: append(slices.Clone(match), metrics.IsNot("dst_pod", "")), by: by}, window, key)
	if err != nil {
		return nil, err
	}
	late, err := s.metrics.Increase(ctx, metrics.ResponseTotal, append(slices.Clone(match), metrics.IsNot("error", "")), append(slices.Clone(by), "error", "dst_pod"), window)
	if err != nil {
		return nil, err
	}
	timeouts, sentLate := map[route]float64{}, map[route]float64{}
	for _, x := range late {
		r, _ := key(x.Labels)
		if !strings.Contains(x.Labels["error"], "timeout") {
			continue
		}
		timeouts[r] += x.Value
		if x.Labels["dst_pod"] != "" {
			sentLate[r] += x.Value
		}
	}
	again, err := s.metrics.Increase(ctx, metrics.RetryRequests, sel.match(""), append(slices.Clone(labels), "parent_namespace", "parent_name", "parent_port"), window)
	if err != nil {
		return nil, err
	}
	retries := map[route]float64{}
	for _, x := range again {
		l := x.Labels
		retries[route{row: rowKey{l[labels[0]], l[labels[len(labels)-1]]}, parent: l["parent_name"] + "." + l["parent_namespace"], port: portOf(l["parent_port"])}] += x.Value
	}
	var rows []*api.RouteRow
	for _, r := range slices.SortedFunc(maps.Keys(found), route.compare) {
		f := found[r]
		if f.success+f.failure == 0 {
			continue
		}
		n := retries[r]
		whole := *f
		whole.failure = max(0, f.failure-n) // each of them failed, and nobody heard of it
		row := r.message(sel.kind, &whole)
		row.TimeoutCount, row.RetryCount = uint64(math.Round(timeouts[r])), uint64(math.Round(n))
		if b := sent[r]; b != nil && b.success+b.failure > 0 {
			backend := r.message(sel.kind, b)
			backend.TimeoutCount = uint64(math.Round(sentLate[r]))
			row.Backends = []*api.RouteRow{backend}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (r route) message(k kind, f *figure) *api.RouteRow {
	return &api.RouteRow{
		Namespace: r.row.namespace, Kind: string(k), Name: r.row.name, Parent: r.parent, Port: r.port, Route: r.name, RouteKind: r.kind,
		SuccessCount: uint64(math.Round(f.success)), FailureCount: uint64(math.Round(f.failure)), Rps: perSecond(f.success+f.failure, f.covered),
		LatencyMsP50: f.latency[0], LatencyMsP95: f.latency[1], LatencyMsP99: f.latency[2],
	}
}

func portOf(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 16) // 0: it says none
	return uint32(n)
}
