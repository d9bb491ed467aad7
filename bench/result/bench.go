package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// Format of a Bench. A reader refuses another.
const Format = 1

// Bench is a comparison of peers: everything needed to read it and to repeat it.
type Bench struct {
	Format  int       `json:"format"`
	Began   time.Time `json:"began"`
	Took    float64   `json:"took_s"`
	Command []string  `json:"command"`
	// Commit of the source that tunmesh was built from.
	Commit    string            `json:"commit"`
	Machine   map[string]string `json:"machine"`
	Settings  map[string]string `json:"settings"`
	Peers     []Peer            `json:"peers"`
	Skipped   []Skipped         `json:"skipped"`
	LeftOut   []LeftOut         `json:"leftOut"`
	Failures  []Failure         `json:"failures"`
	Workloads []Workload        `json:"workloads"`
	// Noise is what the rest of the machine did: CPUs used by others, per run.
	Noise Stat   `json:"noise"`
	Runs  []Run  `json:"runs"`
	Cells []Cell `json:"cells"`
	// Benchmarks are Go's, of what no run of programs can tell.
	Benchmarks []Benchmark `json:"benchmarks,omitempty"`
	// Net is one hop of opaque TCP beside relays.
	Net *Document `json:"net,omitempty"`
	// Features is what each feature costs alone, measured after the peers.
	Features *Bench `json:"features,omitempty"`
}

// LeftOut is a workload that a peer was not asked for.
type LeftOut struct {
	Workload string `json:"workload"`
	Peer     string `json:"peer"`
	Why      string `json:"why"`
}

// Benchmark is a Go benchmark's figures, medians by unit: ns/op, allocs/op.
type Benchmark struct {
	Name   string          `json:"name"`
	Values map[string]Stat `json:"values"`
}

// Peer is one that was measured.
type Peer struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Setup   string `json:"setup"`
	MTLS    bool   `json:"mtls"`
	// Feature is what it has, or lacks, more than the peer beside which it tells
	// what that costs.
	Feature string `json:"feature,omitempty"`
	// Beside is that peer.
	Beside string `json:"beside,omitempty"`
	// Proofs are what was shown before anything was measured.
	Proofs []string `json:"proofs"`
	Idle   []Side   `json:"idle,omitempty"`
}

// Skipped is a peer that was asked for and could not be measured.
type Skipped struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Failure is a workload that broke through a peer. It is not tried again.
type Failure struct {
	Workload string `json:"workload"`
	Peer     string `json:"peer"`
	Round    int    `json:"round"`
	Why      string `json:"why"`
}

// Workload is one way to load a peer.
type Workload struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Unit of what is counted: requests, round trips, connections, GB.
	Unit string `json:"unit"`
	// Main is the metric that tells most about it.
	Main string `json:"main"`
}

// Side is one process of a pair during a run.
type Side struct {
	Side      string  `json:"side"`
	CPU       float64 `json:"cpu_s,omitempty"`
	Resident  int64   `json:"residentBytes"` // the most that was seen
	Anonymous int64   `json:"anonymousBytes"`
	// Allocs are objects allocated on the heap, Instructions those retired; nil:
	// nobody could say.
	Allocs       *uint64 `json:"allocs,omitempty"`
	Instructions *uint64 `json:"instructions,omitempty"`
	// Series are the lines of its metrics at the end.
	Series uint64 `json:"series,omitempty"`
}

// Cell is a workload through a peer: its metrics over the runs that count.
type Cell struct {
	Workload string          `json:"workload"`
	Peer     string          `json:"peer"`
	Runs     int             `json:"runs"`
	LeftOut  int             `json:"leftOut,omitempty"`
	Noisy    bool            `json:"noisy,omitempty"`  // no round was quiet: all count
	Failed   uint64          `json:"failed,omitempty"` // answers that were errors, in all runs
	Metrics  map[string]Stat `json:"metrics"`
}

// Metric is a figure of a run.
type Metric struct {
	Name, Unit string
	// Less is better.
	Less bool
	of   func(Run) (float64, bool)
}

