package query

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// edge is who talks to whom, and as whom.
type edge struct {
	src, dst end
	account  string // the client's
	server   string // as the server proved it; "" without mTLS
	reason   string // why there was none; "" with it
}

type end struct{ kind, namespace, name string }

func (e end) compare(o end) int {
	return cmp.Or(cmp.Compare(e.namespace, o.namespace), cmp.Compare(e.name, o.name), cmp.Compare(e.kind, o.kind))
}

func (e edge) compare(o edge) int {
	return cmp.Or(e.src.compare(o.src), e.dst.compare(o.dst), cmp.Compare(e.reason, o.reason), cmp.Compare(e.server, o.server), cmp.Compare(e.account, o.account))
}

// Edges implements the wire API.
func (s *Server) Edges(ctx context.Context, req *api.EdgesRequest) (*api.EdgesResponse, error) {
	if s.metrics == nil {
		return nil, status.Error(codes.Unimplemented, "edges: no figures are kept here")
	}
	sel, err := choose(s.catalog, req.GetResource())
	if err != nil {
		return nil, err
	}
	if sel.kind == service {
		return nil, status.Error(codes.InvalidArgument, "edges: a Service is no end of a connection: ask for the workloads or pods behind it")
	}
	names, namespaces := sel.names()
	by := append(append(endLabels("", sel.kind), endLabels("dst_", sel.kind)...), "serviceaccount", "server_id", "no_tls_reason", "tls")
	all := map[edge]*figure{}
	for _, prefix := range []string{"", "dst_"} { // one end or the other
		q := outbound(by, named(prefix, sel.kind, names, namespaces), nil)
		found, err := gather(ctx, s.metrics, q, windowOf(req.GetWindowSeconds()), func(l map[string]string) (edge, bool) { return edgeOf(sel.kind, l) })
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "edges: %v", err)
		}
		for e, f := range found {
			if f.traffic() {
				all[e] = f
			}
		}
	}
	resp := &api.EdgesResponse{}
	for _, e := range slices.SortedFunc(maps.Keys(all), edge.compare) {
		resp.Edges = append(resp.Edges, s.edge(e, all[e]))
	}
	return resp, nil
}

func (s *Server) edge(e edge, f *figure) *api.Edge {
	m := &api.Edge{
		Src: e.src.message(), Dst: e.dst.message(), ServerId: e.server, NoTlsReason: e.reason,
		SuccessCount: uint64(math.Round(f.success)), FailureCount: uint64(math.Round(f.failure)), Rps: perSecond(f.success+f.failure, f.covered),
		LatencyMsP50: f.latency[0], LatencyMsP95: f.latency[1], LatencyMsP99: f.latency[2],
		TcpOpenConnections: uint64(max(f.conns, 0)), TcpReadBytesRate: f.read, TcpWriteBytesRate: f.write,
	}
	if e.reason == "" && e.account != "" {
		m.ClientId = spiffe.ID{TrustDomain: s.catalog.TrustDomain(), Namespace: e.src.namespace, ServiceAccount: e.account}.ServerName()
	}
	return m
}

func (e end) message() *api.EdgeEnd {
	return &api.EdgeEnd{Kind: e.kind, Namespace: e.namespace, Name: e.name}
}

// endLabels are the labels that name an end, whatever kind of workload it is.
func endLabels(prefix string, k kind) []string {
	by := []string{prefix + "namespace"}
	switch k {
	case namespace:
	case pod:
		by = append(by, prefix+"pod")
	default:
		for _, o := range owners() {
			by = append(by, prefix+string(o))
		}
	}
	return by
}

// edgeOf reads an edge from labels; none where an end is nothing of the cluster's.
func edgeOf(k kind, l map[string]string) (edge, bool) {
	src, ok := endOf("", k, l)
	if !ok {
		return edge{}, false
	}
	dst, ok := endOf("dst_", k, l)
	if !ok {
		return edge{}, false
	}
	e := edge{src: src, dst: dst, account: l["serviceaccount"], server: l["server_id"]}
	if l["tls"] != "true" {
		e.server, e.reason = "", cmp.Or(l["no_tls_reason"], l["tls"], "no_identity")
	}
	return e, true
}

// endOf is the end of the kind, or of the kind of workload that it is.
func endOf(prefix string, k kind, l map[string]string) (end, bool) {
	ns := l[prefix+"namespace"]
	if k == namespace {
		return end{string(k), ns, ns}, ns != ""
	}
	for _, o := range append([]kind{k}, owners()...) {
		if name := l[prefix+string(o)]; name != "" && ns != "" {
			return end{string(o), ns, name}, true
		}
	}
	return end{}, false
}
