package report

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/bench/result"
)

// Files of a report's folder.
const (
	MarkdownFile = "report.md"
	JSONFile     = "bench.json"
)

// Write makes a folder with the document, the report and its plots.
func Write(dir string, b *result.Bench, base string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var js strings.Builder
	if err := b.Write(&js); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, JSONFile), []byte(js.String()), 0o644); err != nil {
		return err
	}
	plots, err := Plots(dir, b, base)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, MarkdownFile), []byte(Markdown(b, base, plots)), 0o644)
}

// Markdown is the report. plots are the names of pictures beside it.
func Markdown(b *result.Bench, base string, plots []Plot) string {
	var s strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	say("# %s beside other proxies\n", base)
	say("Measured %s, commit %s, in %.0f minutes, by `%s`. Medians of the rounds; ± is half of min to max.", b.Began.Format("2006-01-02 15:04 MST"), b.Commit, b.Took/60, strings.Join(b.Command, " "))
	say("The rest of the machine used %.2f CPUs in the median run (%.2f to %.2f); a round with 0.35 or more is left out for all peers where another was quiet.\n", b.Noise.Median, b.Noise.Min, b.Noise.Max)
	pairs(say, "Machine", b.Machine)
	pairs(say, "Settings", b.Settings)
	say("## Peers\n")
	for _, p := range b.Peers {
		name := p.Name
		if p.Version != "" {
			name += " " + p.Version
		}
		say("* **%s**: %s. Proved: %s.", name, p.Setup, strings.Join(p.Proofs, "; "))
	}
	for _, k := range b.Skipped {
		say("* %s was skipped: %s", k.Name, k.Why)
	}
	leftOut(say, b)
	for _, k := range b.Failures {
		say("* **%s through %s failed** in round %d: %s", k.Workload, k.Peer, k.Round+1, k.Why)
	}
	goals(say, b, base)
	for _, p := range plots {
		say("\n![%s](%s)", p.Title, p.File)
	}
	say("\n## Workloads\n")
	say("*per pair CPU-s* is what one CPU second of both sidecars carries; *per machine CPU-s* counts client, application and the kernel's network threads too.")
	say("In both, × says how many times as much %s carries. *added* is to direct, round by round.", base)
	for _, w := range b.Workloads {
		workload(say, b, w, base)
	}
	if f := featured(b); f != nil {
		say("\n## What each feature costs\n\n```\n%s```", written(func(w io.Writer) error { return Features(w, f, base) }))
	}
	if b.Net != nil {
		say("\n## One hop of bytes\n\nA netstack between two TUNs and relays on kernel sockets, without TLS. *peer* and *machine* are CPU time of one round trip or connection.\n\n```\n%s```", written(b.Net.Table))
	}
	if len(b.Benchmarks) > 0 {
		benchmarks(say, b)
	}
	return s.String()
}

func pairs(say func(string, ...any), title string, m map[string]string) {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+": "+m[k])
	}
	say("**%s.** %s.\n", title, strings.Join(parts, "; "))
}

func workload(say func(string, ...any), b *result.Bench, w result.Workload, base string) {
	say("\n### %s\n\n%s.\n", w.Name, w.About)
	say("| peer | rate | per pair CPU-s | × | per machine CPU-s | × | p50 µs | p90 | p99 | p99.9 | added p50 | added p99 | MB client | MB server | allocs | runs |")
	say("| --- |%s", strings.Repeat(" ---: |", 15))
	for _, p := range b.Peers {
		c := b.Cell(w.Name, p.Name)
		if c == nil {
			continue
		}
		rate := number(c, result.Rate)
		if _, ok := c.Metrics[result.Gbit]; ok {
			rate = number(c, result.Gbit) + " Gbit/s"
		}
		cols := []string{p.Name, rate, number(c, result.PerPair), ratio(b, w.Name, base, p.Name, result.PerPair), number(c, result.PerMachine), ratio(b, w.Name, base, p.Name, result.PerMachine)}
		for _, m := range []string{result.P50, result.P90, result.P99, result.P999, result.AddedP50, result.AddedP99, result.ClientRSS, result.ServerRSS, result.Allocs} {
			cols = append(cols, number(c, m))
		}
		say("| %s | %s |", strings.Join(cols, " | "), runs(c))
	}
}

// leftOut says which peers were not asked for what, and why.
func leftOut(say func(string, ...any), b *result.Bench) {
	by := map[string][]string{}
	var order []string
	for _, l := range b.LeftOut {
		k := l.Peer + ": " + l.Why
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], l.Workload)
	}
	for _, k := range order {
		say("* Left out, %s: %s", k, strings.Join(by[k], ", "))
	}
}

// benchmarks is the table of Go's.
func benchmarks(say func(string, ...any), b *result.Bench) {
	say("\n## Go benchmarks\n\nIn one process, without TCP and the kernel; *Exchange* and *Observers* are requests through two sidecars, with mTLS and both ends.\n")
	say("| benchmark | ns/op | B/op | allocs/op |\n| --- | ---: | ---: | ---: |")
	for _, m := range b.Benchmarks {
		cols := []string{m.Name}
		for _, u := range []string{"ns/op", "B/op", "allocs/op"} {
			v, ok := m.Values[u]
			if !ok {
				cols = append(cols, "–")
				continue
			}
			cols = append(cols, digits(v.Median))
		}
		say("| %s |", strings.Join(cols, " | "))
	}
}

// written is what f writes; a strings.Builder takes everything.
func written(f func(io.Writer) error) string {
	var s strings.Builder
	_ = f(&s)
	return s.String()
}
