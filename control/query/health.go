package query

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/metrics"
)

// Health implements the wire API.
func (s *Server) Health(ctx context.Context, _ *api.HealthRequest) (*api.HealthResponse, error) {
	resp := &api.HealthResponse{Version: s.version, Certificates: s.certificates()}
	if s.problem != nil {
		resp.FiguresProblem = s.problem()
	}
	version, notAfter, err := s.reported(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "health: %v", err)
	}
	for _, p := range s.catalog.Pods("") {
		if !p.Meshed || p.Finished() {
			continue
		}
		k := rowKey{p.Namespace, p.Name}
		resp.Proxies = append(resp.Proxies, &api.ProxyHealth{
			Namespace: p.Namespace, Pod: p.Name, Ready: p.Ready,
			Connected: s.tap != nil && s.tap.Attached(p.Key),
			Version:   version[k], CertificateNotAfterUnix: notAfter[k],
		})
	}
	slices.SortFunc(resp.Proxies, func(a, b *api.ProxyHealth) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod))
	})
	return resp, nil
}

// certificates are those of the authority in force.
func (s *Server) certificates() []*api.Certificate {
	if s.trust == nil {
		return nil
	}
	a := s.trust.Current()
	if a == nil {
		return nil
	}
	var list []*api.Certificate
	for _, c := range a.Anchors() {
		list = append(list, &api.Certificate{Name: "trust anchor", Subject: c.Subject.String(), NotAfterUnix: c.NotAfter.Unix()})
	}
	return append(list, &api.Certificate{Name: "issuer", Subject: a.Issuer().Subject.String(), NotAfterUnix: a.Issuer().NotAfter.Unix()})
}

// reported is what the sidecars say of themselves.
func (s *Server) reported(ctx context.Context) (version map[rowKey]string, notAfter map[rowKey]int64, err error) {
	version, notAfter = map[rowKey]string{}, map[rowKey]int64{}
	if s.metrics == nil {
		return version, notAfter, nil
	}
	list, err := s.metrics.Sum(ctx, metrics.BuildInfo, nil, []string{"namespace", "pod", "version"})
	if err != nil {
		return nil, nil, err
	}
	for _, x := range list {
		if x.Value > 0 {
			version[rowKey{x.Labels["namespace"], x.Labels["pod"]}] = x.Labels["version"]
		}
	}
	if list, err = s.metrics.Sum(ctx, metrics.CertExpiration, nil, []string{"namespace", "pod"}); err != nil {
		return nil, nil, err
	}
	for _, x := range list {
		notAfter[rowKey{x.Labels["namespace"], x.Labels["pod"]}] = int64(x.Value)
	}
	return version, notAfter, nil
}
