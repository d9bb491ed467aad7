package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/result"
)

// baseline is what gateRun measured when it was last right to be written anew:
//
//	go test ./bench/cmd/bench -run TestGate -update-gate
const baseline = "testdata/gate.json"

var updateGate = flag.Bool("update-gate", false, "write the figures that TestGate compares with anew")

// gateRun is under a minute's measurement of what depends little on the machine.
// Bytes and requests through kernel-socket relays are what ratios are to: nothing
// has to be downloaded for them.
func gateRun(json string) []string {
	return []string{
		"run", "--workloads", "h1-16,grpc,idle-1k", "--peers", peer.Relay + "," + peer.Tunmesh,
		"--rounds", "4", "--duration", "700ms", "--quiet", "100ms", "--json", json,
	}
}

// TestGate builds sidecars of this source and holds them against the committed
// figures: allocations and memory, and, where the machine is quiet, CPU beside
// the relay. That it can fail is TestRegressions in package report.
func TestGate(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if testing.Short() {
		t.Skip("measures for a minute")
	}
	dir := t.TempDir()
	bench, now := filepath.Join(dir, "bench"), filepath.Join(dir, "gate.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bench, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), bench, gateRun(now)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if *updateGate {
		doc, err := result.Read(now)
		if err != nil {
			t.Fatal(err)
		}
		for i := range doc.Runs {
			doc.Runs[i].Load.Histogram = "" // large, and no gate looks at it
		}
		if err := writeJSON(baseline, doc); err != nil {
			t.Fatal(err)
		}
		return
	}
	out, err := execute(t, compareCommand(), "--gate", "--against", peer.Relay, baseline, now)
	t.Log(out)
	if err != nil {
		t.Error(err)
	}
}
