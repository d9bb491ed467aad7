package workloads

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// probed has a container for each kind of probe, whose three probes are one of
// good; each line is YAML of a handler.
func probed(name, probes string, good [4]string) string {
	out := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 2\n  nodeName: node2\n  containers:\n", name)
	for i, c := range []struct{ name, args string }{{"http", "serve"}, {"tcp", "tcp"}, {"grpc", "grpc"}, {"exec", "serve, ':8090'"}} {
		out += fmt.Sprintf("  - name: %s\n    image: %s\n    args: [%s]\n", c.name, cluster.TestImage, c.args)
		for probe := range strings.FieldsSeq(probes) {
			failures := 3
			if probe == "startup" {
				failures = 60
			}
			// An answer may be slow where the machine is busy; what it says is looked at.
			out += fmt.Sprintf("    %sProbe: {periodSeconds: 1, timeoutSeconds: 30, failureThreshold: %d, %s}\n", probe, failures, good[i])
		}
	}
	return out
}

// probes counts, of a pod on node2, a container's probes with a result, as the
// kubelet does.
func (m team) probes(pod, container, kind, result string) (n int) {
	m.t.Helper()
	for line := range strings.Lines(m.Kubectl(m.t, "get", "--raw", "/api/v1/nodes/node2/proxy/metrics/probes")) {
		if !strings.HasPrefix(line, "prober_probe_total{") {
			continue
		}
		of := true
		for label, v := range map[string]string{"pod": pod, "container": container, "probe_type": kind, "result": result} {
			of = of && strings.Contains(line, label+`="`+v+`"`)
		}
		if !of {
			continue
		}
		v, err := strconv.ParseFloat(line[strings.LastIndex(strings.TrimSpace(line), " ")+1:len(line)-1], 64)
		if err != nil {
			m.t.Fatal(err, line)
		}
		n += int(v)
	}
	return n
}

// testProbes: every probe of the four kinds succeeds, the first as all others.
func testProbes(m team) {
	m.make(probed("probed", "startup readiness liveness", [4]string{
		"httpGet: {path: /healthz, port: 8080}", "tcpSocket: {port: 8081}", "grpc: {port: 8082}", "exec: {command: [/testapp, cat, /etc/passwd]}",
	}))
	m.ready("pod/probed")
	for _, c := range []string{"http", "tcp", "grpc", "exec"} {
		cluster.Eventually(m.t, limit, "the kubelet has probed "+c, func(context.Context) error {
			if m.probes("probed", c, "Liveness", "successful") < 3 || m.probes("probed", c, "Readiness", "successful") < 1 {
				return errNotYet
			}
			return nil
		})
		for _, kind := range []string{"Readiness", "Liveness"} {
			if n := m.probes("probed", c, kind, "failed"); n > 0 {
				m.t.Errorf("%s: %d %s probes failed", c, n, kind)
			}
		}
	}
	if got := m.kubectl("get", "pod", "probed", "-o", "jsonpath={.status.containerStatuses[*].restartCount}{.status.initContainerStatuses[*].restartCount}"); got != "0 0 0 00" {
		m.t.Errorf("restarts: %s", got)
	}
}

