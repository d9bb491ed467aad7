package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/measure"
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/result"
)

func execute(t *testing.T, cmd *cobra.Command, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	cmd.SilenceUsage = true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestChoose(t *testing.T) {
	var f runFlags
	names := func(f *runFlags) (peers, workloads []string) {
		t.Helper()
		m, err := f.makers()
		if err != nil {
			t.Fatal(err)
		}
		w, err := f.chosen()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range m {
			peers = append(peers, x.Name)
		}
		for _, x := range w {
			workloads = append(workloads, x.Name)
		}
		return peers, workloads
	}
	quickPeers, quick := names(&f)
	f.full = true
	fullPeers, full := names(&f)
	if len(quick) == 0 || len(quick) >= len(full) || len(quickPeers) >= len(fullPeers) || len(full) != len(measure.All()) {
		t.Errorf("quick %v %v, full %v %v", quickPeers, quick, fullPeers, full)
	}
	f = runFlags{peers: []string{"mine", peer.Tunmesh}, workloads: []string{"grpc", "h1-16"}}
	f.peer.Proxies = map[string]string{"mine": "/x"}
	if p, w := names(&f); strings.Join(p, " ") != "tunmesh mine" || strings.Join(w, " ") != "h1-16 grpc" {
		t.Errorf("%v, %v", p, w)
	}
	f = runFlags{peers: peer.Features(), workloads: featureWorkloads()}
	if p, w := names(&f); len(p) < 8 || p[0] != peer.Tunmesh || len(w) != 5 {
		t.Errorf("features: %v, %v", p, w)
	}
	f.workloads = []string{"h1-16", "h3"}
	if _, err := f.chosen(); err == nil || !strings.Contains(err.Error(), `workload "h3" is not known: choose of h1-1, h1-16`) {
		t.Errorf("%v", err)
	}
	// What is measured is what the goals are about.
	known := map[string]bool{"": true}
	for _, w := range measure.All() {
		known[w.Name] = true
	}
	for _, g := range result.Goals() {
		if g.From == result.Cells && !known[g.Workload] {
			t.Errorf("%s: there is no such workload", g)
		}
	}
}

func document(t *testing.T, name string, cost float64) string {
	t.Helper()
	b := &result.Bench{Format: result.Format, Peers: []result.Peer{{Name: "tunmesh"}, {Name: "envoy"}}, Workloads: []result.Workload{{Name: "h1-16"}}}
	for round := range 5 {
		for p, cpu := range map[string]float64{"tunmesh": cost + 0.001*float64(round), "envoy": 1} {
			b.Runs = append(b.Runs, result.Run{Workload: "h1-16", Peer: p, Round: round, Load: load.Result{All: 1000, Rate: 1000},
				CPU: result.CPU{Elapsed: 1, Peer: cpu, Ours: cpu, Machine: cpu}})
		}
	}
	b.Fill("direct")
	path := filepath.Join(t.TempDir(), name)
	if err := writeJSON(path, b); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCompareGate(t *testing.T) {
	old, same, worse := document(t, "old.json", 0.5), document(t, "same.json", 0.5), document(t, "worse.json", 0.9)
	if out, err := execute(t, compareCommand(), "--gate", old, same); err != nil || !strings.Contains(out, "no figure differs") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := execute(t, compareCommand(), old, worse); err != nil || !strings.Contains(out, "-44") {
		t.Errorf("without a gate: %v: %s", err, out)
	}
	out, err := execute(t, compareCommand(), "--gate", old, worse)
	if err == nil || !strings.Contains(out, "REGRESSION: h1-16 tunmesh × envoy per-pair-cpu was ") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := execute(t, compareCommand(), "--gate", "--against", "nobody", old, worse); err == nil || !strings.Contains(err.Error(), "no figure in common") {
		t.Errorf("nothing to judge: %v: %s", err, out)
	}
	if _, err := execute(t, compareCommand(), old, filepath.Join(t.TempDir(), "gone.json")); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

func TestParseBenchmarks(t *testing.T) {
	got, err := parseBenchmarks(strings.NewReader(`goos: linux
pkg: x
BenchmarkExchange/grpc/8x16-2         	   10000	      5000 ns/op	       1 B/op	       0 allocs/op
BenchmarkExchange/grpc/8x16-2         	   10000	      7000 ns/op	       1 B/op	       0 allocs/op
BenchmarkChoice/endpoints=10000/active=256/weighted=false-2 	 1000	 80.5 ns/op	 0 B/op	 0 allocs/op
PASS
`))
	if err != nil || len(got) != 2 || got[0].Name != "Exchange/grpc/8x16" || got[0].Values["ns/op"].Median != 6000 || got[0].Values["allocs/op"].N != 2 ||
		got[1].Name != "Choice/endpoints=10000/active=256/weighted=false" || got[1].Values["ns/op"].Median != 80.5 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseBenchmarks(strings.NewReader("PASS")); err == nil {
		t.Error("no benchmark is no error")
	}
}

func TestReport(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	out, err := execute(t, reportCommand(), document(t, "a.json", 0.25), "--out", dir)
	if err != nil || !strings.Contains(out, "3.97") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "report.md")); err != nil {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/a?b=c" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	out, err := execute(t, loadCommand(), s.URL+"/a?b=c", "--duration", "100ms", "--rate", "200", "-c", "2")
	if err != nil || !strings.Contains(out, ", 0 errors (of ") || !strings.Contains(out, "p99.9") {
		t.Errorf("%v: %s", err, out)
	}
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	out, err = execute(t, loadCommand(), "tcp://"+echo.Addr().String(), "--duration", "100ms", "-c", "3", "--size", "1000", "-o", "json")
	var r load.Result
	if err != nil || json.Unmarshal([]byte(out[strings.LastIndex(out, "\n{")+1:]), &r) != nil || r.Count == 0 || r.Failed > 0 || r.Histogram == "" {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := execute(t, loadCommand(), "tcp://"+s.Listener.Addr().String(), "--duration", "100ms"); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("a server that does not answer: %v: %s", err, out)
	}
	for want, args := range map[string][]string{
		"choose of text":     {s.URL, "-o", "yaml"},
		"--size":             {"tcp://127.0.0.1:1", "--size", "0"},
		"need http://":       {"https://a/"},
		"--protocol":         {s.URL, "--protocol", "http3"},
		"have to be above 0": {s.URL, "--connections", "0"},
		"30,000 bytes":       {s.URL, "--protocol", "grpc", "--size", "10000"},
	} {
		if _, err := execute(t, loadCommand(), args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

func TestPeers(t *testing.T) {
	out, err := execute(t, peersCommand())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range peer.All(peer.Options{}) {
		if !strings.Contains(out, m.Name+" ") {
			t.Errorf("%s is not listed", m.Name)
		}
	}
}
