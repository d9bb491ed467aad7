package result

import "fmt"

// Goal is what a peer is to reach in a workload.
type Goal struct {
	Workload, Metric string
	// Against is the peer whose figure is the measure; empty: Bound is absolute.
	Against string
	// AtMost: the less the better; else at least.
	AtMost bool
	Bound  float64
}

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
	return append(goals,
		Goal{Metric: IdleRSS, AtMost: true, Bound: 10},
		Goal{Workload: "h1-64", Metric: ClientRSS, AtMost: true, Bound: 20},
		Goal{Workload: "h1-64", Metric: ServerRSS, AtMost: true, Bound: 20},
		Goal{Workload: "idle-1k", Metric: ClientRSS, AtMost: true, Bound: 25},
		Goal{Workload: "idle-1k", Metric: ServerRSS, AtMost: true, Bound: 25},
	)
}

// Judge holds a peer against goals.
func (b *Bench) Judge(peer string, goals []Goal) []Verdict {
	var out []Verdict
	for _, g := range goals {
		v := Verdict{Goal: g}
		if c := b.Cell(g.Workload, peer); c != nil {
			v.Noisy = c.Noisy
		}
		mine, ok := b.figure(g, peer)
		v.Known, v.Value = ok, mine
		if g.Against != "" {
			other, known := b.figure(g, g.Against)
			v.Known = ok && known && other > 0
			if v.Known {
				v.Value = mine / other
			}
		}
		if v.Known {
			v.OK = g.AtMost && v.Value <= g.Bound || !g.AtMost && v.Value >= g.Bound
		}
		out = append(out, v)
	}
	return out
}

func (b *Bench) figure(g Goal, peer string) (float64, bool) {
	if g.Metric != IdleRSS {
		s, ok := b.Get(g.Workload, peer, g.Metric)
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

// Words are the verdict for people.
func (v Verdict) Words() string {
	s := "missed"
	if v.OK {
		s = "met"
	}
	if v.Noisy {
		s += " (noisy)"
	}
	return s
}

// String is the goal for people.
func (g Goal) String() string {
	sign, against, where := "≥", "", g.Workload+" "
	if g.AtMost {
		sign = "≤"
	}
	if g.Against != "" {
		against = " × " + g.Against
	}
	if g.Workload == "" {
		where = ""
	}
	return fmt.Sprintf("%s%s %s %g%s", where, g.Metric, sign, g.Bound, against)
}

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
