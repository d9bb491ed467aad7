package query

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	policyapi "github.com/tunmesh/tunmesh/api/policy"
	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/destination"
	"github.com/tunmesh/tunmesh/control/files"
)

// Policy implements the wire API.
func (s *Server) Policy(_ context.Context, req *api.PolicyRequest) (*api.PolicyResponse, error) {
	if s.policy == nil {
		return nil, status.Error(codes.Unimplemented, "policy: no sidecar is told anything from here")
	}
	k, err := parseKind(req.GetResource().GetKind())
	if err != nil {
		return nil, err
	}
	key := catalog.Key{Namespace: req.GetResource().GetNamespace(), Name: req.GetResource().GetName()}
	if key.Namespace == "" {
		key.Namespace = files.DefaultNamespace
	}
	port := req.GetPort()
	if key.Name == "" || port == 0 || port > 0xffff {
		return nil, status.Error(codes.InvalidArgument, "policy: want the name of a pod or Service, and the number of a port")
	}
	switch k {
	case pod:
		return s.inbound(key, port)
	case service:
		return s.outbound(key, uint16(port))
	}
	return nil, status.Errorf(codes.InvalidArgument, "policy: a %s has none of its own: ask for one of its pods, or for a Service", k)
}

// inbound is what a pod's sidecar is told, of probes and ports what is of one port.
func (s *Server) inbound(k catalog.Key, port uint32) (*api.PolicyResponse, error) {
	p, ok := s.catalog.Pod(k)
	switch {
	case !ok:
		return nil, status.Errorf(codes.NotFound, "there is no pod %s", k)
	case !p.Meshed:
		return nil, status.Errorf(codes.FailedPrecondition, "pod %s has no sidecar: its apps decide themselves whom they let in", k)
	}
	pol, _ := s.policy.Of(p) // what is malformed denies, which the answer says
	pol.Probes = slices.DeleteFunc(pol.Probes, func(p *policyapi.Probe) bool { return p.GetPort() != port })
	pol.Ports = slices.DeleteFunc(pol.Ports, func(p *policyapi.PortProtocol) bool { return port < p.GetFirst() || port > p.GetLast() })
	return &api.PolicyResponse{Policy: &api.PolicyResponse_Inbound{Inbound: pol}}, nil
}

// outbound is what the clients of a Service are told of a port, without the
// endpoints.
func (s *Server) outbound(k catalog.Key, port uint16) (*api.PolicyResponse, error) {
	svc, ok := s.catalog.Service(k)
	switch {
	case !ok:
		return nil, status.Errorf(codes.NotFound, "there is no Service %s", k)
	case !slices.ContainsFunc(svc.Ports, func(p catalog.ServicePort) bool { return p.Port == port && p.Transport == "TCP" }):
		return nil, status.Errorf(codes.NotFound, "Service %s has no TCP port %d", k, port)
	case len(svc.ClusterIPs) == 0:
		return nil, status.Errorf(codes.FailedPrecondition, "Service %s has no address of its own: its clients connect to pods", k)
	}
	w := s.catalog.Watch(netip.AddrPortFrom(svc.ClusterIPs[0], port))
	defer w.Close()
	t := destination.Message(w.Load())
	t.Endpoints = nil
	return &api.PolicyResponse{Policy: &api.PolicyResponse_Outbound{Outbound: t}}, nil
}
