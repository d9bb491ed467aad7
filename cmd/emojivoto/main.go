// Emojivoto is the sample application: four small services that vote for
// emojis, one binary. web speaks HTTP/1.1, emoji and voting gRPC, and the vote
// bot is the load. One of the votes fails sometimes, so that there is something
// to find.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "emojivoto",
		Short:         "The sample application: vote for emojis",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(webCommand(), emojiCommand(), votingCommand(), botCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "emojivoto:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}
