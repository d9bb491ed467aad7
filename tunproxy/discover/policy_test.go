package discover

import (
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

func TestPolicyOf(t *testing.T) {
	good := wire.InboundPolicy{
		Default: 1, ClusterNetworks: []string{"10.0.0.0/8", "fd00::/8"}, Probes: []wire.Probe{{Port: 65535}, {Port: 1, Method: "GET", Path: "/"}},
		Ports: []wire.PortProtocol{{First: 1, Last: 65535, Protocol: 4}},
	}
	if _, err := policyOf(&good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, change := range map[string]func(p *wire.InboundPolicy){
		"no default":           func(p *wire.InboundPolicy) { p.Default = 0 },
		"unknown default":      func(p *wire.InboundPolicy) { p.Default = 7 },
		"default that wraps":   func(p *wire.InboundPolicy) { p.Default = 257 },
		"network without bits": func(p *wire.InboundPolicy) { p.ClusterNetworks = []string{"10.0.0.1"} },
		"probe without port":   func(p *wire.InboundPolicy) { p.Probes = []wire.Probe{{}} },
		"probe's port":         func(p *wire.InboundPolicy) { p.Probes = []wire.Probe{{Port: 65536}} },
		"ports from 0":         func(p *wire.InboundPolicy) { p.Ports = []wire.PortProtocol{{Last: 2}} },
		"ports backwards":      func(p *wire.InboundPolicy) { p.Ports = []wire.PortProtocol{{First: 3, Last: 2}} },
		"ports too high":       func(p *wire.InboundPolicy) { p.Ports = []wire.PortProtocol{{First: 1, Last: 65536}} },
		"unknown protocol":     func(p *wire.InboundPolicy) { p.Ports = []wire.PortProtocol{{First: 1, Last: 2, Protocol: 5}} },
	} {
		p := good
		change(&p)
		if _, err := policyOf(&p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
