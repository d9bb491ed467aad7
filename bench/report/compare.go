package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"

	"github.com/tunmesh/tunmesh/bench/result"
)

// Change is a figure in two documents.
type Change struct {
	Workload, Peer, Metric string
	Old, New               benchmath.Summary
	Less                   bool // is better
	// P is how likely such a difference is by chance (Mann-Whitney U); Few: there
	// are too few runs for it ever to be unlikely.
	P   float64
	Few bool
	// Worse is by how much New is worse, as a part of Old; negative: better.
	Worse float64
	// Bound is what a gate judges it by; nil: by nothing.
	Bound *Bound
	// Noisy: on one side no round was quiet.
	Noisy bool
	delta string
}

// alpha is below which a difference is taken for one.
const alpha = 0.05

// few is how many runs of each side a U test needs to reach alpha.
const few = 4

// Bound is how much worse a figure may be before a gate calls it a regression.
type Bound struct {
	Metric string
	// Worse as a part of what it was, and by how much at least in its unit.
	Worse, Least float64
	// Quiet: what else the machine does changes it, so that it is judged only where
	// both documents have quiet rounds.
	Quiet bool
}

// Bounds lists what depends little on the machine and its day. Ratios are to
// another peer of the same round; they move with kernels and CPUs, and are only
// held against a great loss. Times are not in it.
func Bounds() []Bound {
	return []Bound{
		// With what connections cost at the beginning, shared by as many requests as
		// the machine had time for. What a request allocates when all is warm is
		// TestAllocations' in package tunproxy, to the last object.
		{Metric: result.Allocs, Worse: 0.5, Least: 2},
		{Metric: result.Instructions, Worse: 0.1},
		{Metric: result.IdleRSS, Worse: 0.2, Least: 2},
		{Metric: result.ClientRSS, Worse: 0.2, Least: 2},
		{Metric: result.ServerRSS, Worse: 0.2, Least: 2},
		{Metric: result.PerPair, Worse: 0.35, Quiet: true},
		{Metric: result.PerMachine, Worse: 0.35, Quiet: true},
	}
}

func bound(metric string, ratio bool) *Bound {
	for _, b := range Bounds() {
		if b.Metric == metric && b.Quiet == ratio {
			return &b
		}
	}
	return nil
}

// Compare finds what two documents both measured. Ratios are base's to against.
func Compare(before, after *result.Bench, base, against string) []Change {
	var out []Change
	add := func(c Change, ok bool, workload, peer, metric string, b *Bound) {
		if ok {
			c.Workload, c.Peer, c.Metric, c.Bound = workload, peer, metric, b
			c.Noisy = noisy(before, workload, base) || noisy(after, workload, base)
			out = append(out, c)
		}
	}
	idle := result.Goal{Metric: result.IdleRSS}
	if a, ok := before.Figure(idle, base); ok {
		if b, ok := after.Figure(idle, base); ok {
			c, ok := change([]float64{a}, []float64{b}, true)
			add(c, ok, "idle", base, idle.Metric, bound(idle.Metric, false))
		}
	}
	for _, w := range before.Workloads {
		for _, p := range before.Peers {
			for _, m := range result.Metrics() {
				var judged *Bound
				if p.Name == base {
					judged = bound(m.Name, false)
				}
				c, ok := change(before.Values(w.Name, p.Name, m.Name), after.Values(w.Name, p.Name, m.Name), m.Less)
				add(c, ok, w.Name, p.Name, m.Name, judged)
			}
		}
		for _, name := range []string{result.PerPair, result.PerMachine} {
			c, ok := change(before.Ratios(w.Name, base, against, name), after.Ratios(w.Name, base, against, name), false)
			add(c, ok, w.Name, base+" × "+against, name, bound(name, true))
		}
	}
	return out
}

func noisy(b *result.Bench, workload, peer string) bool {
	c := b.Cell(workload, peer)
	return c != nil && c.Noisy
}

func change(before, after []float64, less bool) (Change, bool) {
	if len(before) == 0 || len(after) == 0 {
		return Change{}, false
	}
	t := benchmath.DefaultThresholds
	t.CompareAlpha = alpha
	a, b := benchmath.NewSample(before, &t), benchmath.NewSample(after, &t)
	c := Change{Old: benchmath.AssumeNothing.Summary(a, 0.95), New: benchmath.AssumeNothing.Summary(b, 0.95)}
	cmp := benchmath.AssumeNothing.Compare(a, b)
	c.Less = less
	c.P, c.Few = cmp.P, min(len(before), len(after)) < few
	c.delta = cmp.FormatDelta(c.Old.Center, c.New.Center)
	if c.Old.Center != 0 {
		c.Worse = (c.Old.Center - c.New.Center) / c.Old.Center
		if less {
			c.Worse = -c.Worse
		}
	}
	return c, true
}

// Regressions are figures that are worse than their bounds allow, and not by
// chance. Where there are too few runs to tell, the medians decide.
func Regressions(changes []Change) []Change {
	var out []Change
	for _, c := range changes {
		b := c.Bound
		if b == nil || b.Quiet && c.Noisy || !c.Few && c.P > alpha {
			continue
		}
		by := c.Old.Center - c.New.Center
		if c.Less {
			by = -by
		}
		if by > b.Least && (c.Old.Center == 0 || c.Worse > b.Worse) {
			out = append(out, c)
		}
	}
	return out
}

// Changes writes what differs; all writes the rest too.
func Changes(w io.Writer, changes []Change, all bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "WORKLOAD\tPEER\tFIGURE\tOLD\tNEW\tDELTA\t")
	anyFew, shown := false, 0
	for _, c := range changes {
		if !all && (c.Old.Center == c.New.Center || c.P > alpha && !c.Few) {
			continue
		}
		shown++
		anyFew = anyFew || c.Few
		delta := c.delta
		if c.Few && c.Old.Center != 0 {
			delta = fmt.Sprintf("%+.1f%% ?", 100*(c.New.Center/c.Old.Center-1))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s p=%.3f\t\n", c.Workload, c.Peer, c.Metric, digits(c.Old.Center), digits(c.New.Center), delta, c.P)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if shown == 0 {
		fmt.Fprintln(w, "no figure differs by more than chance")
	}
	if anyFew {
		fmt.Fprintf(w, "?: fewer than %d runs on a side: chance can not be ruled out\n", few)
	}
	return nil
}
