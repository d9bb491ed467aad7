package faults

import (
	"context"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// testSlowStore: etcd stands still most of the time, as on a disk that is worn out.
// Pods that are made meanwhile come, late.
func (m *mesh) testSlowStore() {
	etcd := m.Process("etcd")
	m.under(func() {
		m.apply(ns, server("late", 4))
		slow := func(step func(context.Context) error) {
			if err := step(m.t.Context()); err != nil {
				m.t.Error(err)
			}
		}
		for range 12 {
			slow(etcd.Pause)
			time.Sleep(2 * time.Second)
			slow(etcd.Resume)
			time.Sleep(500 * time.Millisecond)
		}
		m.back()
		m.rollout(ns, "late")
		m.meshed("late")
	})
	m.Kubectl(m.t, "-n", ns, "delete", "deploy,service", "late", "--wait=false")
}

// meshed makes sure that all pods of an app have sidecars.
func (m *mesh) meshed(app string) {
	m.t.Helper()
	out := m.Kubectl(m.t, "-n", ns, "get", "pods", "-l", "app="+app, "-o", `jsonpath={range .items[*]}{.metadata.annotations.tunmesh\.io/injected}/{.status.initContainerStatuses[?(@.name=="mesh-proxy")].ready} {end}`)
	n := 0
	for word := range strings.FieldsSeq(out) {
		if n++; word != m.Programs.Release+"/true" {
			m.t.Errorf("pods of %s are %s", app, out)
		}
	}
	if n == 0 {
		m.t.Errorf("there are no pods of %s", app)
	}
}

// back waits until the API server answers, and all nodes are ready.
func (m *mesh) back() {
	m.t.Helper()
	cluster.Eventually(m.t, limit, "the API server is back", func(ctx context.Context) error {
		_, err := m.Run(ctx, nil, "get", "--raw", "/readyz")
		return err
	})
	m.WaitFor(m.t, "condition=Ready", "nodes", "--all")
}
