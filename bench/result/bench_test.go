package result_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/result"
)

// measured is a run of 1,000 requests that cost the pair and the machine so many CPU seconds.
func measured(workload, peer string, round int, pair, machine, p50 float64) result.Run {
	return result.Run{
		Workload: workload, Peer: peer, Round: round,
		Load:  load.Result{All: 1000, Count: 900, Rate: 900, P50: p50, P90: p50 + 1, P99: p50 + 2, P999: p50 + 3},
		CPU:   result.CPU{Elapsed: 1, Peer: pair, Ours: machine, Machine: machine},
		Sides: []result.Side{{Side: "client", Resident: 10 << 20}, {Side: "server", Resident: 20 << 20}},
	}
}

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want result.Stat
	}{
		{nil, result.Stat{}},
		{[]float64{3}, result.Stat{Median: 3, Min: 3, Max: 3, N: 1}},
		{[]float64{5, 1, 3}, result.Stat{Median: 3, Min: 1, Max: 5, N: 3}},
		{[]float64{4, 1, 3, 2}, result.Stat{Median: 2.5, Min: 1, Max: 4, N: 4}},
	} {
		if got := result.Summary(c.v); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.v, got, c.want)
		}
	}
	if s := (result.Stat{Median: 10, Min: 9, Max: 13}).Spread(); s != 0.2 {
		t.Errorf("spread %v", s)
	}
}

func TestFill(t *testing.T) {
	b := result.Bench{Runs: []result.Run{
		measured("w", "direct", 0, 0, 0.5, 100), measured("w", "a", 0, 0.5, 1, 150),
		measured("w", "direct", 1, 0, 0.5, 100), measured("w", "a", 1, 0.25, 1, 170),
		measured("w", "direct", 2, 0, 0.5, 100), measured("w", "a", 2, 0.01, 1, 999),
	}}
	b.Runs[4].Noisy = true // spoils the round for both
	b.Fill("direct")
	for _, c := range []struct {
		peer, metric string
		want         result.Stat
	}{
		{"a", result.PerPair, result.Stat{Median: 3000, Min: 2000, Max: 4000, N: 2}},
		{"a", result.PerMachine, result.Stat{Median: 1000, Min: 1000, Max: 1000, N: 2}},
		{"a", result.AddedP50, result.Stat{Median: 60, Min: 50, Max: 70, N: 2}},
		{"a", result.ServerRSS, result.Stat{Median: 20, Min: 20, Max: 20, N: 2}},
	} {
		if got, ok := b.Get("w", c.peer, c.metric); !ok || got != c.want {
			t.Errorf("%s %s: %+v, %v, want %+v", c.peer, c.metric, got, ok, c.want)
		}
	}
	if _, ok := b.Get("w", "direct", result.PerPair); ok {
		t.Error("direct has no pair and a figure for it")
	}
	if _, ok := b.Get("w", "direct", result.AddedP50); ok {
		t.Error("direct adds to itself")
	}
	if c := b.Cell("w", "a"); c.Runs != 2 || c.LeftOut != 1 || c.Noisy {
		t.Errorf("%d runs, %d left out", c.Runs, c.LeftOut)
	}
	// Where no round is quiet, all count.
	for i := range b.Runs {
		b.Runs[i].Noisy = true
	}
	b.Fill("direct")
	if c := b.Cell("w", "a"); c.Runs != 3 || c.LeftOut != 0 || !c.Noisy {
		t.Errorf("all noisy: %d runs, %d left out", c.Runs, c.LeftOut)
	}
}

// TestTooLittleCPU: a figure per CPU second is not made of a few ticks.
func TestTooLittleCPU(t *testing.T) {
	b := result.Bench{Runs: []result.Run{measured("w", "a", 0, 0.05, 1, 1)}}
	b.Fill("direct")
	if _, ok := b.Get("w", "a", result.PerPair); ok {
		t.Error("5 ticks were enough")
	}
}

