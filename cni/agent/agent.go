// Package agent is the node's agent: it composes the broker, its control socket
// and the keeper process, and takes everything up again after a restart. What
// happens to queues is cni/broker's, how pods' networks are made is podnet's.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/tunmesh/tunmesh/cni/broker"
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

// Config of the agent.
type Config struct {
	// Dir is the state folder, root's alone: sockets and a file a pod.
	Dir string
	// Node is this machine's name, told to sidecars.
	Node string
	// TrustAnchorsFile is PEM, read at every handover.
	TrustAnchorsFile string
	// Control and ControlID are the control plane's address and identity.
	Control   netip.AddrPort
	ControlID string
	// Networks are the mesh's own ranges: pods and services.
	Networks []netip.Prefix
	// KeeperCommand starts the keeper (program, arguments) with the socket's path
	// as one more argument; normally this program's own "keeper" command.
	KeeperCommand []string
	Version       string
	Log           *slog.Logger
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
	case !c.Control.IsValid():
		return errors.New("--control: IP:PORT of the control plane is needed")
	case len(c.KeeperCommand) == 0:
		return errors.New("no command to start the keeper with")
	}
	return nil
}

// Run serves until ctx ends. What it holds stays with the keeper.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, podsDir), 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	h := &holder{path: filepath.Join(cfg.Dir, keeperName), command: cfg.KeeperCommand, log: cfg.Log}
	if err := h.connect(ctx); err != nil {
		return err
	}
	defer h.close()

	reg := broker.NewRegistry(h)
	b := broker.New(broker.Config{
		StateDir:   filepath.Join(cfg.Dir, podsDir),
		Containers: reg,
		Holder:     h,
		Mesh:       cfg.mesh,
		Log:        cfg.Log,
	})
	defer b.Close()
	if err := b.Restore(ctx, reg.Restore); err != nil {
		return err
	}
	h.onLost(func() error { return errors.Join(b.Reheld(), reg.Reheld()) })

	watched := make(chan struct{})
	go func() { defer close(watched); h.watch(ctx, lookAtKeeper) }()
	defer func() { <-watched }()

	cfg.Log.Info("serving", "socket", filepath.Join(cfg.Dir, SocketName), "pods", len(b.Pods()))
	s := &broker.Server{Broker: b, Registry: reg, Version: cfg.Version, Log: cfg.Log}
	return s.Run(ctx, filepath.Join(cfg.Dir, SocketName))
}

func (c *Config) mesh() (broker.Mesh, error) {
	pem, err := os.ReadFile(c.TrustAnchorsFile)
	if err != nil {
		return broker.Mesh{}, fmt.Errorf("read the trust anchors: %w", err)
	}
	return broker.Mesh{
		Node:         c.Node,
		TrustAnchors: string(pem),
		Control:      c.Control,
		ControlID:    c.ControlID,
		Networks:     c.Networks,
	}, nil
}
