package query

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/metrics"
)

// defaultWindow is what figures are of unless asked otherwise.
const defaultWindow = time.Minute

// question is a stat request in terms of metrics: which series, and which of
// their labels name the row.
type question struct {
	match []metrics.Matcher
	by    []string // namespace label, then name label; the latter "" for namespaces
	peer  string   // which end of a proxied connection counts
}

// Stat implements the wire API.
func (s *Server) Stat(ctx context.Context, req *api.StatRequest) (*api.StatResponse, error) {
	if s.metrics == nil {
		return nil, status.Error(codes.Unimplemented, "stat: no figures are kept here")
	}
	if k, err := parseKind(req.GetResource().GetKind()); err == nil && k == authority {
		return s.authorities(ctx, req)
	}
	sel, err := choose(s.catalog, req.GetResource())
	if err != nil {
		return nil, err
	}
	q, err := s.question(sel, req)
	if err != nil {
		return nil, err
	}
	figures, err := gather(ctx, s.metrics, q, windowOf(req.GetWindowSeconds()), q.row)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "stat: %v", err)
	}
	counts := s.count(sel.kind)
	resp := &api.StatResponse{}
	for _, r := range sel.resources {
		row := &api.StatRow{Namespace: r.key.Namespace, Kind: string(r.kind), Name: r.key.Name, Status: r.status}
		n := counts[r.row()]
		row.MeshedPods, row.RunningPods = n.meshed, n.running
		figures[r.row()].fill(row)
		resp.Rows = append(resp.Rows, row)
	}
	return resp, nil
}

// windowOf reads a request's window.
func windowOf(seconds uint32) time.Duration {
	if seconds == 0 {
		return defaultWindow
	}
	return time.Duration(seconds) * time.Second
}

// question decides which series answer. Figures are of inbound traffic as the
// resource's own sidecars saw it; with "to" or "from", and for a Service, which
// has no sidecar, of outbound traffic as the clients' sidecars saw it.
func (s *Server) question(sel selection, req *api.StatRequest) (question, error) {
	names, namespaces := sel.names()
	switch {
	case req.GetTo() != nil && req.GetFrom() != nil:
		return question{}, status.Error(codes.InvalidArgument, "stat: to and from exclude each other: use one")
	case req.GetTo() != nil:
		if sel.kind == service {
			return question{}, status.Error(codes.InvalidArgument, "stat: a Service sends nothing: ask for the workloads behind it, or for traffic from others to it")
		}
		to, err := choose(s.catalog, req.GetTo())
		if err != nil {
			return question{}, err
		}
		return outbound(rowLabels("", sel.kind), named("", sel.kind, names, namespaces), to.match("dst_")), nil
	case req.GetFrom() != nil:
		from, err := choose(s.catalog, req.GetFrom())
		if err != nil {
			return question{}, err
		}
		if from.kind == service {
			return question{}, status.Error(codes.InvalidArgument, "stat: a Service sends nothing: use the workloads behind it with from")
		}
		return outbound(rowLabels("dst_", sel.kind), named("dst_", sel.kind, names, namespaces), from.match("")), nil
	case sel.kind == service:
		return outbound(rowLabels("dst_", sel.kind), named("dst_", sel.kind, names, namespaces), nil), nil
	}
	return question{
		match: append(named("", sel.kind, names, namespaces), received()...),
		by:    rowLabels("", sel.kind),
		peer:  "src",
	}, nil
}

// received are the series of what arrives. Kubelets' probes are no traffic of
// anybody's.
func received() []metrics.Matcher {
	return []metrics.Matcher{metrics.Is("direction", "inbound"), metrics.IsNot("authz_name", "probe"), metrics.IsNot("route_name", "probe")}
}

func outbound(by []string, a, b []metrics.Matcher) question {
	match := append([]metrics.Matcher{metrics.Is("direction", "outbound")}, a...)
	return question{match: append(match, b...), by: by, peer: "dst"}
}

// match selects the series of a selection's resources.
func (s selection) match(prefix string) []metrics.Matcher {
	names, namespaces := s.names()
	return named(prefix, s.kind, names, namespaces)
}

// named selects the series of resources by their labels.
func named(prefix string, k kind, names, namespaces []string) []metrics.Matcher {
	m := []metrics.Matcher{metrics.Is(prefix+"namespace", namespaces...)}
	if k != namespace {
		m = append(m, metrics.Is(prefix+string(k), names...))
	}
	return m
}

// rowLabels are the labels that name a row.
func rowLabels(prefix string, k kind) []string {
	if k == namespace {
		return []string{prefix + "namespace"}
	}
	return []string{prefix + "namespace", prefix + string(k)}
}

// figure is what is known of one row.
type figure struct {
	success, failure, tls float64 // requests
	covered               time.Duration
	latency               [3]float64
	conns                 float64
	opened, openedTLS     float64
	read, write           float64 // bytes per second
}