// Names of metrics.
const (
	Rate        = "rate"
	Gbit        = "gbit"
	PerPair     = "per-pair-cpu"
	PerMachine  = "per-machine-cpu"
	P50         = "p50"
	P90         = "p90"
	P99         = "p99"
	P999        = "p99.9"
	AddedP50    = "added-p50"
	AddedP99    = "added-p99"
	ClientRSS   = "client-rss"
	ServerRSS   = "server-rss"
	PairSeconds = "pair-cpu"
	// Of both halves of a pair, per request, connection or round trip.
	Allocs       = "allocs"
	Instructions = "instructions"
	PairMicros   = "pair-us"
	// Of the server's sidecar.
	Series = "series"
	// Of whoever looks on, per second.
	Events  = "events"
	Exports = "exports"
)

// Metrics lists all that are read from a run; what is added to direct is not.
func Metrics() []Metric {
	latency := func(name string, of func(Run) float64) Metric {
		return Metric{Name: name, Unit: "µs", Less: true, of: func(r Run) (float64, bool) { v := of(r); return v, v > 0 }}
	}
	memory := func(name string, i int) Metric {
		return Metric{Name: name, Unit: "MB", Less: true, of: func(r Run) (float64, bool) {
			if i >= len(r.Sides) {
				return 0, false
			}
			return float64(r.Sides[i].Resident) / (1 << 20), true
		}}
	}
	each := func(name, unit string, of func(Side) *uint64) Metric {
		return Metric{Name: name, Unit: unit, Less: true, of: func(r Run) (float64, bool) {
			sum := 0.0
			for _, s := range r.Sides {
				v := of(s)
				if v == nil {
					return 0, false
				}
				sum += float64(*v)
			}
			// Of few requests, what else a program does is most.
			return sum / float64(r.Load.All), len(r.Sides) > 0 && r.Load.All >= 1000 && r.Load.AllBytes == 0
		}}
	}
	return []Metric{
		{Name: Rate, Unit: "/s", of: func(r Run) (float64, bool) { return r.Load.Rate, r.Load.Rate > 0 }},
		{Name: Gbit, Unit: "Gbit/s", of: func(r Run) (float64, bool) { return r.Load.Gbit, r.Load.Gbit > 0 }},
		{Name: PerPair, Unit: "per CPU-s", of: func(r Run) (float64, bool) { return per(r, r.CPU.Peer) }},
		{Name: PerMachine, Unit: "per CPU-s", of: func(r Run) (float64, bool) { return per(r, r.CPU.Ours) }},
		latency(P50, func(r Run) float64 { return r.Load.P50 }),
		latency(P90, func(r Run) float64 { return r.Load.P90 }),
		latency(P99, func(r Run) float64 { return r.Load.P99 }),
		latency(P999, func(r Run) float64 { return r.Load.P999 }),
		memory(ClientRSS, 0), memory(ServerRSS, 1),
		each(Allocs, "per request", func(s Side) *uint64 { return s.Allocs }),
		each(Instructions, "per request", func(s Side) *uint64 { return s.Instructions }),
		{Name: PairMicros, Unit: "µs per request", Less: true, of: func(r Run) (float64, bool) {
			v, ok := per(r, r.CPU.Peer)
			return 1e6 / v, ok && r.Load.AllBytes == 0
		}},
		{Name: Series, Unit: "series", Less: true, of: func(r Run) (float64, bool) {
			if len(r.Sides) < 2 || r.Sides[1].Series == 0 {
				return 0, false
			}
			return float64(r.Sides[1].Series), true
		}},
		seen(Events), seen(Exports),
		{Name: PairSeconds, Unit: "CPUs", Less: true, of: func(r Run) (float64, bool) { return r.CPU.Peer / r.CPU.Elapsed, r.CPU.Peer > 0 && r.CPU.Elapsed > 0 }},
	}
}

// seen is what those saw who look on.
func seen(name string) Metric {
	return Metric{Name: name, Unit: "/s", of: func(r Run) (float64, bool) {
		n, ok := r.Seen[name]
		return float64(n) / r.CPU.Elapsed, ok && r.CPU.Elapsed > 0
	}}
}

// per is how much work was done with so much CPU: requests, or GB.
func per(r Run, cpu float64) (float64, bool) {
	// Below 20 ticks of the kernel's accounting there is nothing to divide by.
	if cpu < 0.2 {
		return 0, false
	}
	if r.Load.AllBytes > 0 {
		return float64(r.Load.AllBytes) / 1e9 / cpu, true
	}
	return float64(r.Load.All) / cpu, r.Load.All > 0
}

// MetricNamed finds a metric; those added to direct are known too.
func MetricNamed(name string) (Metric, bool) {
	if name == AddedP50 || name == AddedP99 {
		return Metric{Name: name, Unit: "µs", Less: true}, true
	}
	for _, m := range Metrics() {
		if m.Name == name {
			return m, true
		}
	}
	return Metric{}, false
}