// testFailingProbes: what does not answer, or not well, is seen not to; a container
// that fails its liveness probe is started again, and its sidecar is not.
func testFailingProbes(m team) {
	bad := [4]string{
		"httpGet: {path: /ill/, port: 8080}", "tcpSocket: {port: 9}", "grpc: {port: 8082, service: nobody}", "exec: {command: [/testapp, cat, /nowhere]}",
	}
	m.make(probed("ill", "readiness", bad), probed("dying", "liveness", bad))
	for container, words := range map[string]string{
		"http": "statuscode: 404", "tcp": "connection refused", "grpc": "unknown service", "exec": "open /nowhere",
	} {
		cluster.Eventually(m.t, limit, container+" is seen to be ill", func(ctx context.Context) error {
			if m.probes("ill", container, "Readiness", "failed") < 2 {
				return errNotYet
			}
			out, err := m.Run(ctx, nil, "-n", namespace, "get", "events", "--field-selector=involvedObject.name=ill,reason=Unhealthy", "-o", "jsonpath={range .items[*]}{.involvedObject.fieldPath} {.message}{'\\n'}{end}")
			if err == nil && !regexp.MustCompile(`\{`+container+`\} .*`+words).MatchString(out) {
				err = fmt.Errorf("no %q in %s", words, out)
			}
			return err
		})
		if n := m.probes("ill", container, "Readiness", "successful"); n > 0 {
			m.t.Errorf("%s: %d probes succeeded", container, n)
		}
	}
	state := m.kubectl("get", "pod", "ill", "-o", "jsonpath={.status.containerStatuses[*].ready} {.status.initContainerStatuses[*].ready}")
	if state != "false false false false true" {
		m.t.Errorf("containers and sidecar are ready: %s", state)
	}
	cluster.Eventually(m.t, limit, "every container was started again", func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "-n", namespace, "get", "pod", "dying", "-o", "jsonpath={.status.containerStatuses[*].restartCount}")
		if err == nil && (strings.Contains(out, "0") || len(strings.Fields(out)) != 4) {
			err = errors.New(out)
		}
		return err
	})
	if n := m.restarts("dying"); n != "0" {
		m.t.Errorf("the sidecar was started again %s times", n)
	}
	m.kubectl("delete", "pod", "ill", "dying", "--wait=false")
}

// testExec: a command in the application's container, with its input and its exit
// code.
func testExec(m team) {
	if out := m.kubectl("exec", "web1", "--", "/testapp", "lookup", "localhost"); !strings.Contains(out, "127.0.0.1") {
		m.t.Errorf("it says %q", out)
	}
	_, err := m.Run(m.t.Context(), nil, "-n", namespace, "exec", "web1", "--", "/testapp", "cat", "/nowhere")
	if err == nil || !strings.Contains(err.Error(), "exit code 1") || !strings.Contains(err.Error(), "open /nowhere") {
		m.t.Errorf("a command that fails: %v", err)
	}
	if out := m.kubectl("exec", "web1", "--", "/testapp", "id"); !strings.Contains(out, "CapEff: 0000000000000000") || !strings.Contains(out, "Uid: 65534") {
		m.t.Errorf("in which container was it? %s", out)
	}
}

// testLogs: the application's container is the one that is meant where none is
// named, and the sidecar has its own.
func testLogs(m team) {
	m.gets("client1", "http://web:8080/a-line-in-the-log", "web1")
	for _, args := range [][]string{{"logs", "web1"}, {"logs", "web1", "-c", "app", "--tail=1000"}} {
		if out := m.kubectl(args...); !strings.Contains(out, "GET /a-line-in-the-log from ") {
			m.t.Errorf("%v: %s", args, out)
		}
	}
	if out := m.kubectl("logs", "web1", "-c", "mesh-proxy"); strings.Contains(out, "GET /a-line") {
		m.t.Errorf("the sidecar's log: %s", out)
	}
}

// testHostUsers: a pod whose users are nobody on the node.
func testHostUsers(m team) {
	m.make(server("mapped", "  nodeName: node2\n  hostUsers: false"), service("mapped", "app: mapped", ""))
	m.ready("pod/mapped")
	out, err := m.inPod(m.t.Context(), "mapped", "id")
	if err != nil {
		m.t.Fatal(err)
	}
	if _, ids, ok := strings.Cut(out, "Map: "); !ok || strings.HasPrefix(ids, "0 0 ") {
		m.t.Errorf("its user ids are mapped as %q", ids)
	}
	for _, client := range []string{"client1", "client2"} {
		m.securely("mapped", requests, func() { m.gets(client, "http://mapped:8080/", "mapped") })
		m.securely("mapped", connections, func() { m.says(client, "mapped:8081", "mapped") })
	}
	m.securely("web2", requests, func() { m.gets("mapped", url(m.addrs("web2")[0], 8080), "web2") })
	m.securely("web2", requests, func() { m.gets("mapped", url(m.addrs("web2")[1], 8080), "web2") })
	m.reaches(url(m.addrs("mapped")[1], 8080), "mapped", true)
	if n := m.restarts("mapped"); n != "0" {
		m.t.Errorf("the sidecar was started again %s times", n)
	}
}
