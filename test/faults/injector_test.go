package faults

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// noInjector takes all replicas away until the function that it returns is called.
func (m *mesh) noInjector() (back func()) {
	m.t.Helper()
	m.Kubectl(m.t, "-n", "tunmesh", "scale", "deploy/mesh-control", "--replicas=0")
	m.Kubectl(m.t, "-n", "tunmesh", "delete", "pods", "-l", "app.kubernetes.io/name=mesh-control", "--force", "--grace-period=0", "--ignore-not-found")
	cluster.Eventually(m.t, limit, "nobody injects", func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "-n", "tunmesh", "get", "endpointslices", "-l", "kubernetes.io/service-name=mesh-injector", "-o", "jsonpath={.items[*].endpoints[*].addresses}")
		if err == nil && out != "" {
			err = fmt.Errorf("there is %s", out)
		}
		for _, n := range m.Nodes() { // the API server keeps its connections to those that still run
			if pids := m.processes(n, replica); len(pids) > 0 && err == nil {
				err = fmt.Errorf("%s has process %v", n.Name(), pids)
			}
		}
		return err
	})
	return func() {
		m.t.Helper()
		m.Kubectl(m.t, "-n", "tunmesh", "scale", "deploy/mesh-control", "--replicas=3")
		m.rollout("tunmesh", "mesh-control")
	}
}

// testNoInjectorFail: pods are refused, with words that say why, where the mesh is
// asked for, and made elsewhere. What should run does by itself when it is back.
func (m *mesh) testNoInjectorFail() {
	m.under(func() {
		back := m.noInjector()
		err := m.tryApply(m.t.Context(), ns, meshed.Server("refused", ""))
		if err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			m.t.Errorf("a pod without the injector: %v", err)
		}
		m.apply("kube-system", meshed.Server("elsewhere", ""))
		m.WaitFor(m.t, "condition=Ready", "-n", "kube-system", "pod/elsewhere")
		m.Kubectl(m.t, "-n", "kube-system", "delete", "pod", "elsewhere", "--wait=false")
		m.apply(ns, server("waits", 2))
		m.says("failed calling webhook", "-n", ns, "get", "events", "-o", `jsonpath={range .items[?(@.involvedObject.kind=="ReplicaSet")]}{.message}{"\n"}{end}`)
		back()
		m.rollout(ns, "waits")
		m.meshed("waits")
	})
	m.Kubectl(m.t, "-n", ns, "delete", "deploy,service", "waits", "--wait=false")
}

// testNoInjectorIgnore: pods are made without a sidecar where only their namespace
// asks for the mesh, and named; those that ask themselves are refused.
func (m *mesh) testNoInjectorIgnore() {
	m.Script(m.t, "meshctl upgrade --set injector.failurePolicy=Ignore | kubectl apply -f -\nmeshctl check")
	m.under(func() {
		back := m.noInjector()
		m.apply(ns, meshed.Server("bare", "")+meshed.Server("asks", "tunmesh.io/inject: enabled"))
		m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/bare")
		m.event(ns, "asks", "was not injected")
		back()
		began := time.Now()
		m.event(ns, "bare", "Unmeshed: this pod runs without the sidecar")
		m.t.Logf("named %s after the control plane was back", time.Since(began).Round(100*time.Millisecond))
		cluster.Eventually(m.t, limit, "a metric counts it", func(ctx context.Context) error {
			out, err := m.RunMeshctl(ctx, "diagnostics", "controller-metrics")
			if err == nil && !strings.Contains(out, `unmeshed_pods{namespace="`+ns+`"} `) {
				err = fmt.Errorf("none of %d bytes", len(out))
			}
			return err
		})
		if out := m.Script(m.t, "meshctl check || true"); !strings.Contains(out, "‼ pods that should have a sidecar have one") || !strings.Contains(out, ns+"/bare") {
			m.t.Errorf("meshctl check does not name it:\n%s", out)
		}
		// Made again, they are meshed.
		m.Kubectl(m.t, "-n", ns, "delete", "pod", "bare", "asks")
		m.apply(ns, meshed.Server("bare", "")+meshed.Server("asks", "tunmesh.io/inject: enabled"))
		m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/bare", "pod/asks")
		m.meshed("bare")
		m.meshed("asks")
	})
	m.Kubectl(m.t, "-n", ns, "delete", "pod", "bare", "asks", "--wait=false")
	m.Script(m.t, "meshctl upgrade --set injector.failurePolicy=Fail | kubectl apply -f -\nmeshctl check")
}
