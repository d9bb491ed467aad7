package report_test

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/report"
	"github.com/tunmesh/tunmesh/bench/result"
)

// document has rounds of one workload: tunmesh costs what cost says of Envoy's 1.
func document(rounds int, cost float64) *result.Bench {
	b := &result.Bench{
		Format: result.Format, Began: time.Unix(1700000000, 0).UTC(), Took: 60, Commit: "abc", Command: []string{"bench", "run"},
		Machine: map[string]string{"cpu": "one"}, Settings: map[string]string{"rounds": "n"},
		Peers: []result.Peer{
			{Name: "direct", Setup: "nothing", Proofs: []string{"it echoes"}},
			{Name: "tunmesh", Version: "1", Setup: "TUNs", MTLS: true, Idle: []result.Side{{Side: "client", Resident: 9 << 20}, {Side: "server", Resident: 9 << 20}}},
			{Name: "envoy", Version: "2", Setup: "redirect", MTLS: true, Idle: []result.Side{{Side: "client", Resident: 60 << 20}, {Side: "server", Resident: 60 << 20}}},
		},
		Failures:  []result.Failure{{Workload: "bulk-1", Peer: "envoy", Round: 1, Why: "it went away"}},
		Skipped:   []result.Skipped{{Name: "haproxy", Why: "not on this machine"}},
		Workloads: []result.Workload{{Name: "h1-16", About: "HTTP/1.1", Main: result.PerPair}, {Name: "open-1k", About: "open loop", Main: result.AddedP99}},
	}
	for round := range rounds {
		jitter := 1 + 0.01*float64(round)
		for peer, cpu := range map[string]float64{"direct": 0, "tunmesh": cost * jitter, "envoy": jitter} {
			r := result.Run{
				Workload: "h1-16", Peer: peer, Round: round,
				Load: load.Result{All: 10_000, Rate: 10_000, P50: 100 + 100*cpu, P99: 200 + 100*cpu, Histogram: ""},
				CPU:  result.CPU{Elapsed: 1, Peer: cpu, Ours: 1 + cpu, Machine: 1 + cpu},
			}
			if cpu > 0 {
				r.Sides = sides(10<<20, 10_000)
			}
			b.Runs = append(b.Runs, r)
			r.Workload = "open-1k"
			b.Runs = append(b.Runs, r)
		}
	}
	b.Fill("direct")
	return b
}

// sides of a pair that allocated so much each, in 10,000 requests.
func sides(resident int64, allocs uint64) []result.Side {
	return []result.Side{{Side: "client", Resident: resident, Allocs: &allocs}, {Side: "server", Resident: 11 << 20, Allocs: &allocs}}
}

func TestTable(t *testing.T) {
	var s strings.Builder
	if err := report.Table(&s, document(3, 0.25), "tunmesh"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"h1-16: HTTP/1.1", "10,000", "4.00", "Skipped haproxy: not on this machine", "FAILED: bulk-1 through envoy, round 2: it went away", "h1-16 per-pair-cpu ≥ 2 × envoy", "met"} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, s.String())
		}
	}
}

func TestRatio(t *testing.T) {
	b := document(1, 0.25)
	if r, ok := report.Ratio(b, "h1-16", "tunmesh", "envoy", result.PerPair); !ok || r != 4 {
		t.Errorf("per CPU: %v, %v", r, ok)
	}
	// Less is better: half the latency is twice as good.
	if r, ok := report.Ratio(b, "h1-16", "envoy", "tunmesh", result.P50); !ok || r != 125.0/200 {
		t.Errorf("latency: %v, %v", r, ok)
	}
	if _, ok := report.Ratio(b, "h1-16", "tunmesh", "direct", result.PerPair); ok {
		t.Error("direct has no pair")
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	b := document(2, 0.25)
	b.LeftOut = []result.LeftOut{{Workload: "bulk-1", Peer: "envoy", Why: "it is tired"}, {Workload: "bulk-8", Peer: "envoy", Why: "it is tired"}}
	b.Benchmarks = []result.Benchmark{{Name: "Choice/endpoints=10000/active=256/weighted=false", Values: map[string]result.Stat{"ns/op": {Median: 80}}}}
	b.Net = &result.Document{Figures: []result.Figures{{Workload: "ping-64", Peer: "netstack", Rate: 80}, {Workload: "ping-64", Peer: "relay-64k", Rate: 100}}}
	b.Features = document(2, 0.25)
	b.Features.Peers[2].Feature, b.Features.Peers[2].Beside = "more of everything", "tunmesh"
	for i := range b.Features.Runs {
		if b.Features.Runs[i].Peer == "envoy" {
			b.Features.Runs[i].Seen = map[string]uint64{"events": 77, "lost": 3}
			b.Features.Runs[i].Sides[1].Series = 1234
		}
	}
	b.Features.Fill("direct")
	if err := report.Write(dir, b, "tunmesh"); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, report.MarkdownFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# tunmesh beside other proxies", "## Goals", "| h1-16 per-pair-cpu | per CPU-s | 39,802 | 9,950 | ≥ 2 × envoy | 2.00 × | met |", "Not measured in this run: h1-1 per-pair-cpu ≥ 2 × envoy", "(efficiency.svg)", "* Left out, envoy: it is tired: bulk-1, bulk-8",
		"| netstack ping-64 rate (relay-64k: 100) | /s | 80.0 | – | ≥ 0.9 × relay-64k | 0.89 × | **missed** |", "ns/op | 80.0 | – | ≤ 100 | 1.25 × | met |",
		"+75.38 µs  +300%", "more of everything", "1,234   77.0 events", "(memory.svg)", "| envoy | 10,000 ±0% |", "haproxy was skipped: not on this machine", "**bulk-1 through envoy failed** in round 2: it went away"} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the report does not say %q:\n%s", want, md)
		}
	}
	for _, name := range []string{"efficiency.svg", "memory.svg"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		text := false
		for d := xml.NewDecoder(f); ; {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if c, ok := tok.(xml.CharData); ok && strings.Contains(string(c), "envoy") {
				text = true
			}
		}
		if !text {
			t.Errorf("%s does not name its peers", name)
		}
	}
	got, err := result.Read(filepath.Join(dir, report.JSONFile))
	if err != nil || len(got.Runs) != len(b.Runs) {
		t.Errorf("the document beside the report: %v", err)
	}
}

