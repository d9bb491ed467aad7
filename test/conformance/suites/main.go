// Suites are other people's conformance suites and implementations, as programs
// for the tests of test/conformance: gRPC's interoperability suite, client and
// server, and WebSocket's. They have a module of their own so that what they
// need stays out of the product's. (h2spec is a tool of this module.)
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage:
  suites grpc-server ADDRESS          serve gRPC's interoperability tests
  suites grpc CASE ADDRESS            run one of its cases
  suites websocket-server ADDRESS     echo WebSocket messages
  suites websocket URL                send messages and compare the echoes
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

func run(ctx context.Context, args []string) error {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch {
	case command == "grpc-server" && len(args) == 1:
		return serveGRPC(ctx, args[0])
	case command == "grpc" && len(args) == 2:
		return callGRPC(ctx, args[0], args[1])
	case command == "websocket-server" && len(args) == 1:
		return serveWebSocket(ctx, args[0])
	case command == "websocket" && len(args) == 1:
		return callWebSocket(ctx, args[0])
	}
	return fmt.Errorf("unknown command or wrong number of arguments\n%s", usage)
}
