// Package agent is the node's agent: it composes the broker, its control socket
// and the keeper process, and takes everything up again after a restart. In a
// cluster it also keeps the plugin in the node's CNI chain, and tells its own
// update from the mesh's removal. What happens to queues is cni/broker's, how
// pods' networks are made is podnet's, how the chain is edited cni/install's.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/cri"
	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Names under Config.Dir.
const (
	SocketName    = "agent.sock"
	keeperName    = "keeper.sock"
	podsDir       = "pods"
	lookAtKeeper  = 2 * time.Second
	keeperAnswers = 5 * time.Second
)

// Config of the agent. The fields from Chain on are a cluster's.
type Config struct {
	// Dir is the state folder, root's alone: sockets and a file a pod.
	Dir string
	// Node is this machine's name, told to sidecars.
	Node string
	// TrustAnchorsFile is PEM, read at every handover; the control plane is asked for
	// newer ones.
	TrustAnchorsFile string
	// Control is the control plane's address, IP:PORT or HOST:PORT, and ControlID
	// its identity.
	Control   string
	ControlID string
	// Networks are the mesh's own ranges: pods and services.
	Networks []netip.Prefix
	// KeeperCommand starts the keeper (program, arguments) with the socket's path
	// as one more argument; normally this program's own "keeper" command.
	KeeperCommand []string
	Version       string
	Log           *slog.Logger

	// Chain says how the plugin gets into the node's CNI chain; nil where it is in
	// it already.
	Chain *install.Config
	// CRI is the socket of the container runtime, which is asked whose a process
	// is. Without it containers are registered.
	CRI string
	// DaemonSet (NAMESPACE/NAME) is the agent's own, at API: when it is gone, the
	// mesh is removed from this node. "" is never.
	DaemonSet string
	API       API
	// Admin serves /live and /ready; nil does not.
	Admin net.Listener
}

func (c *Config) validate() error {
	if _, err := spiffe.Parse(c.ControlID); err != nil {
		return fmt.Errorf("--control-id: %w", err)
	}
	switch {
	case c.Dir == "":
		return errors.New("--dir: a state folder is needed")
	case c.TrustAnchorsFile == "":
		return errors.New("--trust-anchors: a PEM file is needed")
	case len(c.KeeperCommand) == 0:
		return errors.New("no command to start the keeper with")
	case c.DaemonSet != "" && c.Chain == nil:
		return errors.New("--daemonset: without --cni-net-dir there is nothing to remove from this node")
	}
	return nil
}

// node is a running agent.
type node struct {
	cfg     Config
	control *controlPlane
	anchors *anchors
	runtime *cri.Client      // nil: containers are registered
	chain   *install.Watcher // nil: not installed by the agent
	set     *daemonSet       // nil: never removed
	tasks   sync.WaitGroup   // all that end with the agent
}

// Run serves until ctx ends. What it holds stays with the keeper.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	n := &node{cfg: cfg}
	var err error
	if n.control, err = newControlPlane(cfg.Control); err != nil {
		return err
	}
	n.anchors = newAnchors(cfg.TrustAnchorsFile, cfg.ControlID, n.control.addresses)
	if cfg.DaemonSet != "" {
		if n.set, err = newDaemonSet(cfg.DaemonSet, cfg.API, cfg.Log); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, podsDir), 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	if cfg.CRI != "" {
		n.runtime = cri.New(cfg.CRI)
		defer n.runtime.Close()
	}
	removed, err := n.serve(ctx)
	if removed {
		err = errors.Join(err, n.leave(context.WithoutCancel(ctx)))
	}
	return err
}

// serve holds, hands out and repairs until ctx ends, and some longer: whoever
// asks while it is found out why the agent is to end is still served.
func (n *node) serve(ctx context.Context) (removed bool, err error) {
	if n.cfg.Chain != nil {
		n.prepareChain(ctx)
	}
	h := &holder{path: filepath.Join(n.cfg.Dir, keeperName), command: n.cfg.KeeperCommand, log: n.cfg.Log}
	if err := h.connect(ctx); err != nil {
		return false, err
	}
	defer h.close()
	s, b, err := n.broker(ctx, h)
	if err != nil {
		return false, err
	}
	defer b.Close()
	inner, end := context.WithCancel(context.WithoutCancel(ctx))
	defer n.tasks.Wait()
	defer end()
	failed := make(chan error, 2)
	n.tasks.Go(func() { h.watch(inner, lookAtKeeper) })
	n.tasks.Go(func() { n.control.run(inner, n.cfg.Log) })
	n.tasks.Go(func() { n.anchors.run(inner, n.cfg.Log) })
	n.tasks.Go(func() { failed <- s.Run(inner, filepath.Join(n.cfg.Dir, SocketName)) })
	if n.set != nil {
		n.tasks.Go(func() { n.set.learn(inner) })
	}
	if n.chain != nil {
		n.tasks.Go(func() { n.chain.Run(inner) })
	}
	if n.cfg.Admin != nil {
		n.tasks.Go(func() { failed <- (&admin{checks: n.checks()}).run(inner, n.cfg.Admin) })
	}
	n.cfg.Log.Info("serving", "socket", filepath.Join(n.cfg.Dir, SocketName), "pods", len(b.Pods()))
	select {
	case err = <-failed:
		return false, err
	case <-ctx.Done():
	}
	if n.set != nil {
		removed = n.set.removed(inner)
	}
	return removed, nil
}

// broker composes what judges and hands over, and takes up what an agent before
// this one left.
func (n *node) broker(ctx context.Context, h *holder) (*broker.Server, *broker.Broker, error) {
	s := &broker.Server{Version: n.cfg.Version, Log: n.cfg.Log}
	var judge broker.Containers
	restore, reheld := func(string) error { return nil }, func() error { return nil }
	if n.runtime != nil {
		judge = broker.NewRuntime(n.runtime)
	} else {
		s.Registry = broker.NewRegistry(h)
		judge, restore, reheld = s.Registry, s.Registry.Restore, s.Registry.Reheld
	}
	s.Broker = broker.New(broker.Config{
		StateDir: filepath.Join(n.cfg.Dir, podsDir), Containers: judge, Holder: h, Mesh: n.mesh, Log: n.cfg.Log,
	})
	if err := s.Broker.Restore(ctx, restore); err != nil {
		s.Broker.Close()
		return nil, nil, err
	}
	h.onLost(func() error { return errors.Join(s.Broker.Reheld(), reheld()) })
	return s, s.Broker, nil
}

func (n *node) mesh() (broker.Mesh, error) {
	pem, err := n.anchors.pem()
	if err != nil {
		return broker.Mesh{}, err
	}
	control, err := n.control.addresses()
	if err != nil {
		return broker.Mesh{}, err
	}
	return broker.Mesh{Node: n.cfg.Node, TrustAnchors: pem, Control: control, ControlID: n.cfg.ControlID, Networks: n.cfg.Networks}, nil
}
