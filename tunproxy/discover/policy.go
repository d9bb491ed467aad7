package discover

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// A Policy is what this pod accepts. It is immutable. The nil Policy is "not
// known yet": its Authz denies everything.
type Policy struct {
	Version uint64
	authz   *authz.Policy
	ports   []wire.PortProtocol
	labels  map[string]string
}

// Authz decides who may talk to the pod.
func (p *Policy) Authz() *authz.Policy {
	if p == nil {
		return nil
	}
	return p.authz
}

// Protocol is what the pod says that a port of its own speaks.
func (p *Policy) Protocol(port uint16) flow.Protocol {
	if p == nil {
		return flow.Detect
	}
	for _, r := range p.ports {
		if uint32(port) >= r.First && uint32(port) <= r.Last {
			return flow.Protocol(r.Protocol)
		}
	}
	return flow.Detect
}

// Labels of this pod in metrics.
func (p *Policy) Labels() map[string]string {
	if p == nil {
		return nil
	}
	return p.labels
}

// policyOf checks a whole state and makes it a Policy.
func policyOf(m *wire.InboundPolicy) (*Policy, error) {
	cfg := authz.Config{Default: authz.Default(m.Default)}
	if m.Default == 0 || m.Default > math.MaxUint8 {
		return nil, fmt.Errorf("default policy %d is not known", m.Default)
	}
	for _, s := range m.ClusterNetworks {
		n, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("cluster network %q: want address/bits", s)
		}
		cfg.Networks = append(cfg.Networks, n.Masked())
	}
	for _, b := range m.Probes {
		if b.Port == 0 || b.Port > math.MaxUint16 {
			return nil, fmt.Errorf("probe of port %d", b.Port)
		}
		cfg.Probes = append(cfg.Probes, authz.Probe{Port: uint16(b.Port), Method: b.Method, Path: b.Path})
	}
	for _, r := range m.Ports {
		if r.First == 0 || r.First > r.Last || r.Last > math.MaxUint16 {
			return nil, fmt.Errorf("ports %d to %d", r.First, r.Last)
		}
		if _, err := protocol(r.Protocol); err != nil {
			return nil, fmt.Errorf("ports %d to %d: %w", r.First, r.Last, err)
		}
	}
	a, err := authz.New(cfg)
	if err != nil {
		return nil, err
	}
	return &Policy{Version: m.Version, authz: a, ports: m.Ports, labels: m.Labels}, nil
}
