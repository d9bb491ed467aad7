package faults

import (
	"context"
	"errors"
	"fmt"
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
	out := m.Kubectl(m.t, "-n", ns, "get", "pods", "-l", "app="+app, "-o", `jsonpath={range .items[*]}{.metadata.annotations.tunmesh\.io/injected}/{.status.initContainerStatuses[?(@.name=="mesh-proxy")].ready}/{.metadata.deletionTimestamp} {end}`)
	n := 0
	for word := range strings.FieldsSeq(out) {
		injected, rest, _ := strings.Cut(word, "/")
		ready, ends, _ := strings.Cut(rest, "/") // the sidecar of a pod that ends may have ended
		if n++; injected != m.Programs.Release || ready != "true" && ends == "" {
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

// away is how long the API server is.
const away = time.Minute

// testServerAway: nobody is told of anything for a minute. What runs keeps running;
// a sidecar that starts meanwhile waits for its certificate, because nobody can say
// whose its token is, and is back with the server.
func (m *mesh) testServerAway() {
	pod := m.Kubectl(m.t, "-n", ns, "get", "pods", "-l", "app=busy", "-o", "jsonpath={.items[0].metadata.name}")
	n, pid := m.sidecar(ns, pod)
	api := m.Process("kube-apiserver")
	replicas := m.Kubectl(m.t, "-n", "tunmesh", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
	l := m.begin(ns)
	if err := api.Kill(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	began := time.Now()
	m.kill(n, pid)
	time.Sleep(away - time.Since(began))
	if err := api.Start(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.back()
	m.says("True 1", "-n", ns, "get", "pod", pod, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.initContainerStatuses[0].restartCount}`)
	// What happened since is told: a server that is new is asked.
	m.Kubectl(m.t, "-n", ns, "scale", "deploy/web", "--replicas=4")
	m.rollout(ns, "web")
	m.asked("web", 4)
	m.Kubectl(m.t, "-n", ns, "scale", "deploy/web", "--replicas=3")
	cluster.Eventually(m.t, limit, "the fourth server is gone", func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "-n", ns, "get", "pods", "-l", "app=web", "-o", "name")
		if err == nil && len(strings.Fields(out)) != 3 {
			err = errors.New(out)
		}
		return err
	})
	m.rollout(ns, "web")
	l.end().flawless(m.t)
	if now := m.Kubectl(m.t, "-n", "tunmesh", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); now != replicas {
		m.t.Errorf("restarts of the control plane: %s, and before %s", now, replicas)
	}
	m.Meshctl(m.t, "check", "--proxy", "--wait", limit.String())
}

// asked waits until that many servers have counted meshed requests.
func (m *mesh) asked(app string, n int) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, fmt.Sprintf("%d servers of %s are asked", n, app), func(ctx context.Context) error {
		pods, err := m.Run(ctx, nil, "-n", ns, "get", "pods", "-l", "app="+app, "-o", "jsonpath={.items[*].metadata.name}")
		if err != nil {
			return err
		}
		have := 0
		for pod := range strings.FieldsSeq(pods) {
			if m.serves(ctx, ns, pod) == nil {
				have++
			}
		}
		if have < n {
			return fmt.Errorf("%d of %s", have, pods)
		}
		return nil
	})
}

// replica matches the command lines of the control plane's replicas, and not the
// view's.
const replica = "^/usr/local/bin/mesh-control --"

// testReplicasLost: the processes of all replicas are killed at once, then their
// pods are. They come back by themselves, though no pod is made without their word.
func (m *mesh) testReplicasLost() {
	m.under(func() {
		killed := 0
		for _, n := range m.Nodes() {
			if pids := m.processes(n, replica); len(pids) > 0 {
				m.kill(n, pids...)
				killed += len(pids)
			}
		}
		if killed != 3 {
			m.t.Errorf("%d replicas were killed", killed)
		}
		m.Script(m.t, "kubectl -n tunmesh delete pods --all --force --grace-period=0")
		m.Kubectl(m.t, "-n", ns, "rollout", "restart", "deploy/busy")
		m.rollout(ns, "busy")
		m.meshed("busy")
		m.Meshctl(m.t, "check", "--wait", limit.String())
	})
}
