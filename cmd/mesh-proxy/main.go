// mesh-proxy is the sidecar: it takes the pod's two TUNs from the node's agent
// and proxies every connection between them. It needs no privilege, no flag and
// no volume but its token; what it must know comes with the TUNs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/version"
)

// Exit codes, so that a supervisor's log says at a glance what is wrong.
const (
	exitFailed  = 1 // something broke; the message says what
	exitUsage   = 2
	exitOutside = annotation.ExitOutside
	exitRefused = 4 // the node's agent does not take this process for the sidecar
)

// options are what the command line says.
type options struct {
	broker, token, level string
	uncounted, version   bool
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	if len(args) > 0 && args[0] == "await" {
		return runAwait(args[1:], errs)
	}
	o, err := parse(args, errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(errs, "mesh-proxy:", err)
		return exitUsage
	case o.version:
		fmt.Fprintln(out, "mesh-proxy", version.String())
		return 0
	}
	// Keys and the app's bytes are in this memory: no core dump, and no ptrace by
	// another process of the same uid.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(errs, "mesh-proxy: make the process undumpable:", err)
		return exitFailed
	}
	smallHeap()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	level := new(slog.LevelVar)
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: level}))
	if err := sidecar(ctx, o, level, log); err != nil {
		fmt.Fprintln(errs, "mesh-proxy:", err)
		return exitCode(err)
	}
	return 0
}

func runAwait(args []string, errs io.Writer) int {
	timeout, err := parseAwait(args, errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(errs, "mesh-proxy await:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := await(ctx, timeout, loopback()); err != nil {
		fmt.Fprintln(errs, "mesh-proxy await:", err)
		return exitFailed
	}
	return 0
}

func parse(args []string, errs io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("mesh-proxy", flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() {
		fmt.Fprintln(errs, "mesh-proxy is the tunmesh sidecar. It runs in a pod set up by the tunmesh CNI plugin;")
		fmt.Fprintln(errs, "what it must know comes from the node's agent, so that no flag is needed there.")
		fmt.Fprintln(errs, "`mesh-proxy await` waits until it is ready.")
		fmt.Fprintln(errs, "\nExit codes: 3 = not in such a pod, 4 = refused by the agent.\n\nFlags:")
		f.PrintDefaults()
	}
	f.StringVar(&o.broker, "broker", handover.Address, "the agent's `socket`")
	f.StringVar(&o.token, "token", filepath.Join(annotation.TokenMountPath, annotation.TokenFile), "`file` with the identity token")
	f.StringVar(&o.level, "log-level", "", "debug, info, warn or error; overrides the pod's annotation")
	f.BoolVar(&o.uncounted, "no-metrics", false, "count no traffic; it shows what counting costs, and leaves the mesh blind")
	f.BoolVar(&o.version, "version", false, "print the version and exit")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.level != "" {
		if _, err := parseLevel(o.level); err != nil {
			return o, err
		}
	}
	return o, nil
}

func parseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return l, fmt.Errorf("log level %q: want debug, info, warn or error", s)
	}
	return l, nil
}

func exitCode(err error) int {
	var refused *handover.RefusedError
	switch {
	case errors.Is(err, handover.ErrOutside):
		return exitOutside
	case errors.As(err, &refused):
		return exitRefused
	}
	return exitFailed
}
