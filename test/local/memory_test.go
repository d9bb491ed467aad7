package local_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/deploy"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

// The figures that a sidecar is held to, in MB of 1,000 kB as VmRSS counts kB.
const (
	limitDemoMB = 12
	limitIdleMB = 25
)

// rss reads VmRSS and RssAnon of a process in MB.
func rss(t *testing.T, pid int) (vm, anon float64) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			vm = kb / 1000
		}
		if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kb); err == nil {
			anon = kb / 1000
		}
	}
	return vm, anon
}

// sample is the demo's manifest with every workload asking for the sidecar.
func sample() string {
	return strings.ReplaceAll(string(deploy.Emojivoto()), "metadata:\n  name: emojivoto\n",
		"metadata:\n  name: emojivoto\n  annotations: {tunmesh.io/inject: enabled}\n")
}

func TestMemoryInTheDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 60 s of load")
	}
	m := meshtest.Up(t, bin, "rss", sample())
	time.Sleep(55 * time.Second)
	// Pages of the program come with each collection and go every 2 s: one reading
	// tells of its moment.
	readings := map[string][]float64{}
	for range 20 {
		for _, p := range m.Pods(t) {
			vm, _ := rss(t, p.PIDs["mesh-proxy"])
			readings[p.Name] = append(readings[p.Name], vm)
		}
		time.Sleep(500 * time.Millisecond)
	}
	var all []float64
	for name, of := range readings {
		slices.Sort(of)
		t.Logf("%-28s VmRSS %.1f MB, %.1f to %.1f", name, middle(of), of[0], of[len(of)-1])
		all = append(all, middle(of))
	}
	slices.Sort(all)
	median := middle(all)
	t.Logf("median VmRSS over %d sidecars: %.1f MB (limit %d)", len(all), median, limitDemoMB)
	if median > limitDemoMB {
		t.Errorf("median VmRSS %.1f MB, want at most %d", median, limitDemoMB)
	}
}

// middle is the median of sorted values.
func middle(sorted []float64) float64 {
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

func TestMemoryOfIdleConnections(t *testing.T) {
	for name, args := range map[string][]string{"http": {"server:80"}, "opaque": {"--opaque", "server:7000"}} {
		t.Run(name, func(t *testing.T) {
			m := meshtest.Up(t, bin, "idle", meshtest.Server("server", 1), meshtest.Client("client", true, ""))
			pids := map[string]int{"client side": m.Pod(t, "client").PIDs["mesh-proxy"], "server side": m.Pod(t, "server").PIDs["mesh-proxy"]}
			before := map[string]float64{}
			for side, pid := range pids {
				before[side], _ = rss(t, pid)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := m.Command(ctx, append([]string{"local", "exec", "client", "--", "testapp", "idle", "-n", "1000", "--hold", "60s"}, args...)...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var r struct{ Open, Failed int }
			line, err := bufio.NewReader(out).ReadString('\n')
			if err == nil {
				err = json.Unmarshal([]byte(line), &r)
			}
			if err != nil || r.Open != 1000 {
				t.Fatalf("1,000 connections: %q, %v", line, err)
			}
			time.Sleep(5 * time.Second)
			for side, pid := range pids {
				vm, anon := rss(t, pid)
				t.Logf("%s, %s: VmRSS %.1f MB, %.1f more than before (RssAnon %.1f)", name, side, vm, vm-before[side], anon)
				if vm-before[side] > limitIdleMB {
					t.Errorf("%s, %s: %.1f MB more, want at most %d", name, side, vm-before[side], limitIdleMB)
				}
			}
			cancel()
			_ = cmd.Wait()
		})
	}
}
