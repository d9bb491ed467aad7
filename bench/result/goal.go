package result

import "fmt"

// Goal is what a peer is to reach in a workload.
type Goal struct {
	Workload, Metric string
	// Peer is whose figure it is, when not that of the peer that is judged.
	Peer string
	// Against is the peer whose figure is the measure; empty: Bound is absolute.
	Against string
	// AtMost: the less the better; else at least.
	AtMost bool
	Bound  float64
	// From is where the figure is.
	From Source
}

// Source is a part of a document.
type Source uint8

// The sources.
const (
	Cells      Source = iota // Workload is a workload
	Benchmarks               // Workload is a Go benchmark, Metric its unit
	Net                      // Workload and Metric are of Bench.Net
)

// Verdict is a goal with what was measured.
type Verdict struct {
	Goal
	// Known: all that is needed was measured.
	Known, OK bool
	// Noisy: the machine was never quiet meanwhile.
	Noisy bool
	// Value is the figure, or its ratio to the other peer's.
	Value float64
}

// IdleRSS is a metric of a peer rather than of a workload: the resident memory of
// its larger half before anything was asked of it, in MB.
const IdleRSS = "idle-rss"

// Goals are the project's.
func Goals() []Goal {
	const envoy, haproxy = "envoy", "haproxy"
	goals := []Goal{}
	for _, w := range []string{"h1-1", "h1-16", "h1-64", "h2"} {
		goals = append(goals, Goal{Workload: w, Metric: PerPair, Against: envoy, Bound: 2})
	}
	goals = append(goals,
		Goal{Workload: "grpc", Metric: PerPair, Against: envoy, Bound: 2.6},
		Goal{Workload: "grpc", Metric: PerPair, Against: haproxy, Bound: 1},
		Goal{Workload: "echo-64", Metric: PerPair, Against: envoy, Bound: 1.25},
		Goal{Workload: "connect", Metric: Rate, Against: envoy, Bound: 2},
		Goal{Workload: "bulk-1", Metric: Gbit, Against: envoy, Bound: 0.8},
		Goal{Workload: "open-1k", Metric: AddedP50, Against: envoy, AtMost: true, Bound: 0.45},
		Goal{Workload: "open-1k", Metric: AddedP99, Against: envoy, AtMost: true, Bound: 0.45},
		Goal{Workload: "open-1k", Metric: AddedP99, AtMost: true, Bound: 1000},
	)
	for _, w := range []string{"h1-1", "h1-16", "h1-64", "h2", "grpc"} {
		goals = append(goals, Goal{Workload: w, Metric: PerMachine, Against: envoy, Bound: 1.5})
	}
	goals = append(goals,
		Goal{Metric: IdleRSS, AtMost: true, Bound: 10},
		Goal{Workload: "h1-64", Metric: ClientRSS, AtMost: true, Bound: 20},
		Goal{Workload: "h1-64", Metric: ServerRSS, AtMost: true, Bound: 20},
		Goal{Workload: "idle-1k", Metric: ClientRSS, AtMost: true, Bound: 25},
		Goal{Workload: "idle-1k", Metric: ServerRSS, AtMost: true, Bound: 25},
		Goal{Workload: "h1-16", Metric: ClientRSS, Peer: "tunmesh-10000-endpoints", AtMost: true, Bound: 30},
		Goal{From: Benchmarks, Workload: "Choice/endpoints=10000/active=256/weighted=false", Metric: "ns/op", AtMost: true, Bound: 100},
		Goal{From: Benchmarks, Workload: "Scrape/openmetrics=true/gzip=true", Metric: "ns/op", AtMost: true, Bound: 20e6},
		Goal{Workload: "open-10k", Metric: Rate, Peer: "tunmesh-tapped", Against: "tunmesh", Bound: 0.95},
	)
	for _, w := range []string{"grpc/8x16", "http2/8x16"} {
		goals = append(goals, Goal{From: Benchmarks, Workload: "Exchange/" + w, Metric: "allocs/op", AtMost: true, Bound: 0})
	}
	goals = append(goals, Goal{From: Benchmarks, Workload: "Exchange/http1/16", Metric: "allocs/op", AtMost: true, Bound: 2})
	const netstack, relay = "netstack", "relay-64k"
	return append(goals,
		Goal{From: Net, Workload: "ping-64", Metric: "rate", Peer: netstack, Against: relay, Bound: 0.9},
		Goal{From: Net, Workload: "ping-64", Metric: "machineCPU", Peer: netstack, Against: relay, AtMost: true, Bound: 1},
		Goal{From: Net, Workload: "bulk-1-rps", Metric: "gbit", Peer: netstack, Against: relay, Bound: 0.7},
	)
}

