package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/perf/benchfmt"

	"github.com/tunmesh/tunmesh/bench/measure"
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/result"
	"github.com/tunmesh/tunmesh/bench/scope"
	"github.com/tunmesh/tunmesh/bench/topology"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// everything: a full run that was not narrowed down.
func (f *runFlags) everything() bool { return f.full && len(f.peers) == 0 && len(f.workloads) == 0 }

// featureWorkloads are what features are measured with: requests in both
// versions, connections for what is done once on each, a rate that is the same for
// all, and as many names as make a thousand series.
func featureWorkloads() []string {
	return []string{"h1-16", "grpc", "connect", "open-10k", "names-40"}
}

// measurement is one call of "bench run".
type measurement struct {
	ctx      context.Context
	f        *runFlags
	dir, bin string
	say      func(format string, args ...any)
}

// compare measures peers in networks of their own, which are gone at the end.
func (m *measurement) compare(doc *result.Bench, makers []peer.Maker, workloads []measure.Workload) error {
	s := &scope.Scope{Dir: m.dir}
	stop := context.AfterFunc(m.ctx, s.Interrupt)
	defer stop()
	return s.Within(func() {
		nettest.NeedRoot(s)
		b := measure.Bench{
			Env: &peer.Env{Scope: s, Bridge: topology.NewBridge(s), Bin: m.bin, Options: m.f.peer}, Options: m.f.measure,
			Makers: makers, Workloads: workloads, Say: m.say,
		}
		if err := b.Run(doc); err != nil {
			m.say("failed; cleaning up")
			s.Fail(err)
		}
	})
}

// restTakes is how long rest takes, at most: features, bench-net, benchmarks.
const restTakes = 15 * time.Minute

// rest is what a full run does after the peers.
func (m *measurement) rest(doc *result.Bench) error {
	f := &runFlags{features: true, peers: peer.Features(), workloads: featureWorkloads(), measure: measure.Options{Quiet: m.f.measure.Quiet}, peer: m.f.peer}
	f.defaults()
	makers, err := f.makers()
	if err != nil {
		return err
	}
	workloads, err := f.chosen()
	if err != nil {
		return err
	}
	dir := filepath.Join(m.dir, "features")      // peers have the same names
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // sidecars run as another user
		return err
	}
	m.say("what each feature costs")
	doc.Features = f.document()
	began := time.Now()
	if err := (&measurement{ctx: m.ctx, f: f, dir: dir, bin: m.bin, say: m.say}).compare(doc.Features, makers, workloads); err != nil {
		return fmt.Errorf("features: %w", err)
	}
	doc.Features.Took = time.Since(began).Seconds()
	m.say("one hop of bytes beside relays: about 5 minutes")
	if doc.Net, err = m.net(); err != nil {
		return err
	}
	m.say("Go benchmarks: about 2 minutes")
	doc.Benchmarks, err = m.benchmarks()
	return err
}

// net runs bench-net.
func (m *measurement) net() (*result.Document, error) {
	program := filepath.Join(m.bin, "bench-net")
	if out, err := exec.CommandContext(m.ctx, "go", "build", "-o", program, module+"bench/cmd/bench-net").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build bench-net: %w: %s", err, out)
	}
	cmd := exec.CommandContext(m.ctx, program, "-o", "json", "-no-limits")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		if m.ctx.Err() != nil {
			return nil, scope.ErrInterrupted
		}
		return nil, fmt.Errorf("bench-net: %w", err)
	}
	var doc result.Document
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, fmt.Errorf("read what bench-net said: %w", err)
	}
	return &doc, nil
}

// benchmarks runs those that goals and the cost of features are about.
func (m *measurement) benchmarks() ([]result.Benchmark, error) {
	const which = "^BenchmarkExchange$/^(grpc|http2|http1)$/^(8x16|16)$|^BenchmarkObservers$|^BenchmarkChoice$|^BenchmarkScrape$"
	cmd := exec.CommandContext(m.ctx, "go", "test", "-run", "^$", "-bench", which, "-benchmem", "-benchtime", "300ms", "-count", "5", module+"tunproxy", module+"tunproxy/balance", module+"tunproxy/telemetry")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		if m.ctx.Err() != nil {
			return nil, scope.ErrInterrupted
		}
		return nil, fmt.Errorf("go benchmarks: %w: %s%s", err, errs.Bytes(), out)
	}
	return parseBenchmarks(bytes.NewReader(out))
}

// parseBenchmarks reads what "go test -bench" writes.
func parseBenchmarks(r io.Reader) ([]result.Benchmark, error) {
	values := map[string]map[string][]float64{}
	var order []string
	in := benchfmt.NewReader(r, "go test")
	for in.Scan() {
		b, ok := in.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		// The number of CPUs is no part of the name.
		base, parts := b.Name.Parts()
		name := string(base)
		for _, p := range parts {
			if !bytes.HasPrefix(p, []byte("-")) {
				name += string(p)
			}
		}
		if values[name] == nil {
			values[name] = map[string][]float64{}
			order = append(order, name)
		}
		for _, v := range b.Values {
			unit, value := v.Unit, v.Value
			if v.OrigUnit != "" { // it is kept in seconds
				unit, value = v.OrigUnit, v.OrigValue
			}
			values[name][unit] = append(values[name][unit], value)
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read go benchmarks: %w", err)
	}
	var out []result.Benchmark
	for _, name := range order {
		m := result.Benchmark{Name: name, Values: map[string]result.Stat{}}
		for _, unit := range slices.Sorted(maps.Keys(values[name])) {
			m.Values[unit] = result.Summary(values[name][unit])
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		return nil, errors.New("read go benchmarks: there is none")
	}
	return out, nil
}

// module begins the import paths of what is built.
const module = "github.com/tunmesh/tunmesh/"

// mode is what was asked for, for the document.
func (f *runFlags) mode() string {
	switch {
	case f.everything():
		return "full"
	case f.features:
		return "features"
	case len(f.peers)+len(f.workloads) > 0:
		return "some: " + strings.Join(slices.Concat(f.peers, f.workloads), " ")
	}
	return "quick"
}