// Fill makes the cells of runs, in the order in which they first appear. A round
// in which any peer's run was noisy is left out for all of them, so that what is
// compared was measured under the same conditions; where no round was quiet, all
// count. direct names the peer that has nothing in between.
func (b *Bench) Fill(direct string) {
	b.Cells = nil
	counted := counting(b.Runs)
	type key struct{ workload, peer string }
	cells := map[key]*Cell{}
	var order []key
	values := map[key]map[string][]float64{}
	var noise []float64
	for _, r := range b.Runs {
		k := key{r.Workload, r.Peer}
		c := cells[k]
		if c == nil {
			c = &Cell{Workload: r.Workload, Peer: r.Peer, Metrics: map[string]Stat{}}
			cells[k], values[k] = c, map[string][]float64{}
			order = append(order, k)
		}
		c.Failed += r.Load.Failed
		if r.CPU.Elapsed > 0 {
			noise = append(noise, r.CPU.Others())
		}
		if !counted(r) {
			c.LeftOut++
			continue
		}
		c.Runs++
		c.Noisy = c.Noisy || r.Noisy
		for _, m := range Metrics() {
			if v, ok := m.of(r); ok {
				values[k][m.Name] = append(values[k][m.Name], v)
			}
		}
		for added, of := range map[string]func(Run) float64{AddedP50: func(r Run) float64 { return r.Load.P50 }, AddedP99: func(r Run) float64 { return r.Load.P99 }} {
			if d, ok := b.run(r.Workload, direct, r.Round); ok && r.Peer != direct && of(r) > 0 {
				values[k][added] = append(values[k][added], of(r)-of(d))
			}
		}
	}
	for _, k := range order {
		for name, v := range values[k] {
			cells[k].Metrics[name] = Summary(v)
		}
		b.Cells = append(b.Cells, *cells[k])
	}
	b.Noise = Summary(noise)
	if b.Features != nil {
		b.Features.Fill(direct)
	}
}

func (b *Bench) run(workload, peer string, round int) (Run, bool) {
	i := slices.IndexFunc(b.Runs, func(r Run) bool { return r.Workload == workload && r.Peer == peer && r.Round == round })
	if i < 0 {
		return Run{}, false
	}
	return b.Runs[i], true
}

// counting tells which runs count.
func counting(runs []Run) func(Run) bool {
	type round struct {
		workload string
		n        int
	}
	spoilt, quiet := map[round]bool{}, map[string]bool{}
	for _, r := range runs {
		if r.Noisy {
			spoilt[round{r.Workload, r.Round}] = true
		}
	}
	for _, r := range runs {
		if !spoilt[round{r.Workload, r.Round}] {
			quiet[r.Workload] = true
		}
	}
	return func(r Run) bool { return !quiet[r.Workload] || !spoilt[round{r.Workload, r.Round}] }
}

// Values are a metric's of the runs that count.
func (b *Bench) Values(workload, peer, metric string) []float64 {
	m, ok := MetricNamed(metric)
	if !ok || m.of == nil {
		return nil
	}
	counted := counting(b.Runs)
	var out []float64
	for _, r := range b.Runs {
		if r.Workload == workload && r.Peer == peer && counted(r) {
			if v, ok := m.of(r); ok {
				out = append(out, v)
			}
		}
	}
	return out
}

// Cell finds one; nil when it was not measured.
func (b *Bench) Cell(workload, peer string) *Cell {
	for i := range b.Cells {
		if b.Cells[i].Workload == workload && b.Cells[i].Peer == peer {
			return &b.Cells[i]
		}
	}
	return nil
}

// Get is a metric of a cell.
func (b *Bench) Get(workload, peer, metric string) (Stat, bool) {
	c := b.Cell(workload, peer)
	if c == nil {
		return Stat{}, false
	}
	s, ok := c.Metrics[metric]
	return s, ok
}

// Write writes the document.
func (b *Bench) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(b)
}

// Read reads a document.
func Read(path string) (*Bench, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b Bench
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if b.Format != Format {
		return nil, fmt.Errorf("read %s: format %d, this program reads %d: measure again", path, b.Format, Format)
	}
	if len(b.Cells) == 0 {
		return nil, fmt.Errorf("read %s: %w", path, errors.New("nothing was measured"))
	}
	return &b, nil
}
