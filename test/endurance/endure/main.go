// Endure is the server and the clients of the endurance tests: a server that
// misbehaves when told to and notes what reached it, a client that asks at a
// constant rate and tells of each request that failed, and one that makes new
// connections all the time.
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
	root := &cobra.Command{Use: "endure", SilenceUsage: true}
	root.AddCommand(serveCommand(), askCommand(), churnCommand())
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
