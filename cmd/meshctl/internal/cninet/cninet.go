// Package cninet gives pods their network by a CNI chain, as a container
// runtime does: libcni, a conflist in a folder, plugins in folders. It owns the
// runtime's side of CNI; what the chain does is the plugins'.
package cninet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/kubelet"
	"github.com/tunmesh/tunmesh/cni/plugin"
)

// IfName is the interface in the pod.
const IfName = "eth0"

// within bounds one run of the chain.
const within = 20 * time.Second

// Config of a Network.
type Config struct {
	// ConfDir gets the conflist, CacheDir what libcni remembers of pods.
	ConfDir, CacheDir string
	// BinDirs are searched for plugins, in order.
	BinDirs []string
	// Conflist is the chain's configuration.
	Conflist []byte
}

// Network runs a chain.
type Network struct {
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// New writes the conflist and looks for the plugins it names.
func New(cfg Config) (*Network, error) {
	for _, d := range []string{cfg.ConfDir, cfg.CacheDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("set up CNI: %w", err)
		}
	}
	file := filepath.Join(cfg.ConfDir, "10-tunmesh.conflist")
	if err := os.WriteFile(file, cfg.Conflist, 0o600); err != nil {
		return nil, fmt.Errorf("set up CNI: %w", err)
	}
	list, err := libcni.ConfListFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("set up CNI: %w", err)
	}
	n := &Network{list: list, cni: libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, nil)}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if _, err := n.cni.ValidateNetworkList(ctx, list); err != nil {
		return nil, fmt.Errorf("set up CNI (make build puts the plugins into bin/ and bin/cni/): %w", err)
	}
	return n, nil
}

// Add implements kubelet.Network.
func (n *Network) Add(ctx context.Context, a kubelet.Attachment) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	got, err := n.cni.AddNetworkList(ctx, n.list, runtimeConf(a))
	if err != nil {
		return nil, fmt.Errorf("add pod %s/%s to the network: %w", a.Namespace, a.Name, err)
	}
	r, err := types100.NewResultFromResult(got)
	if err != nil {
		return nil, fmt.Errorf("add pod %s/%s to the network: %w", a.Namespace, a.Name, err)
	}
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("the CNI chain gave no address")
	}
	return addrs, nil
}

// Del implements kubelet.Network.
func (n *Network) Del(ctx context.Context, a kubelet.Attachment) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := n.cni.DelNetworkList(ctx, n.list, runtimeConf(a)); err != nil {
		return fmt.Errorf("remove pod %s/%s from the network: %w", a.Namespace, a.Name, err)
	}
	return nil
}

func runtimeConf(a kubelet.Attachment) *libcni.RuntimeConf {
	annotations := a.Annotations
	if annotations == nil {
		annotations = map[string]string{} // none, as opposed to not told
	}
	return &libcni.RuntimeConf{
		ContainerID: a.Sandbox, NetNS: a.NetNS, IfName: IfName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", a.Namespace}, {"K8S_POD_NAME", a.Name},
			{"K8S_POD_UID", a.UID}, {"K8S_POD_INFRA_CONTAINER_ID", a.Sandbox},
		},
		CapabilityArgs: map[string]any{plugin.AnnotationsCapability: annotations},
	}
}
