// Command bench-net measures what one hop costs a TCP connection: direct,
// through a Go relay on kernel sockets (io.Copy, and with a 64 KB buffer), and
// through one netstack between two TUNs. Workload by workload, the peers take
// turns within a round, so that whatever else the machine does meets all of
// them. It prints a table, or one JSON document, and fails when a limit is
// missed. Root is needed: it makes network namespaces.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tunmesh/tunmesh/bench/result"
	"github.com/tunmesh/tunmesh/bench/scope"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

func main() { os.Exit(nettest.Contain(contained)) }

// contained measures; networks and peers end with it, however it ends.
func contained() int {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-net: error:", err)
		return 1
	}
	return 0
}

type flags struct {
	rounds         int
	duration       time.Duration
	format, only   string
	hopFlags       string
	skipLimitCheck bool
}

func run() error {
	var f flags
	flag.IntVar(&f.rounds, "rounds", 3, "how often each workload runs through each peer")
	flag.DurationVar(&f.duration, "duration", 2*time.Second, "of one run")
	flag.StringVar(&f.format, "o", "table", "table or json")
	flag.StringVar(&f.only, "only", "", "workloads to run, separated by commas; all when empty")
	flag.StringVar(&f.hopFlags, "hop", "", "more flags for the netstack hop, separated by spaces")
	flag.BoolVar(&f.skipLimitCheck, "no-limits", false, "do not fail when a limit is missed")
	flag.Parse()
	if f.format != "table" && f.format != "json" {
		return fmt.Errorf("-o %s: need table or json", f.format)
	}
	if f.rounds < 1 || f.duration < 100*time.Millisecond {
		return errors.New("need at least one round of 100ms")
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root for network namespaces: sudo -E make bench-net")
	}
	dir, err := os.MkdirTemp("", "bench-net-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return err
	}
	s := &scope.Scope{Dir: dir}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, s.Interrupt)
	var doc result.Document
	err = s.Within(func() { doc = measure(s, f) })
	if err != nil {
		return err
	}
	if f.format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(doc)
	} else {
		err = doc.Table(os.Stdout)
	}
	if err != nil || f.skipLimitCheck {
		return err
	}
	for _, l := range doc.Limits {
		if !l.OK {
			return fmt.Errorf("limit missed: %s: %.3f, bound %.2f", l.Name, l.Value, l.Bound)
		}
	}
	return nil
}

// build makes the programs that are measured, as they would be shipped.
func build(dir string) error {
	ld := "-ldflags=-s -w"
	if os.Getenv("BENCH_SYMBOLS") != "" {
		ld = "-ldflags="
	}
	for _, name := range []string{"load", "relay", "hop"} {
		cmd := exec.Command("go", "build", "-trimpath", ld, "-o", filepath.Join(dir, name), "github.com/tunmesh/tunmesh/bench/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}
