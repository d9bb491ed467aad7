package faults

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// addresses is where a node's IPAM plugin keeps what it has given away.
const addresses = "/var/lib/cni/networks/cluster"

// testNoAgent: while a node has no agent, meshed pods wait and say why, others
// start, and what runs keeps running.
func (m *mesh) testNoAgent() {
	place := func(selector string) {
		m.t.Helper()
		m.Kubectl(m.t, "-n", manifest.CNINamespace, "patch", "daemonset", "mesh-cni", "--type=merge", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"nobody":`+selector+`}}}}}`)
	}
	m.under(func() {
		place(`"has"`)
		m.agentsGone()
		m.apply(ns, meshed.Server("waits", "")+meshed.Server("plain", "tunmesh.io/inject: disabled"))
		m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/plain")
		m.event(ns, "waits", "the mesh's node agent does not serve the pod")
		place("null")
		m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/waits")
		m.meshed("waits")
	})
	m.Kubectl(m.t, "-n", manifest.CNINamespace, "rollout", "status", "daemonset/mesh-cni", "--timeout=2m")
	m.Kubectl(m.t, "-n", ns, "delete", "pod", "waits", "plain", "--wait=false")
}

// agentsGone waits until no node has one.
func (m *mesh) agentsGone() {
	m.t.Helper()
	cluster.Eventually(m.t, limit, "no agent runs", func(context.Context) error {
		for _, n := range m.Nodes() {
			if pids := m.processes(n, "^/usr/local/bin/mesh-cni agent"); len(pids) > 0 {
				return fmt.Errorf("%s has process %v", n.Name(), pids)
			}
		}
		return nil
	})
}

// event waits until an event of a pod has the words.
func (m *mesh) event(namespace, pod, words string) {
	m.t.Helper()
	m.says(words, "-n", namespace, "get", "events", "--field-selector=involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

// on binds a pod to a node.
func on(node, pod string) string {
	return strings.ReplaceAll(pod, "  terminationGrace", "  nodeName: "+node+"\n  terminationGrace")
}

// testAddressReused: the address of a pod that is gone is given to one of another
// ServiceAccount at once. Nobody who asks for the first ever gets an answer of the
// second, which is reached by its own names.
func (m *mesh) testAddressReused() {
	const service = `
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{port: 8080}]
`
	n := m.Node(2)
	m.apply(ns, meshed.Server("asker", "")+fmt.Sprintf(service, "first")+fmt.Sprintf(service, "second"))
	second := strings.ReplaceAll(on(n.Name(), meshed.Server("second", "")), "  nodeName", "  serviceAccountName: "+other+"\n  nodeName")
	get := func(ctx context.Context, to string) (string, error) {
		return m.Run(ctx, nil, "-n", ns, "exec", "asker", "-c", "app", "--", "/testapp", "get", "http://"+to+":8080/")
	}
	m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/asker")
	reused := false
	for range 5 { // another pod may be faster
		m.apply(ns, on(n.Name(), meshed.Server("first", "")))
		m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/first")
		cluster.Eventually(m.t, limit, "the first answers", func(ctx context.Context) error { _, err := get(ctx, "first"); return err })
		ip := m.Kubectl(m.t, "-n", ns, "get", "pod", "first", "-o", "jsonpath={.status.podIP}")
		var wg sync.WaitGroup
		ctx, stop := context.WithCancel(m.t.Context())
		asked := 0
		wg.Go(func() {
			for ctx.Err() == nil {
				if out, _ := get(ctx, "first"); strings.HasPrefix(out, "second") {
					m.t.Errorf("the second answered who asked for the first: %s", out)
				}
				asked++
			}
		})
		m.Kubectl(m.t, "-n", ns, "delete", "pod", "first", "--force", "--grace-period=0")
		m.next(n, ip)
		m.apply(ns, second)
		m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/second")
		reused = m.Kubectl(m.t, "-n", ns, "get", "pod", "second", "-o", "jsonpath={.status.podIP}") == ip
		for _, to := range []string{"second", ip} {
			cluster.Eventually(m.t, limit, "the second answers as "+to, func(ctx context.Context) error {
				out, err := get(ctx, to)
				if err == nil && !strings.HasPrefix(out, "second") {
					err = errors.New(out)
				}
				return err
			})
			if !reused {
				break
			}
		}
		stop()
		wg.Wait()
		m.t.Logf("%s was given again: %v; the first was asked for %d times meanwhile", ip, reused, asked)
		if out := m.Meshctl(m.t, "-n", ns, "identity", "second"); !strings.Contains(out, "/sa/"+other) {
			m.t.Errorf("the second is %s", out)
		}
		m.Kubectl(m.t, "-n", ns, "delete", "pod", "second")
		if reused {
			break
		}
	}
	if !reused {
		m.t.Error("the address was never given again")
	}
	m.Kubectl(m.t, "-n", ns, "delete", "pod", "asker", "--wait=false")
}

// next makes an address, once it is free, the next that a node gives.
func (m *mesh) next(n cluster.Node, ip string) {
	m.t.Helper()
	m.freed(n, ip)
	last := filepath.Join(n.Disk(addresses), "last_reserved_ip.0")
	if _, err := os.Stat(last); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(last, []byte(netip.MustParseAddr(ip).Prev().String()), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// testRemoved: the DaemonSet goes under meshed pods, which keep working. When one of
// them goes later, without an agent, nobody answers at its address any more.
func (m *mesh) testRemoved() {
	n := m.Node(2)
	m.apply(ns, on(n.Name(), meshed.Server("last", "")))
	m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/last")
	ip := m.Kubectl(m.t, "-n", ns, "get", "pod", "last", "-o", "jsonpath={.status.podIP}")
	neighbour := func() string {
		m.t.Helper()
		_, _ = n.Run(m.t.Context(), "ip", "neigh", "flush", "to", ip)
		_, _ = n.Run(m.t.Context(), "curl", "-s", "-m", "3", "http://"+ip+":4191/live")
		out, err := n.Run(m.t.Context(), "ip", "neigh", "show", "to", ip)
		if err != nil {
			m.t.Fatal(err)
		}
		return out
	}
	m.under(func() {
		m.Kubectl(m.t, "-n", manifest.CNINamespace, "delete", "daemonset", "mesh-cni")
		m.agentsGone()
		if out := neighbour(); !strings.Contains(out, "lladdr") {
			m.t.Errorf("the pod's address is nobody's while it runs: %q", out)
		}
		m.Kubectl(m.t, "-n", ns, "delete", "pod", "last")
		m.freed(n, ip)
		if out := neighbour(); strings.Contains(out, "lladdr") {
			m.t.Errorf("somebody answers at the address of a pod that is gone: %q", out)
		}
		m.apply(ns, on(n.Name(), meshed.Server("new", "")))
		m.event(ns, "new", "the mesh was removed from this node")
		m.Kubectl(m.t, "-n", ns, "delete", "pod", "new", "--force", "--grace-period=0")
	})
}

// freed waits until a node has an address to give.
func (m *mesh) freed(n cluster.Node, ip string) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, ip+" is free", func(context.Context) error {
		if _, err := os.Stat(filepath.Join(n.Disk(addresses), ip)); err == nil {
			return errors.New("it is not")
		}
		return nil
	})
}
