package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Conflist describes a chain of the reference plugins with the mesh's as last.
type Conflist struct {
	// CNIVersion is 1.1.0 when empty. Debian's containerd 1.6 knows up to 1.0.0.
	CNIVersion string
	// Name of the network.
	Name string
	// Main is "bridge" (default) or "ptp".
	Main string
	// Bridge is the bridge's name, for Main "bridge".
	Bridge string
	// Subnets are the pods', one for each IP family.
	Subnets []netip.Prefix
	// IPAMDir is where host-local keeps its leases; its own default when empty.
	IPAMDir string
	// MTU of the pods' interfaces; 0 is the kernel's default.
	MTU int
	// IPMasq lets pods reach beyond the node under its address.
	IPMasq bool
	// StateDir, NetnsDir and AgentSocket have the plugin's defaults when empty.
	StateDir, NetnsDir, AgentSocket string
	// WithoutAnnotations as in the plugin's configuration; may be empty.
	WithoutAnnotations string
}

// JSON renders the chain. The main plugins' CHECK insists on a veth in the pod,
// which a meshed pod has not, so CHECK is disabled.
func (c Conflist) JSON() ([]byte, error) {
	if c.Name == "" || len(c.Subnets) == 0 {
		return nil, errors.New("render a conflist: a name and a subnet are needed")
	}
	main := map[string]any{"type": "bridge", "bridge": c.Bridge, "isGateway": true}
	switch {
	case c.Main == "ptp":
		main = map[string]any{"type": "ptp"}
	case c.Main != "" && c.Main != "bridge":
		return nil, fmt.Errorf("render a conflist: main plugin %q: want bridge or ptp", c.Main)
	case c.Bridge == "":
		return nil, errors.New("render a conflist: a name for the bridge is needed")
	}
	main["ipMasq"] = c.IPMasq
	if c.MTU != 0 {
		main["mtu"] = c.MTU
	}
	ipam := map[string]any{"type": "host-local"}
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, s := range c.Subnets {
		if !s.IsValid() {
			return nil, errors.New("render a conflist: a subnet is not valid")
		}
		ranges = append(ranges, []map[string]string{{"subnet": s.Masked().String()}})
		dst := "0.0.0.0/0"
		if s.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, map[string]string{"dst": dst})
	}
	ipam["ranges"], ipam["routes"] = ranges, routes
	if c.IPAMDir != "" {
		ipam["dataDir"] = c.IPAMDir
	}
	main["ipam"] = ipam

	mesh := Entry{StateDir: c.StateDir, NetnsDir: c.NetnsDir, AgentSocket: c.AgentSocket, WithoutAnnotations: c.WithoutAnnotations}.fields()
	version := c.CNIVersion
	if version == "" {
		version = "1.1.0"
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": version, "name": c.Name, "disableCheck": true,
		"plugins": []any{
			main,
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
			mesh,
		},
	}, "", "  ")
}

// Entry describes the plugin in a chain of somebody else's.
type Entry struct {
	// StateDir, NetnsDir and AgentSocket have the plugin's defaults when empty.
	StateDir, NetnsDir, AgentSocket string
	// WithoutAnnotations as in the plugin's configuration; may be empty.
	WithoutAnnotations string
	// Journal of the installation (cni/install).
	Journal string
}

// JSON renders the entry.
func (e Entry) JSON() ([]byte, error) { return json.Marshal(e.fields()) }

func (e Entry) fields() map[string]any {
	out := map[string]any{"type": Type, "capabilities": map[string]bool{AnnotationsCapability: true}}
	for key, value := range map[string]string{
		"stateDir": e.StateDir, "netnsDir": e.NetnsDir, "agentSocket": e.AgentSocket, "withoutAnnotations": e.WithoutAnnotations, "journal": e.Journal,
	} {
		if value != "" {
			out[key] = value
		}
	}
	return out
}
