package workloads

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// Judge is the environment variable by which somebody says that the machine does
// nothing else: then times are held to their bounds, and more pods are started.
const Judge = "TUNMESH_JUDGE"

// What the mesh may add to the time from kubectl apply of a pod until it is ready.
const (
	overNothing = 300 * time.Millisecond  // beyond a native sidecar that does nothing
	overPlain   = 1500 * time.Millisecond // beyond the pod as it was
)

// nothing is a native sidecar that does nothing and of which nothing is asked: the
// application does not wait for it.
const nothing = `
  initContainers:
  - name: nothing
    image: ` + cluster.TestImage + `
    restartPolicy: Always
    args: [serve, ":4191"]
    ` + hardened + `
`

// kind is a kind of pods whose starts are compared.
type kind struct{ name, namespace, spec string }

// testPodStart measures from kubectl apply until the API server says Ready, of one
// kind after the other in turns, each pod alone. The bounds hold on a quiet machine;
// on any, an injected pod does not take twice the time of one with another sidecar
// and what a busy machine takes for one more process.
func testPodStart(m team) {
	if testing.Short() {
		m.t.Skip("starts pods one after the other")
	}
	rounds := 3
	judge := os.Getenv(Judge) != ""
	if judge {
		rounds = 10
	}
	m.Namespace(m.t, "start-plain", false)
	m.Namespace(m.t, "start-meshed", true)
	kinds := []kind{{"plain", "start-plain", ""}, {"nothing", "start-plain", nothing}, {"injected", "start-meshed", ""}}
	took := map[string][]time.Duration{}
	for i := range rounds + 1 {
		for _, k := range kinds {
			d := m.start(k, fmt.Sprint(k.name, "-", i))
			if i > 0 { // the first has what happens once on a node
				took[k.name] = append(took[k.name], d)
			}
		}
		m.Kubectl(m.t, "-n", "start-plain", "delete", "pods", "--all", "--wait=false")
		m.Kubectl(m.t, "-n", "start-meshed", "delete", "pods", "--all", "--wait")
		m.Kubectl(m.t, "-n", "start-plain", "delete", "pods", "--all", "--wait")
	}
	median := map[string]time.Duration{}
	for _, k := range kinds {
		all := took[k.name]
		slices.Sort(all)
		median[k.name] = (all[(len(all)-1)/2] + all[len(all)/2]) / 2
		m.t.Logf("%-9s median %.2f s, %.2f to %.2f s", k.name, median[k.name].Seconds(), all[0].Seconds(), all[len(all)-1].Seconds())
	}
	for than, bound := range map[string]time.Duration{"nothing": overNothing, "plain": overPlain} {
		more := median["injected"] - median[than]
		m.t.Logf("%.2f s more than %s", more.Seconds(), than)
		if judge && more > bound {
			m.t.Errorf("an injected pod takes %s longer than %s, and may take %s", more, than, bound)
		}
	}
	if median["injected"] > 2*median["nothing"]+2*time.Second {
		m.t.Errorf("an injected pod takes %s, and one with a sidecar that does nothing %s", median["injected"], median["nothing"])
	}
}

// start makes a pod on node1 and says how long it took until it was ready.
func (m team) start(k kind, pod string) time.Duration {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	watch := m.KubectlCommand(ctx, "-n", k.namespace, "get", "pods", "--watch", "-o",
		`jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}`)
	var errs bytes.Buffer
	watch.Stderr, watch.WaitDelay = &errs, time.Second
	out, err := watch.StdoutPipe()
	if err == nil {
		err = watch.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	defer end(cancel, watch)
	yaml := server(pod, "  nodeName: node1"+k.spec)
	began := time.Now()
	if _, err := m.Run(ctx, strings.NewReader(yaml), "-n", k.namespace, "apply", "-f", "-"); err != nil {
		m.t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == pod+" True" {
			return time.Since(began)
		}
	}
	m.t.Fatalf("%s is not ready: %v %s", pod, ctx.Err(), errs.String())
	return 0
}

func end(cancel context.CancelFunc, cmd *exec.Cmd) {
	cancel()
	_ = cmd.Wait() // killed
}
