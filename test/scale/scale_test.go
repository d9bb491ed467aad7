package scale_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/test/cluster"
)

// wanted is the environment variable without which the test skips.
const wanted = "TUNMESH_SCALE"

// figures are what the test finds.
type figures struct {
	Services           int       `json:"services"`
	Endpoints          int       `json:"endpoints"`
	Proxies            int       `json:"proxies"`
	Watches            int       `json:"watches"`
	Processors         int       `json:"processors"`
	ReadSeconds        float64   `json:"read_seconds"`         // from the start of mesh-control to its readiness
	AloneMB            float64   `json:"alone_mb"`             // resident, before any proxy
	ResidentMB         float64   `json:"resident_mb"`          // with all proxies
	FirstSeconds       float64   `json:"first_seconds"`        // all proxies told of all targets
	FirstBytes         int64     `json:"first_bytes_received"` // by all proxies, TLS included
	ChangeMs           []float64 `json:"change_ms"`            // from the API server's answer to the last proxy told
	ChangeP50Ms        float64   `json:"change_p50_ms"`
	ChangeP99Ms        float64   `json:"change_p99_ms"`
	SteadyCPU          float64   `json:"steady_cpu"` // processors, with 10 changes a second
	SteadyBytes        float64   `json:"steady_bytes_per_second"`
	IdleCPU            float64   `json:"idle_cpu"`
	RestartSeconds     float64   `json:"restart_seconds"` // from kill -9 to all proxies told of all targets again
	RestartResidentMB  float64   `json:"restart_resident_mb"`
	WatchersOfAService float64   `json:"watchers_of_a_service"`
}

// TestScale measures. With TUNMESH_SCALE_OUT it writes the figures there, as JSON.
func TestScale(t *testing.T) {
	if os.Getenv(wanted) == "" {
		t.Skipf("takes minutes: runs with %s=1, or by make scale", wanted)
	}
	n := size{services: 1000, perService: 10, proxies: 1000, targets: 20}
	if s := os.Getenv(wanted); s != "1" { // a fraction, to try the test itself
		k, err := strconv.Atoi(s)
		if err != nil || k < 1 || k > 50 {
			t.Fatalf("%s=%q: want 1, or 2 to 50 for that part of it", wanted, s)
		}
		n.services, n.proxies = n.services/k, n.proxies/k
	}
	t.Setenv(cluster.Wanted, "1")
	c := cluster.Start(t, cluster.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	f := figures{Services: n.services, Endpoints: n.services * n.perService, Proxies: n.proxies, Watches: n.proxies * n.targets, Processors: runtime.NumCPU()}
	o := &objects{t: t, client: connect(t, c), size: n}
	// Who takes pods away whose node is none of the cluster's.
	if err := c.Process("kube-controller-manager").Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := o.create(ctx); err != nil {
		t.Fatal(err)
	}
	anchor := o.authority(ctx)
	plane := newPlane(t, c)
	plane.start(ctx)
	if err := until(ctx, "mesh-control ready", plane.ready); err != nil {
		t.Fatal(err)
	}
	f.ReadSeconds, f.AloneMB = time.Since(plane.began).Seconds(), plane.resident()

	p := &proxies{t: t, addr: plane.addr, anchor: anchor, size: n}
	if err := p.certify(ctx, o.token(ctx, podName(0))); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	p.bytes.Store(0)
	began := time.Now()
	go func() { defer close(done); p.run(running) }()
	defer func() { stop(); <-done }()
	if err := until(ctx, "all proxies told of all targets", func() bool { return p.missing.Load() == 0 && p.told.Load() >= int64(f.Watches) }); err != nil {
		t.Fatalf("%v: %d of %d missing", err, p.missing.Load(), f.Watches)
	}
	f.FirstSeconds, f.FirstBytes = time.Since(began).Seconds(), p.bytes.Load()
	f.WatchersOfAService = float64(f.Watches) / float64(n.services)
	sleep(ctx, 3*time.Second)
	f.ResidentMB = plane.resident()

	p.slow.Store(true)
	f.IdleCPU, _ = plane.during(ctx, p, 5*time.Second, func() {})
	for i := range 100 {
		f.ChangeMs = append(f.ChangeMs, o.lag(ctx, p, i*7%n.services))
		sleep(ctx, 20*time.Millisecond)
	}
	sorted := slices.Sorted(slices.Values(f.ChangeMs))
	f.ChangeP50Ms, f.ChangeP99Ms = sorted[len(sorted)/2], sorted[len(sorted)*99/100]

	const steady = 20 * time.Second
	f.SteadyCPU, f.SteadyBytes = plane.during(ctx, p, steady, func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range int(steady / (100 * time.Millisecond)) {
			if _, _, err := o.change(ctx, (i*13+5)%n.services); err != nil {
				t.Error(err)
			}
			<-tick.C
		}
	})

	o.caughtUp(ctx, p)
	p.slow.Store(false)

	began = time.Now()
	plane.kill()
	plane.start(ctx)
	if err := until(ctx, "all proxies gone", func() bool { return p.missing.Load() > 0 }); err != nil {
		t.Fatal(err)
	}
	if err := until(ctx, "all proxies told again", func() bool { return p.missing.Load() == 0 }); err != nil {
		t.Fatalf("%v: %d missing", err, p.missing.Load())
	}
	f.RestartSeconds = time.Since(began).Seconds()
	sleep(ctx, 3*time.Second)
	f.RestartResidentMB = plane.resident()
	if err := p.failed.Load(); err != nil {
		t.Error(*err)
	}
	f.judge(t)
}

