package object

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// EndpointSlice strips an EndpointSlice; nil for one of names, which leads to no
// address, and for one that belongs to no Service.
func EndpointSlice(s *discoveryv1.EndpointSlice) *catalog.EndpointSlice {
	service := s.Labels[discoveryv1.LabelServiceName]
	if s.AddressType == discoveryv1.AddressTypeFQDN || service == "" {
		return nil
	}
	out := &catalog.EndpointSlice{
		Key: key(s), Service: service, Is4: s.AddressType == discoveryv1.AddressTypeIPv4,
		Ports:     make([]catalog.SlicePort, 0, len(s.Ports)),
		Endpoints: make([]catalog.SliceEndpoint, 0, len(s.Endpoints)),
	}
	for _, p := range s.Ports {
		port := catalog.SlicePort{Transport: "TCP"}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Protocol != nil {
			port.Transport = transport(*p.Protocol)
		}
		if p.Port != nil {
			port.Port = uint16(*p.Port)
		}
		out.Ports = append(out.Ports, port)
	}
	for i := range s.Endpoints {
		if e, ok := sliceEndpoint(s.Namespace, &s.Endpoints[i]); ok && e.Addr.Is4() == out.Is4 {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	return out
}

// sliceEndpoint strips one endpoint. Its addresses stand for the same place, and
// the first is the one that is used.
func sliceEndpoint(namespace string, in *discoveryv1.Endpoint) (catalog.SliceEndpoint, bool) {
	if len(in.Addresses) == 0 {
		return catalog.SliceEndpoint{}, false
	}
	addr, err := netip.ParseAddr(in.Addresses[0])
	if err != nil {
		return catalog.SliceEndpoint{}, false
	}
	// Nil is to be read as ready, as the API has it.
	e := catalog.SliceEndpoint{Addr: addr.Unmap(), Ready: in.Conditions.Ready == nil || *in.Conditions.Ready}
	if r := in.TargetRef; r != nil && r.Kind == catalog.KindPod && (r.Namespace == "" || r.Namespace == namespace) {
		e.Pod = r.Name
	}
	for _, f := range []struct {
		to   *string
		from *string
	}{{&e.Hostname, in.Hostname}, {&e.Node, in.NodeName}, {&e.Zone, in.Zone}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if h := in.Hints; h != nil && len(h.ForZones)+len(h.ForNodes) > 0 {
		e.Hints = &catalog.Hints{}
		for _, z := range h.ForZones {
			e.Hints.Zones = append(e.Hints.Zones, z.Name)
		}
		for _, n := range h.ForNodes {
			e.Hints.Nodes = append(e.Hints.Nodes, n.Name)
		}
	}
	return e, true
}

// Node strips a Node.
func Node(n *corev1.Node) *catalog.Node {
	out := &catalog.Node{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out.Addrs = append(out.Addrs, ip.Unmap())
		}
	}
	return out
}