func TestBulkCountsBytes(t *testing.T) {
	r := measured("w", "a", 0, 2, 4, 0)
	r.Load = load.Result{Gbit: 8, AllBytes: 6e9}
	b := result.Bench{Runs: []result.Run{r}}
	b.Fill("direct")
	if s, _ := b.Get("w", "a", result.PerPair); s.Median != 3 {
		t.Errorf("%v GB per CPU second, want 3", s.Median)
	}
}

func TestJudgeGoals(t *testing.T) {
	b := result.Bench{
		Runs:  []result.Run{measured("w", "direct", 0, 0, 0.5, 100), measured("w", "a", 0, 0.25, 1, 150), measured("w", "b", 0, 0.5, 2, 300)},
		Peers: []result.Peer{{Name: "a", Idle: []result.Side{{Resident: 8 << 20}, {Resident: 12 << 20}}}},
	}
	b.Fill("direct")
	goals := []result.Goal{
		{Workload: "w", Metric: result.PerPair, Against: "b", Bound: 2},
		{Workload: "w", Metric: result.PerPair, Against: "b", Bound: 2.1},
		{Workload: "w", Metric: result.AddedP50, Against: "b", AtMost: true, Bound: 0.25},
		{Workload: "w", Metric: result.AddedP50, AtMost: true, Bound: 49},
		{Metric: result.IdleRSS, AtMost: true, Bound: 12},
		{Workload: "gone", Metric: result.PerPair, Against: "b", Bound: 2},
	}
	type short struct {
		known, ok bool
		value     float64
	}
	want := []short{{true, true, 2}, {true, false, 2}, {true, true, 0.25}, {true, false, 50}, {true, true, 12}, {}}
	for i, v := range b.Judge("a", goals) {
		if got := (short{v.Known, v.OK, v.Value}); got != want[i] {
			t.Errorf("%s: %+v, want %+v", v.Goal, got, want[i])
		}
	}
	for _, g := range result.Goals() {
		if _, ok := result.MetricNamed(g.Metric); !ok && g.From == result.Cells && g.Metric != result.IdleRSS {
			t.Errorf("%s: the metric is not known", g)
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	b := result.Bench{Runs: []result.Run{measured("w", "a", 0, 0.25, 1, 1), measured("w", "b", 0, 0.5, 1, 1), measured("w", "a", 1, 0.5, 1, 1), measured("w", "b", 1, 0.5, 1, 1), measured("w", "a", 2, 0.5, 1, 1)}}
	if d := cmp.Diff([]float64{2, 1}, b.Ratios("w", "a", "b", result.PerPair)); d != "" {
		t.Error(d)
	}
}

func TestOthers(t *testing.T) {
	if got := (result.CPU{Elapsed: 2, Machine: 3, Stolen: 0.5, Ours: 2.5}).Others(); got != 0.5 {
		t.Errorf("others used %v CPUs", got)
	}
	if got := (result.CPU{Elapsed: 2, Machine: 1, Ours: 2}).Others(); got != 0 {
		t.Errorf("others used %v CPUs: the kernel's sampling can say less than all", got)
	}
}

func TestReadAndWrite(t *testing.T) {
	b := &result.Bench{Format: result.Format, Commit: "abc", Runs: []result.Run{measured("w", "a", 0, 0.5, 1, 1)}, Peers: []result.Peer{{Name: "a"}}}
	b.Fill("direct")
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "b.json")
	put := func(raw []byte) {
		t.Helper()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(buf.Bytes())
	got, err := result.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b, got); d != "" {
		t.Error(d)
	}
	for _, s := range b.Cells {
		for name, m := range s.Metrics {
			if math.IsNaN(m.Median) || math.IsInf(m.Median, 0) {
				t.Errorf("%s is %v", name, m.Median)
			}
		}
	}
	b.Format++
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	put(raw)
	if _, err := result.Read(path); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("another format: %v", err)
	}
	put([]byte("{"))
	if _, err := result.Read(path); err == nil {
		t.Error("half a document was read")
	}
}
