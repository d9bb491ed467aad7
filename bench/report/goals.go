package report

import (
	"fmt"
	"strings"

	"github.com/tunmesh/tunmesh/bench/result"
)

// goals is the table of what is to be reached, with all peers side by side.
func goals(say func(string, ...any), b *result.Bench, base string) {
	var others []string
	for _, p := range b.Peers {
		if p.Name != base && p.MTLS {
			others = append(others, p.Name)
		}
	}
	var lines, unknown []string
	met, all := 0, 0
	for _, v := range b.Judge(base, result.Goals()) {
		if !v.Known {
			unknown = append(unknown, v.Goal.String())
			continue
		}
		all++
		verdict := "**" + v.Words() + "**"
		if v.OK {
			met++
			verdict = v.Words()
		}
		lines = append(lines, "| "+strings.Join(append(goalCells(b, v, base, others), v.Wanted(), reached(v), verdict), " | ")+" |")
	}
	if len(lines) == 0 {
		return
	}
	say("\n## Goals\n\n%d of %d are met. *reached* is the figure, or its ratio to the other peer's, as a multiple of what is wanted: 1.00 and above is enough.\n", met, all)
	say("| figure | unit | %s | %s | wanted | reached | |\n| --- | --- | ---: |%s ---: | ---: | --- |\n%s", base, strings.Join(others, " | "), strings.Repeat(" ---: |", len(others)), strings.Join(lines, "\n"))
	if len(unknown) > 0 {
		say("\nNot measured in this run: %s.", strings.Join(unknown, "; "))
	}
}

// goalCells are a goal's name and unit, the judged peer's figure and the others'.
func goalCells(b *result.Bench, v result.Verdict, base string, others []string) []string {
	who := base
	if v.Peer != "" {
		who = v.Peer
	}
	what := v.What()
	if v.From == result.Net { // whose peers have no column
		if f, ok := b.Figure(v.Goal, v.Against); ok {
			what += fmt.Sprintf(" (%s: %s)", v.Against, digits(f))
		}
	}
	mine, _ := b.Figure(v.Goal, who)
	cells := []string{what, unit(v.Goal), digits(mine)}
	for _, p := range others {
		f, ok := b.Figure(v.Goal, p)
		if ok && v.Peer == "" && v.From == result.Cells {
			cells = append(cells, digits(f))
		} else {
			cells = append(cells, "–")
		}
	}
	return cells
}

func unit(g result.Goal) string {
	switch {
	case g.Metric == result.IdleRSS:
		return "MB"
	case g.From == result.Net:
		return map[string]string{"rate": "/s", "machineCPU": "µs", "gbit": "Gbit/s"}[g.Metric]
	case g.From == result.Benchmarks:
		return g.Metric
	}
	m, _ := result.MetricNamed(g.Metric)
	return m.Unit
}

func reached(v result.Verdict) string {
	if v.Bound == 0 {
		return "–"
	}
	return digits(v.Reached()) + " ×"
}