// worsened is document(6, 0.25) with every run changed.
func worsened(change func(*result.Run)) *result.Bench {
	b := document(6, 0.25)
	for i := range b.Runs {
		if b.Runs[i].Peer == "tunmesh" {
			change(&b.Runs[i])
		}
	}
	b.Fill("direct")
	return b
}

// TestRegressions feeds worse documents to the gate, and such as are worse by less
// than their bounds, or on a machine that was never quiet.
func TestRegressions(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*result.Run)
		want   string // metric; "": none
	}{
		{"the same", func(*result.Run) {}, ""},
		{"a third more CPU", func(r *result.Run) { r.CPU.Peer *= 1.33 }, ""},
		{"twice the CPU", func(r *result.Run) { r.CPU.Peer *= 2 }, result.PerPair},
		{"twice the CPU, never quiet", func(r *result.Run) { r.CPU.Peer *= 2; r.Noisy = true }, ""},
		{"half the CPU", func(r *result.Run) { r.CPU.Peer /= 2 }, ""},
		{"3 MB more", func(r *result.Run) { r.Sides = sides(13<<20, 10_000) }, result.ClientRSS},
		{"3 MB more, never quiet", func(r *result.Run) { r.Sides = sides(13<<20, 10_000); r.Noisy = true }, result.ClientRSS},
		{"1 MB more", func(r *result.Run) { r.Sides = sides(11<<20, 10_000) }, ""},
		{"three allocations for each request", func(r *result.Run) { r.Sides = sides(10<<20, 25_000) }, result.Allocs},
		{"a fifth of an allocation", func(r *result.Run) { r.Sides = sides(10<<20, 11_000) }, ""},
		{"fewer allocations", func(r *result.Run) { r.Sides = sides(10<<20, 100) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := report.Regressions(report.Compare(document(6, 0.25), worsened(c.change), "tunmesh", "envoy"))
			if c.want == "" && len(got) > 0 {
				t.Errorf("%+v", got)
			}
			found := false
			for _, r := range got {
				found = found || r.Metric == c.want
			}
			if c.want != "" && !found {
				t.Errorf("no regression of %s in %+v", c.want, got)
			}
		})
	}
	idle := document(6, 0.25)
	idle.Peers[1].Idle = []result.Side{{Side: "client", Resident: 14 << 20}}
	if got := report.Regressions(report.Compare(document(6, 0.25), idle, "tunmesh", "envoy")); len(got) != 1 || got[0].Metric != result.IdleRSS {
		t.Errorf("5 MB more when idle: %+v", got)
	}
}

func TestCompare(t *testing.T) {
	slower := report.Compare(document(6, 0.25), document(6, 0.4), "tunmesh", "envoy")
	var s strings.Builder
	if err := report.Changes(&s, slower, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.String(), "per-pair-cpu") || strings.Contains(s.String(), "h1-16     envoy ") || strings.Contains(s.String(), "?") {
		t.Errorf("what changed, and only that:\n%s", s.String())
	}
	s.Reset()
	if err := report.Changes(&s, report.Compare(document(2, 0.25), document(2, 0.4), "tunmesh", "envoy"), false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.String(), "chance can not be ruled out") {
		t.Errorf("two runs prove nothing:\n%s", s.String())
	}
}