// judge prints the figures and holds them to their lines.
func (f figures) judge(t *testing.T) {
	t.Helper()
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", raw)
	if path := os.Getenv("TUNMESH_SCALE_OUT"); path != "" {
		if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil { //nolint:gosec // a report
			t.Error(err)
		}
	}
	if f.ChangeP99Ms >= 1000 {
		t.Errorf("from a change to the last proxy told: p99 %.0f ms, want less than 1000", f.ChangeP99Ms)
	}
}

// lag changes a Service and returns how long it took, in ms, from the API server's
// answer until its last watcher was told.
func (o *objects) lag(ctx context.Context, p *proxies, service int) float64 {
	o.t.Helper()
	watch := p.watch[service]
	before := make([]int64, len(watch))
	for i, w := range watch {
		before[i] = w.number.Load()
	}
	_, answered, err := o.change(ctx, service)
	if err != nil {
		o.t.Fatal(err)
	}
	last := answered.UnixNano()
	for i, w := range watch {
		if w.proxy == slowProxy {
			continue
		}
		if err := until(ctx, "a watcher told of a change", func() bool { return w.number.Load() > before[i] }); err != nil {
			o.t.Fatalf("%v: proxy %d, service %d", err, w.proxy, service)
		}
		last = max(last, w.told.Load())
	}
	return float64(last-answered.UnixNano()) / 1e6
}

// caughtUp: the slow proxy was left its streams, and hears how things are.
func (o *objects) caughtUp(ctx context.Context, p *proxies) {
	o.t.Helper()
	for service, watch := range p.watch {
		for _, w := range watch {
			if w.proxy != slowProxy {
				continue
			}
			want := int64(o.perService)
			if !*o.slices[service].Endpoints[0].Conditions.Ready {
				want--
			}
			if err := until(ctx, "the slow proxy told of all changes", func() bool { return w.ready.Load() == want }); err != nil {
				o.t.Fatalf("%v: service %d: %d endpoints of %d", err, service, w.ready.Load(), want)
			}
			if n := w.streams.Load(); n != 1 {
				o.t.Errorf("the slow proxy's stream of service %d began %d times", service, n)
			}
		}
	}
}

// authority makes trust anchors and issuer as the chart does.
func (o *objects) authority(ctx context.Context) *x509.Certificate {
	o.t.Helper()
	anchor, anchorKey, err := identity.NewAnchor("cluster.local", time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	cert, key, err := identity.NewIssuer(anchor, anchorKey, "cluster.local", time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	core := o.client.CoreV1()
	_, e1 := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: control.Namespace}}, metav1.CreateOptions{})
	_, e2 := core.ConfigMaps(control.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: control.AnchorsConfigMap}, Data: map[string]string{control.AnchorsKey: string(anchor)},
	}, metav1.CreateOptions{})
	_, e3 := core.Secrets(control.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: control.IssuerSecret}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	}, metav1.CreateOptions{})
	if err := errors.Join(e1, e2, e3); err != nil {
		o.t.Fatal(err)
	}
	block, _ := pem.Decode(anchor)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

// token is a kubelet's for a pod.
func (o *objects) token(ctx context.Context, pod string) string {
	o.t.Helper()
	p, err := o.client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	r, err := o.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{annotation.TokenAudience}, BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod, UID: p.UID},
	}}, metav1.CreateOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	return r.Status.Token
}

// plane is mesh-control as a process.
type plane struct {
	t                   *testing.T
	program, kubeconfig string
	addr, admin         string
	cmd                 *exec.Cmd
	began               time.Time
}

func newPlane(t *testing.T, c *cluster.Cluster) *plane {
	t.Helper()
	p := &plane{t: t, program: filepath.Join(t.TempDir(), "mesh-control"), kubeconfig: c.Kubeconfig(), addr: free(t), admin: free(t)}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", p.program, "github.com/tunmesh/tunmesh/cmd/mesh-control")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mesh-control: %v: %s", err, out)
	}
	return p
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *plane) start(ctx context.Context) {
	p.t.Helper()
	log, err := os.Create(filepath.Join(p.t.TempDir(), "mesh-control.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close() // the process has its own
	p.cmd = exec.CommandContext(ctx, p.program, "--source=kube", "--kubeconfig="+p.kubeconfig, "--listen="+p.addr, "--admin-listen="+p.admin, "--webhook-listen=", "--cni-namespace=")
	p.cmd.Stderr, p.cmd.Stdout = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if p.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			p.t.Logf("mesh-control:\n%s", text)
		}
	})
}

func (p *plane) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // killed
}

func (p *plane) ready() bool {
	resp, err := http.Get("http://" + p.admin + "/ready") //nolint:noctx // a process of ours on this machine
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// resident is the process' memory, in MB.
func (p *plane) resident() float64 {
	p.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return float64(kb) / 1024
}

// cpu is the processor time that the process has used.
func (p *plane) cpu() time.Duration {
	p.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, e1 := strconv.Atoi(fields[11])
	system, e2 := strconv.Atoi(fields[12])
	if err := errors.Join(e1, e2); err != nil {
		p.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
}

// during returns the processors that the process used while f ran for d, and the
// bytes a second that all proxies got.
func (p *plane) during(ctx context.Context, all *proxies, d time.Duration, f func()) (cpu, bytes float64) {
	began, cpuBefore, bytesBefore := time.Now(), p.cpu(), all.bytes.Load()
	f()
	sleep(ctx, d-time.Since(began))
	took := time.Since(began).Seconds()
	return (p.cpu() - cpuBefore).Seconds() / took, float64(all.bytes.Load()-bytesBefore) / took
}
