// Package policy streams what a pod accepts. It owns the wire service and the
// rules that make a policy of a pod's annotations, probes and ports. It refuses
// to know how a policy is enforced.
package policy

import (
	"errors"
	"log/slog"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	api "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/control/access"
	"github.com/tunmesh/tunmesh/control/catalog"
)

// Server is the wire service.
type Server struct {
	api.UnimplementedPolicyServer
	catalog *catalog.Catalog
	rules   Rules
	log     *slog.Logger
	streams atomic.Int64
}

// New returns the service.
func New(c *catalog.Catalog, r Rules, log *slog.Logger) (*Server, error) {
	if r.Default == api.Default_DEFAULT_UNSPECIFIED {
		return nil, errors.New("new policy service: there is no default inbound policy")
	}
	return &Server{catalog: c, rules: r, log: log}, nil
}

// Streams is the number of open streams.
func (s *Server) Streams() int64 { return s.streams.Load() }

// Of is what a pod is told now.
func (s *Server) Of(p *catalog.Pod) (*api.InboundPolicy, error) {
	n, _ := s.catalog.Namespace(p.Namespace)
	return s.inbound(p, n)
}

func (s *Server) inbound(p *catalog.Pod, n *catalog.Namespace) (*api.InboundPolicy, error) {
	pol, err := Inbound(p, n, s.catalog.PodOpaquePorts(p), s.rules)
	pol.Labels = s.catalog.PodLabels(p)
	return pol, err
}

// Watch implements the wire API: the whole policy now, and whole again whenever
// it is another.
func (s *Server) Watch(req *api.WatchRequest, stream api.Policy_WatchServer) error {
	ctx := stream.Context()
	pod, err := access.Pod(ctx, s.catalog, req.GetPod())
	if err != nil {
		return err
	}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	w := s.catalog.WatchPod(pod.Key)
	defer w.Close()
	var sent *api.InboundPolicy
	for version := uint64(1); ; {
		now, ns := w.Load()
		if now == nil || now.UID != pod.UID || now.ServiceAccount != pod.ServiceAccount {
			return status.Errorf(codes.NotFound, "pod %s is gone", pod.Key)
		}
		pol, bad := s.inbound(now, ns)
		if sent == nil || !proto.Equal(sent, pol) {
			if bad != nil {
				s.log.Warn("annotation not understood", "err", bad)
			}
			m := proto.CloneOf(pol)
			m.Version = version
			if err := stream.Send(m); err != nil {
				return err
			}
			sent = pol // without the version, to compare with
			version++
		}
		select {
		case <-w.Changed():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
