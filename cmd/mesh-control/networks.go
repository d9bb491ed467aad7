package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/tunmesh/tunmesh/control/policy"
)

// networkFlags say which addresses are the mesh's, and which of them the nodes' own.
type networkFlags struct {
	mesh  string
	hosts []string
}

func (f *networkFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.mesh, "mesh-networks", "", "comma-separated ranges of pods' and Services' addresses: one of them that is nobody's is refused")
	fs.StringSliceVar(&f.hosts, "host-addresses", nil, "comma-separated addresses within --mesh-networks that are the nodes' own, such as a bridge's")
}

func (f *networkFlags) read() (mesh []netip.Prefix, hosts []netip.Addr, err error) {
	if mesh, err = policy.ParseNetworks(f.mesh); err != nil {
		return nil, nil, fmt.Errorf("--mesh-networks: %w", err)
	}
	for _, s := range f.hosts {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return nil, nil, fmt.Errorf("--host-addresses: %w", err)
		}
		hosts = append(hosts, ip)
	}
	return mesh, hosts, nil
}
