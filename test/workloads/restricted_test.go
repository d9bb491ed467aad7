package workloads

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// placed is a pod as it is found on its node.
type placed struct {
	Metadata struct{ Name, UID string }
	Spec     struct {
		NodeName                   string
		InitContainers, Containers []struct{ Name string }
	}
}

// testRestricted: the sample runs in a namespace that the API server keeps to Pod
// Security's restricted, no process of its pods has a capability, nothing of ours
// is started in them but the sidecar, and no packet filter has a rule there.
func testRestricted(m team) {
	m.Apply(m.t, m.Sample())
	m.Script(m.t, `
kubectl label namespace emojivoto pod-security.kubernetes.io/enforce=restricted
kubectl -n emojivoto get deploy -o yaml | meshctl inject - | kubectl apply -f -
kubectl -n emojivoto rollout status deploy --timeout=3m
meshctl check --proxy -n emojivoto
until meshctl -n emojivoto diagnostics proxy-metrics deploy/voting | grep 'request_total{direction="inbound".*tls="true".*client_id="web.emojivoto'; do sleep 1; done
`)
	if _, err := m.Run(m.t.Context(), strings.NewReader("---\n"+`{apiVersion: v1, kind: Pod, metadata: {name: lax, namespace: emojivoto}, spec: {containers: [{name: app, image: `+cluster.TestImage+`}]}}`), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "PodSecurity") {
		m.t.Errorf("the namespace is not restricted: %v", err)
	}
	var list struct{ Items []placed }
	if err := json.Unmarshal([]byte(m.Kubectl(m.t, "-n", "emojivoto", "get", "pods", "-o", "json", "--field-selector=status.phase=Running")), &list); err != nil {
		m.t.Fatal(err)
	}
	if len(list.Items) < 4 {
		m.t.Fatalf("%d pods", len(list.Items))
	}
	for _, pod := range list.Items {
		if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Name != "mesh-proxy" {
			m.t.Errorf("%s has init containers %v", pod.Metadata.Name, pod.Spec.InitContainers)
		}
		m.powerless(pod)
	}
	// The judges themselves: a pod that has rights, and a namespace that has rules.
	node := m.nodeOf(list.Items[0])
	if out, err := node.Run(m.t.Context(), "sh", "-c", "grep CapEff /proc/1/status"); err != nil || without(out) {
		m.t.Errorf("a node's first process has no capability: %s%v", out, err)
	}
	if out, err := node.Run(m.t.Context(), "sh", "-c", rules); err != nil || strings.TrimSpace(out) == "" {
		m.t.Errorf("a node has no rule: %v", err)
	}
}

// rules prints every rule of a network namespace's packet filters, and which tables
// of the older kind are there.
const rules = `nft list ruleset; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names /proc/net/arp_tables_names 2>/dev/null || true`

func without(line string) bool {
	_, caps, _ := strings.Cut(line, "CapEff:")
	n, err := strconv.ParseUint(strings.TrimSpace(caps), 16, 64)
	return err == nil && n == 0
}

func (m team) nodeOf(pod placed) cluster.Node {
	m.t.Helper()
	for _, n := range m.Nodes() {
		if n.Name() == pod.Spec.NodeName {
			return n
		}
	}
	m.t.Fatalf("%s is on no node", pod.Metadata.Name)
	return cluster.Node{}
}

// powerless looks at the processes of a pod, its sandbox's too, and at its network.
func (m team) powerless(pod placed) {
	m.t.Helper()
	node := m.nodeOf(pod)
	out, err := node.Run(m.t.Context(), "sh", "-c", `for p in $(grep -l pod`+pod.Metadata.UID+` /proc/[0-9]*/cgroup | cut -d/ -f3); do
  echo "$p $(cat /proc/$p/comm) $(grep CapEff /proc/$p/status)"
done`)
	if err != nil {
		m.t.Fatal(err)
	}
	if n := len(pod.Spec.InitContainers) + len(pod.Spec.Containers) + 1; strings.Count(out, "CapEff") < n {
		m.t.Errorf("%s has fewer than %d processes: %s", pod.Metadata.Name, n, out)
	}
	for line := range strings.Lines(out) {
		if !without(line) {
			m.t.Errorf("%s: a process has capabilities: %s", pod.Metadata.Name, line)
		}
		pid, _, _ := strings.Cut(line, " ")
		got, err := node.Run(m.t.Context(), "nsenter", "-t", pid, "-n", "sh", "-c", rules)
		if err != nil || strings.TrimSpace(got) != "" {
			m.t.Errorf("%s has rules: %v %s", pod.Metadata.Name, err, got)
		}
	}
	// Where its interface is.
	got, err := node.Run(m.t.Context(), "sh", "-c", fmt.Sprintf("for f in /run/netns/tunmesh-*; do nsenter --net=$f sh -c '%s'; done", rules))
	if err != nil || strings.TrimSpace(got) != "" {
		m.t.Errorf("an uplink namespace of %s has rules: %v %s", node.Name(), err, got)
	}
}
