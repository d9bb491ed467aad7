// Package result is what a measurement says: single runs, their medians, and
// the limits that those are held against. It measures nothing.
package result

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tunmesh/tunmesh/bench/load"
)

// Run is one workload once, through one peer.
type Run struct {
	Workload string      `json:"workload"`
	Peer     string      `json:"peer"`
	Round    int         `json:"round"`
	Load     load.Result `json:"load"`
	CPU      CPU         `json:"cpu"`
	Hop      *Hop        `json:"hop,omitempty"`
	Sides    []Side      `json:"sides,omitempty"` // of a pair of sidecars
	// Seen is what those counted who look on: events of a tap, exports of spans.
	Seen map[string]uint64 `json:"seen,omitempty"`
	// Noisy: other processes of the machine used more than a third of a CPU.
	Noisy bool `json:"noisy,omitempty"`
}

// CPU is seconds of processor time over the life of the load.
type CPU struct {
	Elapsed float64 `json:"elapsed"`
	Peer    float64 `json:"peer"`
	// Ours is the whole chain: both ends of the load, the peer, and the kernel's
	// network threads. It is what the machine spent on the measurement.
	Ours float64 `json:"ours"`
	// Machine is all busy time; what exceeds Ours was somebody else's.
	Machine float64 `json:"machine"`
	// Stolen is what a hypervisor gave to others; processes are charged for it.
	Stolen float64 `json:"stolen,omitempty"`
}

// Others is how many CPUs other processes of the machine used.
func (c CPU) Others() float64 { return max(0, c.Machine+c.Stolen-c.Ours) / c.Elapsed }

// Hop is what a stack said about a run.
type Hop struct {
	Retransmits uint64 `json:"retransmits"`
	Timeouts    uint64 `json:"timeouts"`
	Drops       uint64 `json:"drops"`     // by the stack, for any reason
	RingDrops   uint64 `json:"ringDrops"` // by the TUNs' rings
	WriteErrors uint64 `json:"writeErrors"`
	// Packets from and to each side: what a round trip costs in reads and writes.
	AppRead     uint64 `json:"appRead"`
	AppWritten  uint64 `json:"appWritten"`
	WireRead    uint64 `json:"wireRead"`
	WireWritten uint64 `json:"wireWritten"`
	AcksMerged  uint64 `json:"acksMerged"`
	Resident    int64  `json:"residentBytes"`
	Anonymous   int64  `json:"anonymousBytes"`
}

// Since is what happened after before. Memory is as it is.
func (h Hop) Since(before Hop) Hop {
	h.Retransmits -= before.Retransmits
	h.Timeouts -= before.Timeouts
	h.Drops -= before.Drops
	h.RingDrops -= before.RingDrops
	h.WriteErrors -= before.WriteErrors
	h.AppRead -= before.AppRead
	h.AppWritten -= before.AppWritten
	h.WireRead -= before.WireRead
	h.WireWritten -= before.WireWritten
	h.AcksMerged -= before.AcksMerged
	return h
}

// Figures are the medians of a workload through a peer, over its quiet runs, or
// over all when none was quiet.
type Figures struct {
	Workload    string  `json:"workload"`
	Peer        string  `json:"peer"`
	Runs        int     `json:"runs"`
	LeftOut     int     `json:"leftOut"`
	P50         float64 `json:"p50_us,omitempty"`
	P99         float64 `json:"p99_us,omitempty"`
	Rate        float64 `json:"rate,omitempty"`
	PeerCPU     float64 `json:"peerCPU_us,omitempty"`    // per round trip or connection
	MachineCPU  float64 `json:"machineCPU_us,omitempty"` // the same, of Ours
	Gbit        float64 `json:"gbit,omitempty"`
	Retransmits uint64  `json:"retransmits"` // summed over all runs, both ends
	Drops       uint64  `json:"drops"`       // the same
	Resident    int64   `json:"residentBytes,omitempty"`
}

// Limit holds one figure of a peer against another peer's.
type Limit struct {
	Name     string  `json:"name"`
	Workload string  `json:"workload"`
	Peer     string  `json:"peer"`
	Against  string  `json:"against,omitempty"` // empty: Bound is absolute
	Figure   string  `json:"figure"`
	AtMost   bool    `json:"atMost"` // else at least
	Bound    float64 `json:"bound"`
	Value    float64 `json:"value"`
	OK       bool    `json:"ok"`
}

// Document is a whole measurement.
type Document struct {
	Workload string            `json:"workload"`
	Machine  map[string]string `json:"machine"`
	Settings map[string]string `json:"settings"`
	Figures  []Figures         `json:"figures"`
	Limits   []Limit           `json:"limits"`
	Runs     []Run             `json:"runs"`
}

