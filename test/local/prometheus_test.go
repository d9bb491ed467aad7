package local_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

const monitoring = "../../deploy/monitoring"

// linkerds are the metrics that promtool complains of: their names are Linkerd's, whose
// dashboards and alerts ask for them.
var linkerds = []string{"control_response_latency_ms", "response_latency_ms"} //nolint:gochecknoglobals // a table

// stock has a Prometheus of its own module scrape the mesh, with the scrape
// configuration and the rules that are given to people, and looks at what it has.
func stock(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	build := exec.Command("go", "build", "-C", "prometheus", "-trimpath", "-ldflags", "-s -w", "-tags", "remove_all_sd", "-o", string(bin)+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build Prometheus: %v: %s", err, out)
	}
	dir := t.TempDir()
	rules, err := filepath.Abs(monitoring + "/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pods := m.Pods(t)
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, scrapeConfig(t, rules, pods), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool := m.Program("promtool")
	for _, args := range [][]string{{"check", "rules", "--lint=all", "--lint-fatal", rules}, {"check", "config", "--lint=all", "--lint-fatal", config}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	const listen = "127.0.0.1:9090"
	var log bytes.Buffer
	cmd := m.InNode(t, m.Program("prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+listen, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // nsenter has become it
		if err := cmd.Wait(); err != nil {
			t.Errorf("prometheus: %v", err)
		}
		if t.Failed() {
			t.Logf("prometheus says: %s", log.String())
		}
	}()
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	node := nettest.Open(t, fmt.Sprintf("/proc/%d/ns/net", holder))
	to := func(address string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (conn net.Conn, err error) {
			err = node.Do(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
				return err
			})
			return conn, err
		}
	}
	p := over(t, "http://"+listen, "", to(listen))
	meshtest.Eventually(t, time.Minute, "Prometheus is ready", func() bool {
		n, err := p.rows("vector(1)")
		return err == nil && n == 1
	})
	p.fill(t)
	p.targets(t, len(pods))
	p.rules(t)
	pages := map[string]string{"the control plane": "127.0.0.1:9990", "web": m.Pod(t, "web").IP + ":4191", "vote-bot": m.Pod(t, "vote-bot").IP + ":4191"}
	complaints := map[string]bool{}
	for who, address := range pages {
		page := over(t, "http://"+address, "", to(address))
		lint(t, promtool, who, page, complaints)
	}
	for _, name := range linkerds {
		if !complaints[name] {
			t.Errorf("promtool does not complain of %s: it need not be listed", name)
		}
	}
}

// scrapeConfig is what is given to people, with the pods as Kubernetes' service
// discovery would tell of them. Two that it would tell of are not to be scraped.
func scrapeConfig(t *testing.T, rules string, pods []meshtest.Pod) []byte {
	t.Helper()
	raw, err := os.ReadFile(monitoring + "/scrape.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := yaml.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	const meta = "__meta_kubernetes_"
	sidecar := func(p meshtest.Pod) group {
		parts := strings.Split(p.Name, "-")
		return group{[]string{p.IP + ":8080"}, map[string]string{
			meta + "pod_annotation_tunmesh_io_injected": "enabled", meta + "pod_phase": "Running", meta + "pod_ip": p.IP, meta + "pod_node_name": "here",
			meta + "pod_container_init": "true", meta + "pod_container_name": "mesh-proxy", meta + "namespace": p.Namespace, meta + "pod_name": p.Name,
			meta + "pod_controller_kind": "ReplicaSet", meta + "pod_controller_name": strings.Join(parts[:len(parts)-1], "-"),
		}}
	}
	var sidecars []group
	for _, p := range pods {
		sidecars = append(sidecars, sidecar(p))
	}
	over, app := sidecar(pods[0]), sidecar(pods[0])
	over.Labels[meta+"pod_phase"] = "Succeeded"
	app.Labels[meta+"pod_container_init"], app.Labels[meta+"pod_container_name"] = "false", "app"
	sidecars = append(sidecars, over, app)
	control := []group{{[]string{"127.0.0.1:9990"}, map[string]string{
		meta + "pod_container_port_name": "admin", meta + "namespace": "tunmesh", meta + "pod_name": "mesh-control-0", meta + "pod_container_name": "mesh-control",
	}}}
	for i, found := range [][]group{sidecars, control} {
		job := c["scrape_configs"].([]any)[i].(map[string]any)
		delete(job, "kubernetes_sd_configs")
		job["static_configs"] = found
		job["scrape_interval"] = "3s"
	}
	c["rule_files"] = []string{rules}
	c["global"] = map[string]any{"evaluation_interval": "5s"}
	if raw, err = yaml.Marshal(c); err != nil {
		t.Fatal(err)
	}
	return raw
}

// targets says whether all sidecars and the control plane are scraped, and nothing else.
func (p *promql) targets(t *testing.T, pods int) {
	t.Helper()
	var answer struct {
		Data struct {
			ActiveTargets []struct {
				Health, LastError, ScrapeURL string
				Labels                       map[string]string
			}
		}
	}
	if err := p.get("/api/v1/targets", nil, &answer); err != nil {
		t.Fatal(err)
	}
	if n := len(answer.Data.ActiveTargets); n != pods+1 {
		t.Errorf("%d targets, want %d sidecars and the control plane", n, pods)
	}
	for _, a := range answer.Data.ActiveTargets {
		if a.Health != "up" || a.Labels["job"] == "mesh-proxy" && (a.Labels["namespace"] == "" || a.Labels["pod"] == "" || a.Labels["deployment"] == "") {
			t.Errorf("%+v", a)
		}
	}
}

// rules says whether each is evaluated without an error.
func (p *promql) rules(t *testing.T) {
	t.Helper()
	type rule struct{ Name, Health, LastError string }
	meshtest.Eventually(t, time.Minute, "all rules are evaluated", func() bool {
		var answer struct {
			Data struct {
				Groups []struct{ Rules []rule }
			}
		}
		if err := p.get("/api/v1/rules", nil, &answer); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, g := range answer.Data.Groups {
			for _, r := range g.Rules {
				if r.Health == "err" {
					t.Fatalf("%+v", r)
				}
				if r.Health != "ok" {
					return false
				}
				n++
			}
		}
		return n > 10
	})
}

// lint has promtool check a page, and notes of which metrics it complains.
func lint(t *testing.T, promtool, who string, page *promql, complaints map[string]bool) {
	t.Helper()
	resp, err := page.client.Get(page.base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("page of %s: %s, %v", who, resp.Status, err)
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(text)
	var out bytes.Buffer
	cmd.Stderr = &out
	const lintError = 3
	if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() != lintError {
		t.Fatalf("promtool check metrics of %s: %v: %s", who, err, out.String())
	}
	for s := bufio.NewScanner(&out); s.Scan(); {
		name, why, _ := strings.Cut(s.Text(), " ")
		complaints[name] = true
		if !slices.Contains(linkerds, name) {
			t.Errorf("promtool check metrics of %s: %s: %s", who, name, why)
		}
	}
}
