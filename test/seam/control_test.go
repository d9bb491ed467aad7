package seam_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/controltest"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const manifests = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// sidecar is the sidecar's end: its client, store and tap, on a loop.
type sidecar struct {
	t       *testing.T
	loop    *aiotest.Loop
	store   *mtls.Store
	client  *discover.Client
	hub     *tap.Hub
	metrics *telemetry.Metrics
}

// tookEverything holds that the client refused no update.
func (s *sidecar) tookEverything() {
	s.t.Helper()
	if page := string(s.metrics.Registry.Text()); !strings.Contains(page, "\ncontrol_updates_refused_total 0\n") {
		s.t.Errorf("updates were refused:\n%s", page)
	}
}

// start runs the client of a pod against a plane.
func start(t *testing.T, p *controltest.Plane, pod *corev1.Pod) *sidecar {
	t.Helper()
	p.Settle()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(p.Token(pod)), 0o600); err != nil {
		t.Fatal(err)
	}
	anchors, err := mtls.ParsePEM(string(p.Anchors()))
	if err != nil {
		t.Fatal(err)
	}
	s := &sidecar{t: t, loop: aiotest.NewLoop(), store: mtls.NewStore(mtls.Config{}), metrics: telemetry.New(telemetry.Config{}, "test")}
	if err := s.store.Update(anchors, nil); err != nil {
		t.Fatal(err)
	}
	name := pod.Namespace + "/" + pod.Name
	s.hub, err = tap.New(tap.Config{Pod: name, Logger: p.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	s.client, err = discover.New(discover.Config{
		Pod: name, TokenPath: token, ControlID: p.ID(), Store: s.store, Logger: p.Logger(), Metrics: s.metrics,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.Addr().String())
		},
		Attach:      []func(context.Context, *rpc.Conn) error{s.hub.Attach},
		RenewJitter: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	go func() { s.loop.Serve(ctx); ended <- struct{}{} }()
	go func() { _ = s.client.Run(ctx); ended <- struct{}{} }()
	t.Cleanup(func() { stop(); <-ended; <-ended })
	return s
}

// lookup asks for a target and waits for the answer.
func (s *sidecar) lookup(addr string) *discover.Target {
	s.t.Helper()
	type answer struct {
		target *discover.Target
		err    error
	}
	ch := make(chan answer, 1)
	s.loop.Do(func() {
		s.client.Lookup(s.loop, netip.MustParseAddrPort(addr), func(t *discover.Target, err error) { ch <- answer{t, err} })
	})
	select {
	case a := <-ch:
		if a.err != nil {
			s.t.Fatalf("look up %s: %v", addr, a.err)
		}
		return a.target
	case <-time.After(10 * time.Second):
		s.t.Fatalf("look up %s: no answer within 10 s", addr)
	}
	return nil
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func web(n int) controltest.Pod {
	return controltest.Pod{
		Name: fmt.Sprintf("web-%d", n), ServiceAccount: "web", IP: fmt.Sprintf("10.1.0.%d", n),
		Labels: map[string]string{"app": "web"}, Deployment: "web",
	}
}

func TestSidecarLearnsOfItsTargets(t *testing.T) {
	networks, err := netip.ParsePrefix("10.1.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	p := controltest.Start(t, func(c *control.Config) { c.MeshNetworks = []netip.Prefix{networks} }, manifests)
	me := p.PutPod(controltest.Pod{Name: "client", IP: "10.1.1.1"})
	p.PutPod(web(1))
	s := start(t, p, me)
	target := s.lookup("10.96.0.1:80")
	snap := target.Load()
	if snap.Kind != discover.Service || len(snap.Endpoints) != 1 || snap.Authority != "web.default.svc.cluster.local:80" || snap.Labels["service"] != "web" {
		t.Fatalf("the service: %+v", snap)
	}
	if e := snap.Endpoints[0]; e.Addr.String() != "10.1.0.1:8080" || e.Identity().String() != "spiffe://cluster.local/ns/default/sa/web" || e.Weight != 10000 || e.Labels()["deployment"] != "web" {
		t.Errorf("its endpoint: %+v", e)
	}
	for addr, want := range map[string]discover.Kind{"10.1.0.1:9": discover.Pod, "10.1.7.7:80": discover.None, "192.0.2.1:443": discover.External} {
		if got := s.lookup(addr).Load(); got.Kind != want {
			t.Errorf("%s is %v, want %v", addr, got.Kind, want)
		}
	}
	for i := 2; i < 12; i++ {
		p.PutPod(web(i))
		eventually(t, "an endpoint more", func() bool { return len(target.Load().Endpoints) == i })
	}
	for i := 1; i < 12; i++ {
		p.DeletePod("default", fmt.Sprintf("web-%d", i))
	}
	eventually(t, "no endpoint", func() bool { return len(target.Load().Endpoints) == 0 })
	s.tookEverything()
	eventually(t, "a policy", func() bool { return s.client.Policy() != nil })
	if got := s.client.Policy().Labels()["pod"]; got != "client" {
		t.Errorf("policy of pod %q", got)
	}
}

// TestOutage: without a control plane the last good state stays; with it back,
// the client catches up by itself.
func TestOutage(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(controltest.Pod{Name: "client", IP: "10.1.1.1"})
	p.PutPod(web(1))
	s := start(t, p, me)
	target := s.lookup("10.96.0.1:80")
	p.Stop()
	eventually(t, "the outage is noticed", func() bool { return !s.client.Connected() })
	if len(target.Load().Endpoints) != 1 {
		t.Error("the last good state is lost")
	}
	p.PutPod(web(2))
	p.Resume()
	eventually(t, "caught up", func() bool { return len(target.Load().Endpoints) == 2 })
	s.tookEverything()
}

// TestRotation: a new anchor and a new issuer make the sidecar renew, without a
// restart of anything; then the old anchor may go.
func TestRotation(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(controltest.Pod{Name: "client", IP: "10.1.1.1"})
	s := start(t, p, me)
	s.lookup("10.96.0.1:80")
	since := s.store.Changed()
	other := t.TempDir()
	f, err := identity.OpenFolder(other, "cluster.local", p.Logger())
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(p.State, control.AuthorityDir)
	put := func(name string, data []byte) {
		t.Helper()
		tmp := filepath.Join(ca, ".rotate")
		if err := errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, filepath.Join(ca, name))); err != nil {
			t.Fatal(err)
		}
	}
	put(identity.AnchorsFile, append(p.Anchors(), f.Current().AnchorsPEM()...))
	wait(t, since, "both anchors")
	issuer, err := os.ReadFile(filepath.Join(other, identity.IssuerFile))
	if err != nil {
		t.Fatal(err)
	}
	before := p.Plane().Catalog()
	put(identity.IssuerFile, issuer)
	eventually(t, "a certificate of the new issuer", func() bool { return s.signedBy(f.Current()) })
	put(identity.AnchorsFile, f.Current().AnchorsPEM())
	p.PutPod(web(1))
	target := s.lookup("10.96.0.1:80")
	eventually(t, "an endpoint, under the new anchor", func() bool { return len(target.Load().Endpoints) == 1 && s.client.Connected() })
	if p.Plane().Catalog() != before {
		t.Error("the control plane was restarted")
	}
}

// signedBy reports whether an authority signed the sidecar's certificate.
func (s *sidecar) signedBy(a *identity.Authority) bool {
	cfg, err := s.store.ClientTLS([]spiffe.ID{control.ID("cluster.local")}, "h2", true)
	if err != nil {
		return false
	}
	c, err := cfg.GetClientCertificate(nil)
	return err == nil && len(c.Certificate) > 1 && string(c.Certificate[1]) == string(a.Issuer().Raw)
}

func wait(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(15 * time.Second):
		t.Fatalf("not within 15 s: %s", what)
	}
}

// TestTapReachesTheSidecar: a person's tap becomes a command in the sidecar.
func TestTapReachesTheSidecar(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(controltest.Pod{Name: "client", IP: "10.1.1.1"})
	s := start(t, p, me)
	q := queryapi.NewQueryClient(p.Ask())
	eventually(t, "the sidecar is attached", func() bool {
		h, err := q.Health(t.Context(), &queryapi.HealthRequest{})
		return err == nil && len(h.GetProxies()) == 1 && h.GetProxies()[0].GetConnected()
	})
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if _, err := q.Tap(ctx, &queryapi.TapRequest{Resource: &queryapi.Selector{Kind: "po", Name: "client"}, Match: &tapapi.Match{Method: "GET"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sidecar taps", s.hub.Active)
	stop()
	eventually(t, "the sidecar taps no more", func() bool { return !s.hub.Active() })
}
