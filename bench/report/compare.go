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
	// P is how likely such a difference is by chance (Mann-Whitney U); Few: there
	// are too few runs for it ever to be unlikely.
	P   float64
	Few bool
	// Worse is by how much New is worse, as a part of Old; negative: better.
	Worse float64
	// Stable: it depends little on what else the machine did, so that a gate may
	// judge it: memory, and ratios to a peer of the same round.
	Stable bool
	delta  string
}

// alpha is below which a difference is taken for one.
const alpha = 0.05

// few is how many runs of each side a U test needs to reach alpha.
const few = 4

// Compare finds what two documents both measured. Ratios are base's to against.
func Compare(before, after *result.Bench, base, against string) []Change {
	var out []Change
	for _, w := range before.Workloads {
		for _, p := range before.Peers {
			for _, m := range result.Metrics() {
				stable := m.Name == result.ClientRSS || m.Name == result.ServerRSS
				c, ok := change(before.Values(w.Name, p.Name, m.Name), after.Values(w.Name, p.Name, m.Name), m.Less)
				if ok {
					c.Workload, c.Peer, c.Metric, c.Stable = w.Name, p.Name, m.Name, stable && p.Name == base
					out = append(out, c)
				}
			}
		}
		for _, name := range []string{result.PerPair, result.PerMachine} {
			c, ok := change(before.Ratios(w.Name, base, against, name), after.Ratios(w.Name, base, against, name), false)
			if ok {
				c.Workload, c.Peer, c.Metric, c.Stable = w.Name, base+" × "+against, name, true
				out = append(out, c)
			}
		}
	}
	return out
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

// Regressions are stable figures that are worse by more than tolerance and not
// by chance. Where there are too few runs to tell, the medians decide.
func Regressions(changes []Change, tolerance float64) []Change {
	var out []Change
	for _, c := range changes {
		if c.Stable && c.Worse > tolerance && (c.Few || c.P <= alpha) {
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
		anyFew = anyFew || c.Few
		if !all && c.P > alpha && !c.Few {
			continue
		}
		shown++
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
