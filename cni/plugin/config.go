package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Defaults of the network configuration.
const (
	DefaultStateDir = "/run/tunmesh"
	DefaultNetnsDir = "/run/netns"
	agentSocketName = "agent.sock"
)

// What is done with a pod whose annotations the runtime does not hand over.
const (
	// WithoutAnnotationsRefuse fails its ADD.
	WithoutAnnotationsRefuse = "refuse"
	// WithoutAnnotationsPass leaves it outside of the mesh.
	WithoutAnnotationsPass = "pass"
)

// netConf is the plugin's network configuration, with what the runtime adds.
type netConf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	// AgentSocket is the agent's; in StateDir by default.
	AgentSocket string `json:"agentSocket"`
	StateDir    string `json:"stateDir"`
	NetnsDir    string `json:"netnsDir"`
	// WithoutAnnotations must be chosen where the runtime hands none over.
	WithoutAnnotations string `json:"withoutAnnotations"`
	// Journal is the installation's; empty where nobody installed the plugin into
	// another CNI's chain.
	Journal string `json:"journal"`

	RuntimeConfig struct {
		// Annotations is nil when the runtime does not know the capability.
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	PrevResult       json.RawMessage      `json:"prevResult"`
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments"`
}

func parseConf(stdin []byte) (*netConf, error) {
	c := &netConf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, fail(types.ErrDecodingFailure, "parse the network configuration", err)
	}
	if c.StateDir == "" {
		c.StateDir = DefaultStateDir
	}
	if c.NetnsDir == "" {
		c.NetnsDir = DefaultNetnsDir
	}
	if c.AgentSocket == "" {
		c.AgentSocket = filepath.Join(c.StateDir, agentSocketName)
	}
	for key, path := range map[string]string{"stateDir": c.StateDir, "netnsDir": c.NetnsDir, "agentSocket": c.AgentSocket} {
		if !filepath.IsAbs(path) {
			return nil, failf(types.ErrInvalidNetworkConfig, "%s %q is no absolute path", key, path)
		}
	}
	if c.Journal != "" && !filepath.IsAbs(c.Journal) {
		return nil, failf(types.ErrInvalidNetworkConfig, "journal %q is no absolute path", c.Journal)
	}
	switch c.WithoutAnnotations {
	case "", WithoutAnnotationsRefuse, WithoutAnnotationsPass:
	default:
		return nil, failf(types.ErrInvalidNetworkConfig, "withoutAnnotations is %q: want %q or %q", c.WithoutAnnotations, WithoutAnnotationsRefuse, WithoutAnnotationsPass)
	}
	return c, nil
}

// errNoResult: the plugin is not in a chain, or the first of one.
var errNoResult = errors.New("there is no prevResult: the plugin only works as the last of a chain, after the one that makes the pod's interface")

// result parses prevResult.
func (c *netConf) result() (*types100.Result, error) {
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return nil, fail(types.ErrInvalidNetworkConfig, errNoResult.Error(), nil)
	}
	r, err := version.NewResult(c.CNIVersion, c.PrevResult)
	if err != nil {
		return nil, fail(types.ErrDecodingFailure, "parse prevResult", err)
	}
	full, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, fail(types.ErrDecodingFailure, "convert prevResult", err)
	}
	return full, nil
}

// podAddrs are the addresses that a result gives to the pod's interface, in
// its order: those that name the interface, and those that name none.
func podAddrs(r *types100.Result, ifName string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, ip := range r.IPs {
		if ip == nil {
			return nil, errors.New("prevResult has an empty address")
		}
		if i := ip.Interface; i != nil {
			if *i < 0 || *i >= len(r.Interfaces) || r.Interfaces[*i] == nil {
				return nil, fmt.Errorf("prevResult gives %s to interface %d, which it does not list", ip.Address.String(), *i)
			}
			if f := r.Interfaces[*i]; f.Name != ifName || f.Sandbox == "" {
				continue
			}
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("prevResult has an address that is none: %s", ip.Address.String())
		}
		if a = a.Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("prevResult has no address for %s", ifName)
	}
	return out, nil
}

// extended is prevResult, unchanged but for one more interface. It is named
// wire0 and not as the moved interface is: runtimes keep interfaces by name.
func (c *netConf) extended(name, sandbox string) ([]byte, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(c.PrevResult, &all); err != nil {
		return nil, fail(types.ErrDecodingFailure, "parse prevResult", err)
	}
	var interfaces []json.RawMessage
	if raw, ok := all["interfaces"]; ok {
		if err := json.Unmarshal(raw, &interfaces); err != nil {
			return nil, fail(types.ErrDecodingFailure, "parse the interfaces of prevResult", err)
		}
	}
	one, err := json.Marshal(types100.Interface{Name: name, Sandbox: sandbox})
	if err != nil {
		return nil, fmt.Errorf("encode an interface: %w", err)
	}
	if all["interfaces"], err = json.Marshal(append(interfaces, one)); err != nil {
		return nil, fmt.Errorf("encode the interfaces: %w", err)
	}
	return json.Marshal(all)
}
