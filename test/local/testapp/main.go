// Testapp is the server and the clients of the end-to-end tests: it runs in
// pods, speaks every protocol that the tests need, and prints what it saw as
// one JSON document.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "testapp", SilenceUsage: true}
	root.AddCommand(serveCommand(), grpcCommand(), httpCommand(), dialCommand(), bannerCommand(), uploadCommand(), udpCommand(), idleCommand(), sayCommand(), loadCommand(), measureCommand(), tlsCommand(), trickleCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// answer prints a result for the test.
func answer(v any) error {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