// Judge holds a peer against goals.
func (b *Bench) Judge(peer string, goals []Goal) []Verdict {
	var out []Verdict
	for _, g := range goals {
		v := Verdict{Goal: g}
		if g.Peer != "" {
			v.judge(b, g.Peer)
		} else {
			v.judge(b, peer)
		}
		out = append(out, v)
	}
	return out
}

func (v *Verdict) judge(b *Bench, peer string) {
	g := v.Goal
	if c := b.Cell(g.Workload, peer); c != nil && g.From == Cells {
		v.Noisy = c.Noisy
	}
	mine, ok := b.Figure(g, peer)
	v.Known, v.Value = ok, mine
	if g.Against != "" {
		other, known := b.Figure(g, g.Against)
		v.Known = ok && known && other > 0
		if v.Known {
			v.Value = mine / other
		}
	}
	if v.Known {
		v.OK = g.AtMost && v.Value <= g.Bound || !g.AtMost && v.Value >= g.Bound
	}
}

// Figure is what a peer has for a goal's.
func (b *Bench) Figure(g Goal, peer string) (float64, bool) {
	switch {
	case g.From == Benchmarks:
		for _, m := range b.Benchmarks {
			if m.Name == g.Workload {
				s, ok := m.Values[g.Metric]
				return s.Median, ok
			}
		}
		return 0, false
	case g.From == Net && b.Net == nil:
		return 0, false
	case g.From == Net:
		return find(b.Net.Figures, g.Workload, peer, g.Metric)
	case g.Metric != IdleRSS:
		s, ok := b.Get(g.Workload, peer, g.Metric)
		if !ok && b.Features != nil {
			s, ok = b.Features.Get(g.Workload, peer, g.Metric)
		}
		return s.Median, ok
	}
	for _, p := range b.Peers {
		var most int64
		for _, s := range p.Idle {
			most = max(most, s.Resident)
		}
		if p.Name == peer && most > 0 {
			return float64(most) / (1 << 20), true
		}
	}
	return 0, false
}

// Reached is the figure as a part of what is wanted: 1 and above is enough.
func (v Verdict) Reached() float64 {
	switch {
	case !v.AtMost:
		return v.Value / v.Bound
	case v.Value <= 0:
		return 1
	}
	return v.Bound / v.Value
}

// Words are the verdict for people.
func (v Verdict) Words() string {
	if !v.Known {
		return "not measured"
	}
	s := "missed"
	if v.OK {
		s = "met"
	}
	if v.Noisy {
		s += " (noisy)"
	}
	return s
}

// Wanted is what is to be reached.
func (g Goal) Wanted() string {
	sign, against := "≥", ""
	if g.AtMost {
		sign = "≤"
	}
	if g.Against != "" {
		against = " × " + g.Against
	}
	return fmt.Sprintf("%s %g%s", sign, g.Bound, against)
}

// What names the figure.
func (g Goal) What() string {
	where := ""
	if g.Peer != "" {
		where = g.Peer + " "
	}
	if g.Workload != "" {
		where += g.Workload + " "
	}
	return where + g.Metric
}

// String is the goal for people.
func (g Goal) String() string { return g.What() + " " + g.Wanted() }

// Ratios are a peer's figures over another's of the same round, for all rounds
// that count.
func (b *Bench) Ratios(workload, peer, other, metric string) []float64 {
	m, ok := MetricNamed(metric)
	if !ok || m.of == nil {
		return nil
	}
	counted := counting(b.Runs)
	var out []float64
	for _, r := range b.Runs {
		if r.Workload != workload || r.Peer != peer || !counted(r) {
			continue
		}
		mine, ok := m.of(r)
		o, there := b.run(workload, other, r.Round)
		if !ok || !there {
			continue
		}
		if v, ok := m.of(o); ok && v > 0 {
			out = append(out, mine/v)
		}
	}
	return out
}