// row is the row that a series counts in.
func (q question) row(l map[string]string) (rowKey, bool) {
	return rowKey{l[q.by[0]], l[q.by[len(q.by)-1]]}, true
}

// gather asks everything that a table needs, each thing for all rows at once.
// key says which row a group of series belongs to, if any.
func gather[K comparable](ctx context.Context, m metrics.Querier, q question, window time.Duration, key func(map[string]string) (K, bool)) (map[K]*figure, error) {
	rows := map[K]*figure{}
	each := func(list []metrics.Sample, err error, add func(f *figure, x metrics.Sample)) error {
		for _, x := range list {
			k, ok := key(x.Labels)
			if !ok {
				continue
			}
			if rows[k] == nil {
				rows[k] = &figure{}
			}
			add(rows[k], x)
		}
		return err
	}
	with := func(more ...string) []string { return append(append([]string{}, q.by...), more...) }
	list, err := m.Increase(ctx, metrics.ResponseTotal, q.match, with("classification", "tls"), window)
	if err := each(list, err, (*figure).requests); err != nil {
		return nil, err
	}
	quantiles, err := m.Quantiles(ctx, metrics.ResponseLatency, []float64{0.5, 0.95, 0.99}, q.match, q.by, window)
	if err != nil {
		return nil, err
	}
	for i, list := range quantiles {
		if err := each(list, nil, func(f *figure, x metrics.Sample) { f.latency[i] = max(f.latency[i], x.Value) }); err != nil {
			return nil, err
		}
	}
	if q.peer == "" {
		return rows, nil
	}
	tcp := append(append([]metrics.Matcher{}, q.match...), metrics.Is("peer", q.peer))
	list, err = m.Sum(ctx, metrics.TCPOpenConnections, tcp, q.by)
	if err := each(list, err, func(f *figure, x metrics.Sample) { f.conns += x.Value }); err != nil {
		return nil, err
	}
	list, err = m.Increase(ctx, metrics.TCPOpenTotal, tcp, with("tls"), window)
	if err := each(list, err, (*figure).opens); err != nil {
		return nil, err
	}
	list, err = m.Increase(ctx, metrics.TCPReadBytes, tcp, q.by, window)
	if err := each(list, err, func(f *figure, x metrics.Sample) { f.read += perSecond(x.Value, x.Covered) }); err != nil {
		return nil, err
	}
	list, err = m.Increase(ctx, metrics.TCPWriteBytes, tcp, q.by, window)
	if err := each(list, err, func(f *figure, x metrics.Sample) { f.write += perSecond(x.Value, x.Covered) }); err != nil {
		return nil, err
	}
	return rows, nil
}

// requests adds responses.
func (f *figure) requests(x metrics.Sample) {
	f.covered = max(f.covered, x.Covered)
	if x.Labels["classification"] == "success" {
		f.success += x.Value
	} else {
		f.failure += x.Value
	}
	if x.Labels["tls"] == "true" {
		f.tls += x.Value
	}
}

// opens adds connections.
func (f *figure) opens(x metrics.Sample) {
	f.opened += x.Value
	if x.Labels["tls"] == "true" {
		f.openedTLS += x.Value
	}
}

// traffic reports whether there was any.
func (f *figure) traffic() bool {
	return f.success+f.failure > 0 || f.opened > 0 || f.conns > 0 || f.read > 0 || f.write > 0
}

// perSecond is a rate over what was watched of the window, at least a second.
func perSecond(n float64, covered time.Duration) float64 {
	return n / max(covered, time.Second).Seconds()
}

// fill writes the figures into a row. A nil figure is no traffic.
func (f *figure) fill(row *api.StatRow) {
	if f == nil {
		return
	}
	requests := f.success + f.failure
	row.SuccessCount = uint64(math.Round(f.success))
	row.FailureCount = uint64(math.Round(f.failure))
	row.Rps = perSecond(requests, f.covered)
	row.LatencyMsP50, row.LatencyMsP95, row.LatencyMsP99 = f.latency[0], f.latency[1], f.latency[2]
	row.TcpOpenConnections = uint64(max(f.conns, 0))
	row.TcpReadBytesRate, row.TcpWriteBytesRate = f.read, f.write
	switch {
	case requests > 0:
		share := f.tls / requests
		row.Tls = &share
	case f.opened > 0:
		share := f.openedTLS / f.opened
		row.Tls = &share
	}
	row.HasTraffic = f.traffic()
}

// podCount is how many pods of a row run, and how many of them are meshed.
type podCount struct{ meshed, running uint32 }

func (s *Server) count(k kind) map[rowKey]podCount {
	counts := map[rowKey]podCount{}
	for _, p := range s.catalog.Pods("") {
		row, ok := k.row(s.catalog, p)
		if !ok || p.Finished() {
			continue
		}
		n := counts[row]
		n.running++
		if p.Meshed {
			n.meshed++
		}
		counts[row] = n
	}
	return counts
}
