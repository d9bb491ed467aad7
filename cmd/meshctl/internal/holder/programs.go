package holder

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/child"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/rotate"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/cni/agent"
	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/token"
)

const (
	agentSocket = plugin.DefaultStateDir + "/" + agent.SocketName
	maxLog      = 4 << 20
)

// programs describes the control plane and the agent.
func (h *holder) programs(pods, services []netip.Prefix) error {
	var networks []string
	for _, p := range append(pods[:len(pods):len(pods)], services...) {
		networks = append(networks, p.String())
	}
	level := "info"
	if h.cfg.Verbose {
		level = "debug"
	}
	gateway := pods[0].Masked().Addr().Next()
	var hosts []string // the bridge's own addresses: DNS over TCP goes there
	for _, p := range pods {
		hosts = append(hosts, p.Masked().Addr().Next().String())
	}
	dir := h.cfg.Dir
	var err error
	h.control, err = h.program("mesh-control",
		"--dir", dir.Manifests(), "--dir", dir.Pods(), "--state-dir", dir.Control(),
		"--listen", net.JoinHostPort("", fmt.Sprint(control.Port)), "--query-socket", dir.Query(), "--view-socket", dir.View(),
		"--mesh-networks", strings.Join(networks, ","), "--host-addresses", strings.Join(hosts, ","), "--log-level", level)
	if err != nil {
		return err
	}
	h.agent, err = h.program("mesh-cni", "agent",
		"--dir", plugin.DefaultStateDir, "--node", "tunmesh-"+dir.Name(),
		"--control", netip.AddrPortFrom(gateway, control.Port).String(),
		"--trust-anchors", filepath.Join(dir.Control(), control.AuthorityDir, identity.AnchorsFile),
		"--networks", strings.Join(networks, ","), "--log-level", level)
	return err
}

func (h *holder) program(name string, args ...string) (*child.Program, error) {
	path, err := child.Find(h.cfg.Bin, name)
	if err != nil {
		return nil, err
	}
	out, err := rotate.Open(filepath.Join(string(h.cfg.Dir), name+".log"), maxLog)
	if err != nil {
		return nil, err
	}
	return &child.Program{Name: name, Argv: append([]string{path}, args...), Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"},
		Out: out, Log: h.log}, nil
}

// health asks both programs for an answer.
func (h *holder) health(ctx context.Context) (controlUp, agentUp bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", h.cfg.Dir.Query()); err == nil {
		controlUp = true
		_ = c.Close()
	}
	_, err := broker.Client{Path: agentSocket}.Status(ctx)
	return controlUp, err == nil
}

// podFiles is the folder that tells the control plane of pods.
type podFiles struct{ dir string }

func (f podFiles) path(namespace, name string) string {
	return filepath.Join(f.dir, namespace+"_"+name+".json")
}

// Put implements kubelet.Status.
func (f podFiles) Put(p *corev1.Pod) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return state.WriteFile(f.path(p.Namespace, p.Name), raw, 0o600)
}

// Remove implements kubelet.Status.
func (f podFiles) Remove(namespace, name string) error {
	if err := os.Remove(f.path(namespace, name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// minter mints tokens of the local issuer.
type minter struct{ key *token.Key }

// Mint implements kubelet.Tokens.
func (m minter) Mint(p *corev1.Pod, audience string, ttl time.Duration) (string, error) {
	return m.key.Mint(token.Claims{Namespace: p.Namespace, ServiceAccount: p.Spec.ServiceAccountName, Pod: p.Name, PodUID: string(p.UID)}, audience, ttl)
}
