package result_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/result"
)

func run(peer string, round int, rate float64, noisy bool) result.Run {
	return result.Run{
		Workload: "ping", Peer: peer, Round: round, Noisy: noisy,
		Load: load.Result{P50: 1000 / rate, Rate: rate, All: 1000, Retransmits: 1},
		CPU:  result.CPU{Peer: 0.01, Ours: 0.02},
		Hop:  &result.Hop{Retransmits: 2, RingDrops: 3, WriteErrors: 4, Resident: int64(rate)},
	}
}

func TestSummarise(t *testing.T) {
	got := result.Summarise([]result.Run{
		run("a", 0, 10, false), run("b", 0, 5, false),
		run("a", 1, 1000, true), run("b", 1, 700, false), // spoilt for both
		run("a", 2, 20, false), run("b", 2, 7, false),
		run("a", 3, 30, false), run("b", 3, 6, false),
	})
	if len(got) != 2 || got[0].Peer != "a" || got[1].Peer != "b" {
		t.Fatalf("%+v", got)
	}
	a := got[0]
	if a.Rate != 20 || a.P50 != 50 || a.Runs != 3 || a.LeftOut != 1 {
		t.Errorf("medians of the quiet rounds: %+v", a)
	}
	if a.PeerCPU != 10 || a.MachineCPU != 20 {
		t.Errorf("microseconds of CPU for each round trip: %+v", a)
	}
	if a.Retransmits != 4*3 || a.Drops != 4*7 || a.Resident != 1000 {
		t.Errorf("sums over all runs: %+v", a)
	}
	if b := got[1]; b.Rate != 6 || b.Runs != 3 || b.LeftOut != 1 {
		t.Errorf("what was measured beside a noisy run: %+v", b)
	}
	all := result.Summarise([]result.Run{run("a", 0, 10, true), run("a", 1, 20, true)})
	if all[0].Rate != 15 || all[0].Runs != 2 || all[0].LeftOut != 0 {
		t.Errorf("no round was quiet, so all count: %+v", all[0])
	}
}

func TestJudge(t *testing.T) {
	figures := []result.Figures{{Workload: "ping", Peer: "a", Rate: 80, P50: 12, Drops: 1}, {Workload: "ping", Peer: "b", Rate: 100, P50: 10}}
	for _, tc := range []struct {
		name  string
		limit result.Limit
		value float64
		ok    bool
	}{
		{"at least, met", result.Limit{Workload: "ping", Peer: "a", Against: "b", Figure: "rate", Bound: 0.75}, 0.8, true},
		{"at least, just", result.Limit{Workload: "ping", Peer: "a", Against: "b", Figure: "rate", Bound: 0.8}, 0.8, true},
		{"at least, missed", result.Limit{Workload: "ping", Peer: "a", Against: "b", Figure: "rate", Bound: 0.9}, 0.8, false},
		{"at most, met", result.Limit{Workload: "ping", Peer: "a", Against: "b", Figure: "p50", AtMost: true, Bound: 1.25}, 1.2, true},
		{"at most, missed", result.Limit{Workload: "ping", Peer: "a", Against: "b", Figure: "p50", AtMost: true, Bound: 1.15}, 1.2, false},
		{"absolute, missed", result.Limit{Workload: "ping", Peer: "a", Figure: "drops", AtMost: true}, 1, false},
		{"absolute, met", result.Limit{Workload: "ping", Peer: "b", Figure: "drops", AtMost: true}, 0, true},
		{"no such workload", result.Limit{Workload: "pong", Peer: "a", Figure: "drops", AtMost: true}, 0, false},
		{"no such figure", result.Limit{Workload: "ping", Peer: "a", Figure: "beauty", AtMost: true}, 0, false},
		{"against nothing", result.Limit{Workload: "ping", Peer: "a", Against: "c", Figure: "rate"}, 0, false},
	} {
		got := result.Judge([]result.Limit{tc.limit}, figures)[0]
		if got.OK != tc.ok || got.Value != tc.value {
			t.Errorf("%s: %v, %v", tc.name, got.Value, got.OK)
		}
	}
}

func TestTable(t *testing.T) {
	d := result.Document{
		Figures: []result.Figures{{Workload: "ping", Peer: "a", P50: 12.5, Rate: 81234.5, Runs: 3, LeftOut: 1}},
		Limits:  []result.Limit{{Name: "p50", Value: 1.2, Bound: 1.15, AtMost: true}, {Name: "rate", Value: 0.8, Bound: 0.75, OK: true}},
	}
	var b bytes.Buffer
	if err := d.Table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"12.50", "81234", "3 (1 noisy)", "1.200 ≤ 1.15", "MISSED", "0.800 ≥ 0.75", "met"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}
