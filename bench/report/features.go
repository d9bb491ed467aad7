package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tunmesh/tunmesh/bench/result"
)

// featured is the part of a document that tells what features cost; nil: none.
func featured(b *result.Bench) *result.Bench {
	if b.Features != nil {
		return b.Features
	}
	for _, p := range b.Peers {
		if p.Feature != "" {
			return b
		}
	}
	return nil
}

// Features writes what each feature costs alone: CPU time of both sidecars for a
// request, beside a peer that differs in nothing else. MB and SERIES are of the
// server's sidecar, SEEN is what came to somebody who looks on.
func Features(w io.Writer, b *result.Bench, base string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, l := range b.Workloads {
		if i > 0 {
			fmt.Fprintln(tw)
		}
		fmt.Fprintf(tw, "%s: %s\n", l.Name, l.About)
		fmt.Fprintln(tw, "PEER\tRATE/s\tCPU µs\tDIFFERENCE\tTO\tALLOCS\tp50 µs\tp99 µs\tMB\tSERIES\tSEEN/s\tWITH")
		for _, p := range b.Peers {
			c := b.Cell(l.Name, p.Name)
			if c == nil || p.Name != base && p.Feature == "" {
				continue
			}
			diff, to := "", p.Beside
			mine, ok1 := b.Get(l.Name, p.Name, result.PairMicros)
			other, ok2 := b.Get(l.Name, p.Beside, result.PairMicros)
			if ok1 && ok2 {
				diff = fmt.Sprintf("%+.2f µs  %+.0f%%", mine.Median-other.Median, 100*(mine.Median/other.Median-1))
			}
			noise := ""
			if c.Noisy {
				noise = " (noisy)"
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s%s\n", p.Name, number(c, result.Rate), number(c, result.PairMicros), diff, to,
				number(c, result.Allocs), number(c, result.P50), number(c, result.P99), number(c, result.ServerRSS), plain(c, result.Series), looked(c), p.Feature, noise)
		}
	}
	return tw.Flush()
}

// plain is a metric's median alone.
func plain(c *result.Cell, metric string) string {
	v, ok := c.Metrics[metric]
	if !ok {
		return "–"
	}
	return digits(v.Median)
}

// looked is what somebody saw who looks on.
func looked(c *result.Cell) string {
	for _, metric := range []string{result.Events, result.Exports} {
		if _, ok := c.Metrics[metric]; ok {
			return plain(c, metric) + " " + metric
		}
	}
	return ""
}
