package workloads

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

const (
	// limit bounds every wait: these tests wait for events, not for time.
	limit = 4 * time.Minute
	// namespace of everything that needs no other.
	namespace = "work"
)

// team is somebody who has an application in the mesh.
type team struct {
	*meshed.Mesh
	t *testing.T
}

func TestWorkloads(t *testing.T) {
	m := meshed.Start(t, meshed.Build(t), meshed.Options{Nodes: 2, DualStack: true})
	m.Namespace(t, namespace, true)
	all := team{m, t}
	all.make(
		server("web1", "  nodeName: node1"), server("web2", "  nodeName: node2"),
		server("client1", "  nodeName: node1"), server("client2", "  nodeName: node2"),
		service("web", "app: web1", ""), service("both", "tier: server", ""),
	)
	all.ready("pod/web1", "pod/web2", "pod/client1", "pod/client2")
	t.Run("at the same time", func(t *testing.T) {
		for _, step := range []struct {
			name string
			run  func(team)
		}{
			{"restricted", testRestricted},
			{"probes", testProbes},
			{"probes that fail", testFailingProbes},
			{"exec", testExec}, {"logs", testLogs}, {"port-forward", testPortForward}, {"cp", testCopy},
			{"hostPort", testHostPort}, {"NodePort", testNodePort},
			{"headless Service", testHeadless}, {"StatefulSet", testStatefulSet}, {"ExternalName", testExternalName},
			{"Jobs", testJobs}, {"CronJob", testCronJob},
			{"init containers", testInitContainers}, {"init container before the sidecar", testBeforeSidecar},
			{"hostUsers false", testHostUsers},
			{"two nodes", testTwoNodes}, {"dual stack", testDualStack}, {"one family", testOneFamily},
		} {
			t.Run(step.name, func(t *testing.T) {
				t.Parallel()
				step.run(team{m, t})
			})
		}
	})
	t.Run("nothing in plain text", func(t *testing.T) {
		if got := (team{m, t}).plain("web2"); len(got) > 0 {
			t.Errorf("only the mesh asked it: %s", got)
		}
		if got := (team{m, t}).plain("web1"); len(got) == 0 {
			t.Error("nothing came to it in plain text, though somebody outside of the mesh has asked")
		}
	})
	t.Run("pod start", func(t *testing.T) { testPodStart(team{m, t}) })
}

// make applies objects to the namespace.
func (m team) make(yaml ...string) {
	m.t.Helper()
	m.Apply(m.t, strings.ReplaceAll(strings.Join(yaml, "\n---\n"), "metadata: {", "metadata: {namespace: "+namespace+", "))
}

// kubectl runs kubectl in the namespace.
func (m team) kubectl(args ...string) string {
	m.t.Helper()
	return m.Kubectl(m.t, append([]string{"-n", namespace}, args...)...)
}

func (m team) ready(what ...string) {
	m.t.Helper()
	m.WaitFor(m.t, "condition=Ready", append([]string{"-n", namespace}, what...)...)
}

// hardened is what Pod Security's restricted asks of a container.
const hardened = "securityContext: {runAsUser: 65534, runAsNonRoot: true, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}"

// server is a pod that serves HTTP, TCP and gRPC on ports 8080 to 8082, with more
// of its spec as YAML lines indented by two.
func server(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s, tier: %[2]s}}
spec:
  terminationGracePeriodSeconds: 2
%[3]s
  containers:
  - name: app
    image: %[4]s
    args: [all]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    %[5]s
`, name, tier(name), spec, cluster.TestImage, hardened)
}

// tier is server for the pods that Service both has.
func tier(name string) string {
	if strings.HasPrefix(name, "web") {
		return "server"
	}
	return "other"
}

// service has the ports of server, both families, and more of its spec as YAML.
func service(name, selector, spec string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {%s}
  ports: [{name: http, port: 8080}, {name: tcp, port: 8081}, {name: grpc, port: 8082}]
%s
`, name, selector, spec)
}

// inPod runs the test's program in a pod's application.
func (m team) inPod(ctx context.Context, pod string, args ...string) (string, error) {
	out, err := m.Run(ctx, nil, append([]string{"-n", namespace, "exec", pod, "-c", "app", "--", "/testapp"}, args...)...)
	return strings.TrimSpace(out), err
}

// answer is what server says of itself and its client.
type answer struct {
	server string
	client netip.Addr
}

