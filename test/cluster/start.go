package cluster

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// Wanted is the environment variable without which Start skips: a first run
// builds Kubernetes, which takes minutes.
const Wanted = "TUNMESH_CLUSTER"

// callTime bounds what a test asks: long, because the machine may be busy.
const callTime = 3 * time.Minute

// Start boots a cluster for a test, and takes it down with the test. The logs
// of one that failed stay, in a folder that the test names.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	if os.Getenv(Wanted) == "" {
		tb.Skipf("boots a Kubernetes cluster: runs with %s=1, or by make e2e", Wanted)
	}
	if os.Geteuid() != 0 {
		tb.Skip("needs root: boots a Kubernetes cluster in namespaces")
	}
	if o.Progress == nil {
		o.Progress = tb.Logf
	}
	c, err := Up(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("logs of the cluster's processes: %s", c.Logs())
		}
		if err := c.Down(context.Background(), tb.Failed()); err != nil {
			tb.Errorf("take the cluster down: %v", err)
		}
	})
	return c
}

// Kubectl runs kubectl and returns what it printed, without space around; the
// test fails when kubectl does.
func (c *Cluster) Kubectl(tb testing.TB, args ...string) string {
	tb.Helper()
	return c.kubectl(tb, "", args...)
}

// Apply applies manifests.
func (c *Cluster) Apply(tb testing.TB, yaml string) {
	tb.Helper()
	c.kubectl(tb, "---\n"+yaml, "apply", "-f", "-") // else the kubectl of 1.32 takes what begins with { for JSON
}

func (c *Cluster) kubectl(tb testing.TB, in string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), callTime)
	defer cancel()
	out, err := c.Run(ctx, strings.NewReader(in), args...)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// WaitFor runs kubectl wait until condition=Ready and the like hold.
func (c *Cluster) WaitFor(tb testing.TB, condition string, what ...string) {
	tb.Helper()
	args := append([]string{"wait", "--for=" + condition, "--timeout=" + (callTime - 10*time.Second).String()}, what...)
	ctx, cancel := context.WithTimeout(tb.Context(), callTime)
	defer cancel()
	if out, err := c.Run(ctx, nil, args...); err != nil {
		pods, _ := c.Run(ctx, nil, "get", "pods", "-A", "-o", "wide")
		events, _ := c.Run(ctx, nil, "get", "events", "-A", "--sort-by=.lastTimestamp")
		tb.Fatalf("%v: %s\n%s\n%s", err, out, pods, events)
	}
}

// Eventually polls cond; the test fails when it has not held for limit.
func Eventually(tb testing.TB, limit time.Duration, what string, cond func(ctx context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	for {
		err := cond(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			tb.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}
