package policy

import (
	"fmt"
	"net/netip"
	"strings"

	destination "github.com/tunmesh/tunmesh/api/destination"
	api "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// DefaultNetworks are the cluster's networks unless configured: the private
// ranges, as Linkerd's clusterNetworks.
const DefaultNetworks = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8"

// ParseDefault reads one of the six values of the default-inbound-policy
// annotation.
func ParseDefault(s string) (api.Default, error) {
	n, ok := api.Default_value[strings.ToUpper(strings.ReplaceAll(s, "-", "_"))]
	d := api.Default(n)
	if !ok || d == api.Default_DEFAULT_UNSPECIFIED || s != strings.ToLower(s) || strings.Contains(s, "_") {
		return api.Default_DENY, fmt.Errorf("default inbound policy %q is not known: use all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, deny or audit", s)
	}
	return d, nil
}

// ParseNetworks reads a comma-separated list of prefixes.
func ParseNetworks(s string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		p, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, fmt.Errorf("parse networks %q: %w", s, err)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// Rules is what holds where no annotation says otherwise.
type Rules struct {
	Default  api.Default
	Networks []netip.Prefix
}

// Inbound is the policy of a pod, without a version and labels. The nearest annotation
// wins: the pod's, its namespace's, the rules. An annotation that cannot be read
// denies, and is reported: who wrote it meant to restrict something.
func Inbound(p *catalog.Pod, n *catalog.Namespace, opaque *catalog.PortSet, r Rules) (*api.InboundPolicy, error) {
	pol := &api.InboundPolicy{Default: r.Default}
	var bad error
	value, ok := p.Annotations[annotation.DefaultInboundPolicy]
	if !ok && n != nil {
		value, ok = n.Annotations[annotation.DefaultInboundPolicy]
	}
	if ok {
		if pol.Default, bad = ParseDefault(value); bad != nil {
			bad = fmt.Errorf("pod %s: %w; everything is denied until it is corrected", p.Key, bad)
		}
	}
	for _, n := range r.Networks {
		pol.ClusterNetworks = append(pol.ClusterNetworks, n.String())
	}
	for _, probe := range p.Probes {
		pol.Probes = append(pol.Probes, &api.Probe{Port: uint32(probe.Port), Method: probe.Method, Path: probe.Path})
	}
	if opaque != nil {
		for _, rg := range opaque.Ranges {
			pol.Ports = append(pol.Ports, &api.PortProtocol{
				First: uint32(rg.First), Last: uint32(rg.Last), Protocol: uint32(destination.Protocol_OPAQUE),
			})
		}
	}
	return pol, bad
}
