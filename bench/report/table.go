// Package report renders a result.Bench: a table for the terminal, Markdown,
// plots, and the comparison of two. It measures nothing and decides nothing
// about what counts.
package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tunmesh/tunmesh/bench/result"
)

// Table writes every workload with its peers, each with what it does relative to
// base: how many times base is better or worse.
func Table(w io.Writer, b *result.Bench, base string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, l := range b.Workloads {
		fmt.Fprintf(tw, "\n%s: %s\n", l.Name, l.About)
		fmt.Fprintf(tw, "\trate/s\tper pair CPU-s\t%s ×\tper machine CPU-s\t%s ×\tp50 µs\tp99 µs\tadded p50\tadded p99\tMB client\tMB server\tallocs\truns\t\n", base, base)
		for _, p := range b.Peers {
			c := b.Cell(l.Name, p.Name)
			if c == nil {
				continue
			}
			rate := number(c, result.Rate)
			if _, ok := c.Metrics[result.Gbit]; ok {
				rate = number(c, result.Gbit) + " Gbit"
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", p.Name, rate,
				number(c, result.PerPair), ratio(b, l.Name, base, p.Name, result.PerPair),
				number(c, result.PerMachine), ratio(b, l.Name, base, p.Name, result.PerMachine),
				number(c, result.P50), number(c, result.P99), number(c, result.AddedP50), number(c, result.AddedP99),
				number(c, result.ClientRSS), number(c, result.ServerRSS), number(c, result.Allocs), runs(c))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if f := featured(b); f != nil {
		fmt.Fprintln(w, "\nWHAT EACH FEATURE COSTS (CPU time of both sidecars for a request or connection)")
		if err := Features(w, f, base); err != nil {
			return err
		}
	}
	if err := verdicts(w, b, base); err != nil {
		return err
	}
	return notes(w, b)
}

// verdicts are the goals that can be judged.
func verdicts(w io.Writer, b *result.Bench, base string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	first := true
	for _, v := range b.Judge(base, result.Goals()) {
		if !v.Known {
			continue
		}
		if first {
			fmt.Fprintf(tw, "\nGOALS OF %s\tMEASURED\t\n", strings.ToUpper(base))
			first = false
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", v.Goal, digits(v.Value), v.Words())
	}
	return tw.Flush()
}

// notes are what a reader has to know besides.
func notes(w io.Writer, b *result.Bench) error {
	var s strings.Builder
	s.WriteString("\nMedians; ± is half of min to max. × says how many times as much is carried as by the peer of the line.\n")
	fmt.Fprintf(&s, "The rest of the machine used %.2f CPUs (%.2f to %.2f) during the runs.\n", b.Noise.Median, b.Noise.Min, b.Noise.Max)
	for _, k := range b.Failures {
		fmt.Fprintf(&s, "FAILED: %s through %s, round %d: %s\n", k.Workload, k.Peer, k.Round+1, k.Why)
	}
	leftOut(func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }, b)
	for _, k := range b.Skipped {
		fmt.Fprintf(&s, "Skipped %s: %s\n", k.Name, k.Why)
	}
	_, err := io.WriteString(w, s.String())
	return err
}

func runs(c *result.Cell) string {
	s := fmt.Sprint(c.Runs)
	if c.Noisy {
		s += " (noisy)"
	}
	if c.LeftOut > 0 {
		s += fmt.Sprintf(" (%d left out)", c.LeftOut)
	}
	if c.Failed > 0 {
		s += fmt.Sprintf(" %d FAILED", c.Failed)
	}
	return s
}

// number is a metric's median with its spread; a dash when it was not measured.
func number(c *result.Cell, metric string) string {
	v, ok := c.Metrics[metric]
	if !ok {
		return "–"
	}
	s := digits(v.Median)
	if v.N > 1 && v.Median != 0 {
		s += fmt.Sprintf(" ±%.0f%%", 100*v.Spread())
	}
	return s
}

// digits writes three to four significant ones.
func digits(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// ratio says how many times as good base is as a peer; empty for base itself.
func ratio(b *result.Bench, workload, base, peer, metric string) string {
	if base == peer {
		return ""
	}
	r, ok := Ratio(b, workload, base, peer, metric)
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f", r)
}

// Ratio is how many times as good base is as a peer, by the medians.
func Ratio(b *result.Bench, workload, base, peer, metric string) (float64, bool) {
	m, known := result.MetricNamed(metric)
	mine, ok1 := b.Get(workload, base, metric)
	other, ok2 := b.Get(workload, peer, metric)
	if !known || !ok1 || !ok2 || mine.Median <= 0 || other.Median <= 0 {
		return 0, false
	}
	if m.Less {
		return other.Median / mine.Median, true
	}
	return mine.Median / other.Median, true
}