func parse(text string) (a answer, err error) {
	line, _, _ := strings.Cut(text, "\n")
	server, client, ok := strings.Cut(line, " ")
	addr, err := netip.ParseAddrPort(client)
	if !ok || err != nil {
		return a, fmt.Errorf("%q names no server and client: %w", text, err)
	}
	return answer{server, addr.Addr().Unmap()}, nil
}

// gets asks from a pod for a URL until one of the servers has answered, which hears
// the pod's own address as its client's.
func (m team) gets(from, url string, servers ...string) {
	m.t.Helper()
	m.asks(from, servers, "get", url)
}

// says is gets for a server that speaks first.
func (m team) says(from, addr string, servers ...string) {
	m.t.Helper()
	m.asks(from, servers, "say", addr, "hello")
}

func (m team) asks(from string, servers []string, args ...string) {
	m.t.Helper()
	own := m.addrs(from)
	cluster.Eventually(m.t, limit, fmt.Sprintf("%v in %s", args, from), func(ctx context.Context) error {
		out, err := m.inPod(ctx, from, args...)
		if err != nil {
			return err
		}
		if args[0] == "say" && !strings.HasSuffix(out, "\nhello") {
			return fmt.Errorf("%q is no echo", out)
		}
		a, err := parse(out)
		switch {
		case err != nil:
			return err
		case !contains(servers, a.server):
			return fmt.Errorf("%s answered, not one of %v", a.server, servers)
		case !contains(own, a.client):
			return fmt.Errorf("%s took its client for %s, and %s has %v", a.server, a.client, from, own)
		}
		return nil
	})
}

func contains[T comparable](all []T, x T) bool {
	for _, y := range all {
		if x == y {
			return true
		}
	}
	return false
}

// addrs are a pod's addresses, IPv4 first.
func (m team) addrs(pod string) []netip.Addr {
	m.t.Helper()
	addrs := parseAddrs(m.t, m.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"))
	if len(addrs) != 2 || !addrs[0].Is4() || !addrs[1].Is6() {
		m.t.Fatalf("%s has %v", pod, addrs)
	}
	return addrs
}

func parseAddrs(t *testing.T, text string) (out []netip.Addr) {
	t.Helper()
	for s := range strings.FieldsSeq(text) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// securely does something and waits until a pod's sidecar has counted more of what came to the pod by
// mTLS: requests, or with another metric connections.
func (m team) securely(pod, metric string, do func()) {
	m.t.Helper()
	before := m.counted(pod, metric)
	do()
	cluster.Eventually(m.t, limit, pod+" counts it as mTLS", func(context.Context) error {
		if now := m.counted(pod, metric); now <= before {
			return fmt.Errorf("%s was and is %v", metric, now)
		}
		return nil
	})
}

const (
	requests    = "request_total"
	connections = "tcp_open_total"
)

// counted sums a metric over everything that came to a pod by mTLS from the
// namespace's pods.
func (m team) counted(pod, metric string) (sum float64) {
	m.t.Helper()
	for line := range strings.Lines(m.metrics(pod)) {
		labels, ok := strings.CutPrefix(line, metric+"{")
		if !ok || !strings.Contains(labels, `direction="inbound"`) || !strings.Contains(labels, `tls="true"`) ||
			!strings.Contains(labels, `client_id="default.`+namespace+`.sa`) {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(labels[strings.LastIndex(labels, "}")+1:], &v); err != nil {
			m.t.Fatal(err, line)
		}
		sum += v
	}
	return sum
}

func (m team) metrics(pod string) string {
	m.t.Helper()
	return m.Meshctl(m.t, "-n", namespace, "diagnostics", "proxy-metrics", "pod/"+pod)
}

// plain are the requests that came to a pod in plain text, as metrics; its own
// probes are left out.
func (m team) plain(pod string) (lines []string) {
	m.t.Helper()
	for line := range strings.Lines(m.metrics(pod)) {
		if strings.HasPrefix(line, requests+"{") && strings.Contains(line, `direction="inbound"`) &&
			strings.Contains(line, `tls="no_identity"`) && !strings.Contains(line, `authz_name="probe"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// restarts are how often a pod's sidecar was started again.
func (m team) restarts(pod string) string {
	m.t.Helper()
	return m.kubectl("get", "pod", pod, "-o", "jsonpath={.status.initContainerStatuses[?(@.name=='mesh-proxy')].restartCount}")
}

var errNotYet = errors.New("not yet")
