package workloads

import (
	"context"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// job asks a server of the mesh and ends; more is YAML of its spec, pod of its
// pod's.
func job(name, args, more, pod string) string {
	return fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec:
%s
  template:
    metadata: {}
    spec:
%s
      containers:
      - name: app
        image: %s
        args: [%s]
`, name, more, pod, cluster.TestImage, args)
}

// ended is why the sidecars of a Job's pods ended, and with which code.
func (m team) ended(job string) string {
	m.t.Helper()
	return m.kubectl("get", "pods", "-l", "batch.kubernetes.io/job-name="+job, "-o",
		"jsonpath={range .items[*]}{.status.phase} {range .status.initContainerStatuses[*]}{.name} {.state.terminated.reason} {.state.terminated.exitCode} {.restartCount}{end}{'\\n'}{end}")
}

// testJobs: a Job completes and one that fails fails, and neither its sidecar's end
// nor that of a try before is a failure.
func testJobs(m team) {
	m.make(
		job("good", `get, "http://web:8080/"`, "  backoffLimit: 0", "      restartPolicy: Never"),
		job("bad", `get, "http://web:8080/ill/"`, "  backoffLimit: 0", "      restartPolicy: Never"),
		job("second", "once, /state/first", "  backoffLimit: 3", "      restartPolicy: OnFailure\n      volumes: [{name: state, emptyDir: {}}]")+
			"        volumeMounts: [{name: state, mountPath: /state}]\n",
		job("many", `get, "http://web:8080/"`, "  backoffLimit: 0\n  completions: 4\n  parallelism: 2", "      restartPolicy: Never"),
	)
	for name, c := range map[string]struct{ condition, phase, sidecar string }{
		"good":   {"Complete", "Succeeded", "mesh-proxy Completed 0 0"},
		"bad":    {"Failed", "Failed", "mesh-proxy Completed 0 0"},
		"second": {"Complete", "Succeeded", "mesh-proxy Completed 0 0"},
		"many":   {"Complete", "Succeeded", "mesh-proxy Completed 0 0"},
	} {
		m.WaitFor(m.t, "condition="+c.condition, "-n", namespace, "job/"+name)
		ended := m.ended(name)
		if ended == "" {
			m.t.Errorf("%s has no pod", name)
		}
		for line := range strings.Lines(ended) {
			if strings.TrimSpace(line) != c.phase+" "+c.sidecar {
				m.t.Errorf("%s: %s", name, line)
			}
		}
	}
	if out := m.kubectl("logs", "job/good"); !strings.HasPrefix(out, "web1 ") {
		m.t.Errorf("it heard %q", out)
	}
	if n := m.kubectl("get", "pods", "-l", "batch.kubernetes.io/job-name=second", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); n != "1" {
		m.t.Errorf("its container was started again %s times", n)
	}
}

// testCronJob: what it makes is injected as any other.
func testCronJob(m team) {
	m.make(fmt.Sprintf(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - name: app
            image: %s
            args: [get, "http://web:8080/"]
`, cluster.TestImage))
	m.kubectl("create", "job", "ticked", "--from=cronjob/tick")
	m.WaitFor(m.t, "condition=Complete", "-n", namespace, "job/ticked")
	if got := strings.TrimSpace(m.ended("ticked")); got != "Succeeded mesh-proxy Completed 0 0" {
		m.t.Error(got)
	}
}

// testInitContainers: those of the application run after the sidecar has begun to
// serve, as containers of the mesh, in the order that they have.
func testInitContainers(m team) {
	m.make(server("initialised", fmt.Sprintf(`
  initContainers:
  - {name: first, image: %[1]s, args: [get, "http://only-init:8080/"]}
  - name: helper
    image: %[1]s
    restartPolicy: Always
    args: [serve, ":9000"]
    startupProbe: {httpGet: {path: /healthz, port: 9000}, periodSeconds: 1}
  - {name: second, image: %[1]s, args: [get, "http://127.0.0.1:9000/"]}
  - {name: third, image: %[1]s, args: [say, "only-init:8081", hello]}
`, cluster.TestImage)), service("only-init", "app: web2", ""))
	m.ready("pod/initialised")
	if got := m.kubectl("get", "pod", "initialised", "-o", "jsonpath={.spec.initContainers[*].name}"); got != "mesh-proxy first helper second third" {
		m.t.Errorf("init containers: %s", got)
	}
	own := m.addrs("initialised")
	for name, server := range map[string]string{"first": "web2", "second": "initialised", "third": "web2"} {
		out := m.kubectl("logs", "initialised", "-c", name)
		a, err := parse(out)
		if err != nil || a.server != server || server != "initialised" && !contains(own, a.client) {
			m.t.Errorf("%s heard %q: %v", name, out, err)
		}
	}
	m.securely("initialised", requests, func() { m.gets("client1", url(own[0], 8080), "initialised") })
	m.securely("initialised", requests, func() { m.gets("client1", url(own[0], 9000), "initialised") })
}

// testBeforeSidecar: an init container that somebody put before the sidecar has no
// network, rather than one outside of the mesh.
func testBeforeSidecar(m team) {
	var pod map[string]any
	text := server("early", "  restartPolicy: Never\n  initContainers: [{name: before, image: "+cluster.TestImage+", args: [get, \""+url(m.addrs("web1")[0], 8080)+"\"]}]")
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	cmd := m.Here(ctx, "meshctl", "inject", "--manual", "-")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err == nil {
		err = yaml.Unmarshal(out, &pod)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	spec, _ := pod["spec"].(map[string]any)
	inits, _ := spec["initContainers"].([]any)
	if len(inits) != 2 {
		m.t.Fatalf("init containers: %v", inits)
	}
	inits[0], inits[1] = inits[1], inits[0]
	changed, err := yaml.Marshal(pod)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.Run(ctx, strings.NewReader(string(changed)), "-n", namespace, "apply", "-f", "-"); err != nil {
		m.t.Fatal(err)
	}
	m.WaitFor(m.t, "jsonpath={.status.phase}=Failed", "-n", namespace, "pod/early")
	got := m.kubectl("get", "pod", "early", "-o", "jsonpath={.status.initContainerStatuses[0].name} {.status.initContainerStatuses[0].state.terminated.exitCode} {.status.initContainerStatuses[1].name}")
	if said := m.kubectl("logs", "early", "-c", "before"); got != "before 1 mesh-proxy" || !strings.Contains(said, "deadline exceeded") {
		m.t.Errorf("%s: %s", got, said)
	}
}
