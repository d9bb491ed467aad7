// mesh-cni is the CNI plugin when a container runtime calls it, and the node's
// agent (`mesh-cni agent`) when a supervisor does.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cni/agent"
	"github.com/tunmesh/tunmesh/cni/broker"
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
		Last:    agent.Clear,
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
to each pod's sidecar. In a cluster it also puts the plugin into the node's CNI
chain, and keeps it there.`,
		SilenceUsage: true, SilenceErrors: true,
		Version: version.String(),
	}
	c.SetVersionTemplate("mesh-cni {{.Version}}\n")
	c.AddCommand(agentCommand(), keeperCommand())
	return c
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, errors.New("--log-level: want debug, info, warn or error")
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
