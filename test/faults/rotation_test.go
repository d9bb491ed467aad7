package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// script is one of those that type what docs/install.md has.
func script(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../install/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRotation: the trust anchor and the issuer are replaced, then every replica of
// the control plane, as the page for operators has it, under load. No request
// fails and nothing is restarted; pods that start meanwhile work with all others.
func TestRotation(t *testing.T) {
	whole(t)
	p := meshed.Build(t)
	m := &mesh{t: t, Mesh: meshed.Start(t, p, meshed.Options{Nodes: 3, Install: []string{"--ha"}, Images: images(t)})}
	const ns = "emojivoto" // as in the script
	m.Namespace(t, ns, true)
	m.apply(ns, server("web", 3))
	m.rollout(ns, "web")
	before := m.restarts(ns)

	l := m.begin(ns)
	n := m.newcomers("newcomers", "web."+ns)
	began := time.Now()
	out := m.Script(t, script(t, "authority.sh")+script(t, "rotate.sh"))
	t.Logf("rotation took %s", time.Since(began).Round(time.Second))
	if got := strings.Count(out, "Issuer: CN=Our issuer"); got < 4 {
		t.Errorf("%d certificates are of the new issuer", got)
	}
	began = time.Now()
	m.Script(t, script(t, "restart.sh"))
	t.Logf("the restart took %s", time.Since(began).Round(time.Second))
	n.end()
	l.end().flawless(t)
	if after := m.restarts(ns); after != before {
		t.Errorf("pods were restarted: before\n%s, after\n%s", before, after)
	}
	if out := m.Kubectl(t, "-n", "tunmesh", "get", "pods", "-l", "app.kubernetes.io/name=mesh-control", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(out, "0 ") != "" || out == "" {
		t.Errorf("restarts of the new replicas: %s", out)
	}
	t.Run("a sidecar is killed afterwards", func(t *testing.T) { m.in(t).testKilled(ns) })
}

// testKilled: a sidecar that starts again learns what is in force now, and not what
// was when its pod was made.
func (m *mesh) testKilled(ns string) {
	pod := m.Kubectl(m.t, "-n", ns, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
	n, pid := m.sidecar(ns, pod)
	m.kill(n, pid)
	m.says("1", "-n", ns, "get", "pod", pod, "-o", "jsonpath={.status.initContainerStatuses[0].restartCount}")
	m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/"+pod)
	if out := m.Meshctl(m.t, "-n", ns, "identity", pod); !strings.Contains(out, "Issuer: CN=Our issuer") {
		m.t.Errorf("its certificate is %s", out)
	}
	l := m.begin(ns)
	cluster.Eventually(m.t, limit, "it serves meshed clients again", func(ctx context.Context) error { return m.serves(ctx, ns, pod) })
	l.end().flawless(m.t)
}

// newcomers are pods that start one after the other, each with a sidecar that has to
// trust and be trusted by what is in force, and ask for some seconds.
type newcomers struct {
	m       *mesh
	stop    context.CancelFunc
	running sync.WaitGroup
	asked   int
	errs    []error
}

// newcomer is how long each asks, and at which rate.
const (
	newcomerTime = 3 * time.Second
	newcomerRate = 30
)

// pause is the time between two of them.
const pause = 5 * time.Second

func (m *mesh) newcomers(ns, service string) *newcomers {
	m.Namespace(m.t, ns, true)
	ctx, stop := context.WithCancel(m.t.Context())
	n := &newcomers{m: m, stop: stop}
	m.t.Cleanup(stop)
	n.running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			n.one(ns, service, fmt.Sprintf("newcomer-%d", i))
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	})
	return n
}

// one outlives its stop: each that has begun is counted.
func (n *newcomers) one(ns, service, pod string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	began := time.Now()
	err := n.m.tryApply(ctx, ns, client(pod, service, newcomerRate, newcomerTime))
	var r tally
	if err == nil {
		r, err = n.m.counted(ctx, ns, pod)
	}
	if err == nil && (len(r.Failures) > 0 || total(r.Good) != total(r.Asked)) {
		err = fmt.Errorf("%s: %s: %+v", pod, r, r.Failures)
	}
	n.m.t.Logf("%s: %d requests within %s", pod, total(r.Asked), time.Since(began).Round(100*time.Millisecond))
	n.asked += total(r.Asked)
	n.errs = append(n.errs, err)
}

// end waits for the last of them.
func (n *newcomers) end() {
	n.m.t.Helper()
	n.stop()
	n.running.Wait()
	n.m.t.Logf("%d pods that started meanwhile asked %d times", len(n.errs), n.asked)
	if err := errors.Join(n.errs...); err != nil || len(n.errs) < 3 {
		n.m.t.Errorf("%d pods that started meanwhile: %v", len(n.errs), err)
	}
}
