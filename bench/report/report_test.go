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
				r.Sides = []result.Side{{Side: "client", Resident: 10 << 20}, {Side: "server", Resident: 11 << 20}}
			}
			b.Runs = append(b.Runs, r)
			r.Workload = "open-1k"
			b.Runs = append(b.Runs, r)
		}
	}
	b.Fill("direct")
	return b
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
	if err := report.Write(dir, b, "tunmesh"); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, report.MarkdownFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# tunmesh beside other proxies", "## Goals", "| h1-16 per-pair-cpu ≥ 2 × envoy | 4.00 | met |", "(efficiency.svg)", "(memory.svg)", "| envoy | 10,000 ±0% |", "haproxy was skipped: not on this machine", "**bulk-1 through envoy failed** in round 2: it went away"} {
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

func TestCompare(t *testing.T) {
	old := document(6, 0.25)
	same := report.Compare(old, document(6, 0.25), "tunmesh", "envoy")
	if r := report.Regressions(same, 0.05); len(r) != 0 {
		t.Errorf("nothing changed: %+v", r)
	}
	slower := report.Compare(old, document(6, 0.4), "tunmesh", "envoy")
	r := report.Regressions(slower, 0.1)
	if len(r) == 0 {
		t.Fatal("60 % more CPU is no regression")
	}
	for _, c := range r {
		if !c.Stable || !strings.Contains(c.Peer, "×") || c.P > 0.05 {
			t.Errorf("%+v", c)
		}
	}
	if r := report.Regressions(report.Compare(old, document(6, 0.2), "tunmesh", "envoy"), 0.05); len(r) != 0 {
		t.Errorf("less CPU is a regression: %+v", r)
	}
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
