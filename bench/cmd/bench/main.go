// Command bench measures tunmesh beside the proxies that people would use
// instead, on one machine, in one run.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/scope"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

func main() { os.Exit(nettest.Contain(contained)) }

// contained is the program; networks and peers end with it, however it ends.
func contained() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	cmd := &cobra.Command{
		Use:           "bench",
		Short:         "Measure tunmesh beside other proxies, and any service under load",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(runCommand(), peersCommand(), compareCommand(), reportCommand(), loadCommand())
	err := cmd.ExecuteContext(ctx)
	switch {
	case errors.Is(err, scope.ErrInterrupted):
		fmt.Fprintln(os.Stderr, "bench: interrupted; nothing is left behind")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		return 1
	}
	return 0
}
