// mesh-cni is the CNI plugin when a container runtime calls it, and the node's
// agent (`mesh-cni agent`) when a supervisor does.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cni/agent"
	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/keeper"
	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/internal/version"
)

func main() {
	// The CNI specification passes the operation in the environment and no
	// arguments: that is the plugin.
	if os.Getenv("CNI_COMMAND") != "" && len(os.Args) == 1 {
		os.Exit(runPlugin())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mesh-cni:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// runPlugin answers the CNI call in the environment; the code is the program's.
func runPlugin() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return plugin.Main(ctx, plugin.Config{
		Agent:   func(socket string) plugin.Agent { return broker.Client{Path: socket} },
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Version: version.String(),
	})
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "mesh-cni",
		Short: "Set up meshed pods' networks, and hand their queues to the sidecars",
		Long: `mesh-cni is two programs in one.

Called by a container runtime (CNI_COMMAND is set), it is a chained CNI plugin,
last in the chain, that puts a TUN in the place of a meshed pod's interface.

As "mesh-cni agent" it serves a node: it holds the TUNs' queues and hands them
to each pod's sidecar.`,
		SilenceUsage: true, SilenceErrors: true,
		Version: version.String(),
	}
	c.SetVersionTemplate("mesh-cni {{.Version}}\n")
	c.AddCommand(agentCommand(), keeperCommand())
	return c
}

func agentCommand() *cobra.Command {
	var (
		cfg      agent.Config
		control  string
		networks []string
		level    string
	)
	c := &cobra.Command{
		Use:   "agent",
		Short: "Serve a node: hold TUN queues and hand them to sidecars",
		Args:  cobra.NoArgs,
		Example: `  mesh-cni agent --node worker-1 --control 10.244.0.1:8086 \
    --control-id spiffe://cluster.local/ns/tunmesh/sa/mesh-control \
    --trust-anchors /etc/tunmesh/anchors.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Control, err = netip.ParseAddrPort(control); err != nil {
				return fmt.Errorf("--control %q: want IP:PORT", control)
			}
			for _, n := range networks {
				p, err := netip.ParsePrefix(n)
				if err != nil {
					return fmt.Errorf("--networks %q: want CIDRs such as 10.244.0.0/16", n)
				}
				cfg.Networks = append(cfg.Networks, p)
			}
			if cfg.Log, err = logger(level); err != nil {
				return err
			}
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			cfg.KeeperCommand = []string{exe, "keeper", "--log-level", level}
			cfg.Version = version.String()
			return agent.Run(cmd.Context(), cfg)
		},
	}
	host, _ := os.Hostname()
	f := c.Flags()
	f.StringVar(&cfg.Dir, "dir", "/run/tunmesh", "state folder: sockets and one file a pod")
	f.StringVar(&cfg.Node, "node", host, "this node's name, told to sidecars")
	f.StringVar(&cfg.TrustAnchorsFile, "trust-anchors", "", "PEM file of the mesh's trust anchors, read at every handover")
	f.StringVar(&control, "control", "", "IP:PORT of the control plane")
	f.StringVar(&cfg.ControlID, "control-id", "spiffe://cluster.local/ns/tunmesh/sa/mesh-control", "identity of the control plane")
	f.StringSliceVar(&networks, "networks", nil, "the mesh's own address ranges (pods, services), as CIDRs")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

func keeperCommand() *cobra.Command {
	var level string
	c := &cobra.Command{
		Use:    "keeper SOCKET",
		Short:  "Hold descriptors over the agent's restarts (started by the agent)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(args[0]) {
				return fmt.Errorf("socket %q: want an absolute path", args[0])
			}
			if err := keeper.SetNoFile(); err != nil {
				return err
			}
			return keeper.NewServer(log).Run(cmd.Context(), args[0])
		},
	}
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, errors.New("--log-level: want debug, info, warn or error")
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