// Summarise makes the figures of runs, in the order in which they first appear.
// A round in which any peer's run was noisy is left out for all of them, so that
// what is compared was measured under the same conditions; where no round was
// quiet, all count.
func Summarise(runs []Run) (out []Figures) {
	type key struct{ workload, peer string }
	type round struct {
		workload string
		n        int
	}
	by, spoilt, quiet := map[key][]Run{}, map[round]bool{}, map[string]bool{}
	var order []key
	for _, r := range runs {
		k := key{r.Workload, r.Peer}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], r)
		if r.Noisy {
			spoilt[round{r.Workload, r.Round}] = true
		}
	}
	for _, r := range runs {
		if !spoilt[round{r.Workload, r.Round}] {
			quiet[r.Workload] = true
		}
	}
	for _, k := range order {
		counted := by[k]
		if quiet[k.workload] {
			counted = slices.DeleteFunc(slices.Clone(counted), func(r Run) bool { return spoilt[round{r.Workload, r.Round}] })
		}
		out = append(out, summarise(by[k], counted))
	}
	return out
}

// summarise makes the figures of the runs that count, and the sums of all.
func summarise(all, runs []Run) Figures {
	f := Figures{Workload: all[0].Workload, Peer: all[0].Peer, Runs: len(runs), LeftOut: len(all) - len(runs)}
	f.P50 = median(runs, func(r Run) float64 { return r.Load.P50 })
	f.P99 = median(runs, func(r Run) float64 { return r.Load.P99 })
	f.Rate = median(runs, func(r Run) float64 { return r.Load.Rate })
	f.Gbit = median(runs, func(r Run) float64 { return r.Load.Gbit })
	each := func(cpu float64, r Run) float64 {
		if r.Load.All == 0 {
			return 0
		}
		return cpu * 1e6 / float64(r.Load.All)
	}
	f.PeerCPU = median(runs, func(r Run) float64 { return each(r.CPU.Peer, r) })
	f.MachineCPU = median(runs, func(r Run) float64 { return each(r.CPU.Ours, r) })
	for _, r := range all {
		f.Retransmits += r.Load.Retransmits
		if r.Hop != nil {
			f.Retransmits += r.Hop.Retransmits
			f.Drops += r.Hop.RingDrops + r.Hop.WriteErrors
			f.Resident = max(f.Resident, r.Hop.Resident)
		}
	}
	return f
}

func median(runs []Run, of func(Run) float64) float64 {
	v := make([]float64, len(runs))
	for i, r := range runs {
		v[i] = of(r)
	}
	slices.Sort(v)
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// Judge fills in the limits' values. A figure that was not measured fails.
func Judge(limits []Limit, figures []Figures) []Limit {
	out := slices.Clone(limits)
	for i := range out {
		l := &out[i]
		mine, ok := find(figures, l.Workload, l.Peer, l.Figure)
		other := 1.0
		if ok && l.Against != "" {
			other, ok = find(figures, l.Workload, l.Against, l.Figure)
			ok = ok && other > 0
		}
		if !ok {
			continue
		}
		l.Value = mine / other
		l.OK = cmp.Compare(l.Value, l.Bound) <= 0 == l.AtMost || l.Value == l.Bound
	}
	return out
}

func find(figures []Figures, workload, peer, figure string) (float64, bool) {
	for _, f := range figures {
		if f.Workload != workload || f.Peer != peer {
			continue
		}
		v := map[string]float64{
			"p50": f.P50, "p99": f.P99, "rate": f.Rate, "gbit": f.Gbit, "peerCPU": f.PeerCPU,
			"machineCPU": f.MachineCPU, "drops": float64(f.Drops), "resident": float64(f.Resident),
		}
		got, ok := v[figure]
		return got, ok
	}
	return 0, false
}

// Table writes the figures and limits for people.
func (d *Document) Table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "workload\tpeer\tp50 µs\tp99 µs\trate/s\tGbit/s\tpeer µs\tmachine µs\tretrans\tdrops\truns\t")
	for _, f := range d.Figures {
		runs := fmt.Sprint(f.Runs)
		if f.LeftOut > 0 {
			runs += fmt.Sprintf(" (%d noisy)", f.LeftOut)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t\n", f.Workload, f.Peer, num(f.P50), num(f.P99), num(f.Rate), num(f.Gbit), num(f.PeerCPU), num(f.MachineCPU), f.Retransmits, f.Drops, runs)
	}
	fmt.Fprintln(tw)
	for _, l := range d.Limits {
		verdict, sign := "MISSED", "≥"
		if l.OK {
			verdict = "met"
		}
		if l.AtMost {
			sign = "≤"
		}
		fmt.Fprintf(tw, "%s\t%.3f %s %.2f\t%s\t\n", l.Name, l.Value, sign, l.Bound, verdict)
	}
	return tw.Flush()
}

func num(v float64) string {
	switch {
	case v == 0:
		return "–"
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
}
