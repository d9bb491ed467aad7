package control_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	destinationapi "github.com/tunmesh/tunmesh/api/destination"
	identityapi "github.com/tunmesh/tunmesh/api/identity"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/controltest"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/spiffe"
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

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

// webPod is the n-th pod of Service web.
func webPod(n int) controltest.Pod {
	return controltest.Pod{
		Name: fmt.Sprintf("web-%d", n), ServiceAccount: "web", IP: fmt.Sprintf("10.1.0.%d", n),
		Labels: map[string]string{"app": "web"}, Deployment: "web",
	}
}

func client() controltest.Pod { return controltest.Pod{Name: "client", IP: "10.1.1.1"} }

func code(t *testing.T, err error, want codes.Code, text string) {
	t.Helper()
	if status.Code(err) != want || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error %v, want %s with %q", err, want, text)
	}
}

func TestCertify(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	pod := p.PutPod(webPod(1))
	other := p.PutPod(client())
	p.Settle()
	c := identityapi.NewIdentityClient(p.Dial(nil))
	id := spiffe.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "web"}
	_, csr := controltest.CSR(t, id)
	resp, err := c.Certify(ctx(t), &identityapi.CertifyRequest{Csr: csr, Token: p.Token(pod)})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(resp.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.URIs[0].String() != id.String() || leaf.NotAfter.Unix() != resp.GetNotAfterUnix() || len(resp.GetAnchors()) != 1 || resp.GetGeneration() == 0 {
		t.Errorf("certificate of %v until %v; response %+v", leaf.URIs, leaf.NotAfter, resp)
	}

	claims := controltest.Claims(pod)
	otherUID, otherPod, otherSA := claims, claims, claims
	otherUID.PodUID, otherPod.Pod, otherSA.ServiceAccount = "gone", "client", "admin"
	for name, tc := range map[string]struct {
		csr   []byte
		token string
		code  codes.Code
		text  string
	}{
		"no token":                        {csr, "", codes.Unauthenticated, "token is not valid"},
		"a token for another audience":    {csr, p.Mint(claims, "api", time.Hour), codes.Unauthenticated, "audience"},
		"a token that has expired":        {csr, p.Mint(claims, annotation.TokenAudience, time.Nanosecond), codes.Unauthenticated, "expired"},
		"a token of another pod":          {csr, p.Token(other), codes.PermissionDenied, "names another identity"},
		"a token with a uid of no pod":    {csr, p.Mint(otherUID, annotation.TokenAudience, time.Hour), codes.Unauthenticated, "there is no pod"},
		"a token with another pod's name": {csr, p.Mint(otherPod, annotation.TokenAudience, time.Hour), codes.Unauthenticated, "not the one with its uid"},
		"a token of another account":      {csr, p.Mint(otherSA, annotation.TokenAudience, time.Hour), codes.Unauthenticated, "not the one with its uid"},
		"a request that is none":          {[]byte("x"), p.Token(pod), codes.InvalidArgument, "not acceptable"},
		"a request that names another":    {requestFor(t, "admin"), p.Token(pod), codes.PermissionDenied, "names another identity"},
		"a request for the control plane": {requestForID(t, control.ID("cluster.local")), p.Token(pod), codes.PermissionDenied, "names another identity"},
	} {
		t.Run(name, func(t *testing.T) {
			time.Sleep(2 * time.Millisecond)
			_, err := c.Certify(ctx(t), &identityapi.CertifyRequest{Csr: tc.csr, Token: tc.token})
			code(t, err, tc.code, tc.text)
		})
	}
	t.Run("a pod that was deleted", func(t *testing.T) {
		tok := p.Token(pod)
		p.DeletePod("default", "web-1")
		p.Settle()
		_, err := c.Certify(ctx(t), &identityapi.CertifyRequest{Csr: csr, Token: tok})
		code(t, err, codes.Unauthenticated, "there is no pod")
	})
	t.Run("a pod that is not known yet", func(t *testing.T) {
		q := webPod(2).Object()
		done := make(chan error, 1)
		go func() {
			_, err := c.Certify(ctx(t), &identityapi.CertifyRequest{Csr: csr, Token: p.Token(q)})
			done <- err
		}()
		time.Sleep(100 * time.Millisecond)
		p.PutPod(webPod(2))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func requestFor(t *testing.T, account string) []byte {
	return requestForID(t, spiffe.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: account})
}

func requestForID(t *testing.T, id spiffe.ID) []byte {
	t.Helper()
	_, csr := controltest.CSR(t, id)
	return csr
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// TestWhoMayCall: everything but Certify and Trust needs a certificate of the mesh,
// and speaks for a pod of the same identity alone.
func TestWhoMayCall(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	pod := p.PutPod(webPod(1))
	p.PutPod(client())
	p.Settle()
	watch := func(conn *grpc.ClientConn, pod, target string) error {
		s, err := destinationapi.NewDestinationClient(conn).Watch(ctx(t), &destinationapi.WatchRequest{Target: target, Pod: pod})
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	}
	own := p.As(ctx(t), pod)
	if err := watch(own, "default/web-1", "10.96.0.1:80"); err != nil {
		t.Fatal(err)
	}
	code(t, watch(own, "default/client", "10.96.0.1:80"), codes.PermissionDenied, "does not own")
	code(t, watch(own, "default/none", "10.96.0.1:80"), codes.PermissionDenied, "does not own")
	code(t, watch(own, "client", "10.96.0.1:80"), codes.InvalidArgument, "want namespace/name")
	for _, bad := range []string{"", "web:80", "10.96.0.1", "10.96.0.1:0", "10.96.0.1:99999"} {
		code(t, watch(own, "default/web-1", bad), codes.InvalidArgument, "want IP:port")
	}
	bare := p.Dial(nil)
	code(t, watch(bare, "default/web-1", "10.96.0.1:80"), codes.Unauthenticated, "client certificate of the mesh is needed")
	pol, err := policyapi.NewPolicyClient(bare).Watch(ctx(t), &policyapi.WatchRequest{Pod: "default/web-1"})
	if err == nil {
		_, err = pol.Recv()
	}
	code(t, err, codes.Unauthenticated, "client certificate")
	trust, err := identityapi.NewIdentityClient(bare).WatchTrust(ctx(t), &identityapi.WatchTrustRequest{})
	if err == nil {
		_, err = trust.Recv()
	}
	code(t, err, codes.Unauthenticated, "client certificate")
	bundle, err := identityapi.NewIdentityClient(bare).Trust(ctx(t), &identityapi.TrustRequest{})
	if err != nil || len(bundle.GetAnchors()) != 1 || bundle.GetGeneration() == 0 {
		t.Errorf("trust anchors for anybody: %v, %v", bundle, err)
	}
	// Certificates that were not issued here are refused by the handshake.
	foreign := controltest.Start(t, nil, manifests)
	fpod := foreign.PutPod(webPod(1))
	foreign.Settle()
	cert := foreign.Certificate(ctx(t), fpod)
	code(t, watch(p.Dial(&cert), "default/web-1", "10.96.0.1:80"), codes.Unavailable, "")
}

// recv receives one update with a deadline of its own.
func recv(t *testing.T, s interface {
	Recv() (*destinationapi.Update, error)
}) *destinationapi.Update {
	t.Helper()
	type result struct {
		u   *destinationapi.Update
		err error
	}
	ch := make(chan result, 1)
	go func() { u, err := s.Recv(); ch <- result{u, err} }()
	select {
	case r := <-ch:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.u
	case <-time.After(10 * time.Second):
		t.Fatal("no update within 10 s")
		return nil
	}
}

func TestDestination(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(client())
	p.PutPod(webPod(1))
	p.Settle()
	conn := p.As(ctx(t), me)
	s, err := destinationapi.NewDestinationClient(conn).Watch(ctx(t), &destinationapi.WatchRequest{Target: "10.96.0.1:80", Pod: "default/client"})
	if err != nil {
		t.Fatal(err)
	}
	u := recv(t, s)
	tg := u.GetTarget()
	if u.GetVersion() != 1 || tg.GetKind() != destinationapi.Kind_SERVICE || len(tg.GetEndpoints()) != 1 || tg.GetAuthority() != "web.default.svc.cluster.local:80" {
		t.Fatalf("first: %v", u)
	}
	e := tg.GetEndpoints()[0]
	if e.GetAddress() != "10.1.0.1:8080" || e.GetWeight() != 10000 || e.GetIdentity() != "spiffe://cluster.local/ns/default/sa/web" || e.GetLabels()["deployment"] != "web" {
		t.Errorf("endpoint: %v", e)
	}
	// The second stream shares encodings, and has versions of its own.
	p.PutPod(webPod(2))
	u = recv(t, s)
	if d := u.GetDelta(); u.GetVersion() != 2 || len(d.GetPut()) != 1 || d.GetPut()[0].GetAddress() != "10.1.0.2:8080" || len(d.GetRemove()) != 0 {
		t.Errorf("a pod more: %v", u)
	}
	s2, err := destinationapi.NewDestinationClient(conn).Watch(ctx(t), &destinationapi.WatchRequest{Target: "10.96.0.1:80", Pod: "default/client"})
	if err != nil {
		t.Fatal(err)
	}
	if u := recv(t, s2); u.GetVersion() != 1 || len(u.GetTarget().GetEndpoints()) != 2 {
		t.Errorf("a second stream: %v", u)
	}
	p.DeletePod("default", "web-1")
	for i, s := range []grpc.ServerStreamingClient[destinationapi.Update]{s, s2} {
		if u := recv(t, s); u.GetVersion() != uint64(3-i) || fmt.Sprint(u.GetDelta().GetRemove()) != "[10.1.0.1:8080]" {
			t.Errorf("a pod less, stream %d: %v", i, u)
		}
	}
	p.Apply("0.yaml", strings.Replace(manifests, "port: 80,", "port: 80, appProtocol: grpc,", 1))
	if u := recv(t, s); u.GetTarget().GetProtocol() != destinationapi.Protocol_HTTP2 || len(u.GetTarget().GetEndpoints()) != 1 {
		t.Errorf("another protocol: %v", u)
	}
	// What the Service's owner asks of its callers comes with a state of its own,
	// and what nobody can read comes not.
	const plain = "kind: Service\nmetadata: {name: web}"
	if !strings.Contains(manifests, plain) {
		t.Fatal("the manifests are not as this test wants them")
	}
	p.Apply("0.yaml", strings.Replace(manifests, plain, "kind: Service\nmetadata: {name: web, annotations: "+
		"{timeout.tunmesh.io/request: 2s, timeout.linkerd.io/idle: 5m, timeout.tunmesh.io/response: soon}}", 1))
	if u := recv(t, s); u.GetTarget().GetTraffic().GetTimeouts().GetRequestMs() != 2000 || u.GetTarget().GetTraffic().GetTimeouts().GetIdleMs() != 300_000 ||
		u.GetTarget().GetTraffic().GetTimeouts().GetResponseMs() != 0 || len(u.GetTarget().GetEndpoints()) != 1 {
		t.Errorf("annotated: %v", u)
	}
	// The asker's end ends its streams.
	p.DeletePod("default", "client")
	for {
		if _, err = s.Recv(); err != nil {
			break
		}
	}
	code(t, err, codes.NotFound, "is gone")
}

func TestDestinationKinds(t *testing.T) {
	p := controltest.Start(t, func(c *control.Config) {
		c.MeshNetworks = prefixes(t, "10.1.0.0/16,10.96.0.0/16")
	}, manifests)
	me := p.PutPod(client())
	p.Settle()
	c := destinationapi.NewDestinationClient(p.As(ctx(t), me))
	for target, want := range map[string]destinationapi.Kind{
		"10.96.0.1:80": destinationapi.Kind_SERVICE, "10.96.0.1:81": destinationapi.Kind_NONE, "10.1.1.1:5": destinationapi.Kind_POD,
		"10.1.9.9:80": destinationapi.Kind_NONE, "192.0.2.1:443": destinationapi.Kind_EXTERNAL, "[2001:db8::1]:443": destinationapi.Kind_EXTERNAL,
	} {
		s, err := c.Watch(ctx(t), &destinationapi.WatchRequest{Target: target, Pod: "default/client"})
		if err != nil {
			t.Fatal(err)
		}
		if got := recv(t, s).GetTarget(); got.GetKind() != want {
			t.Errorf("%s is %v, want %v", target, got, want)
		}
	}
}

// TestUnsyncedSaysNothing: a control plane that does not know the cluster must
// not call anything external.
func TestUnsyncedSaysNothing(t *testing.T) {
	p := controltest.Start(t, nil, "kind: [")
	conn := p.Dial(nil)
	pod := webPod(1).Object()
	_, err := identityapi.NewIdentityClient(conn).Certify(ctx(t), &identityapi.CertifyRequest{Csr: requestFor(t, "web"), Token: p.Token(pod)})
	code(t, err, codes.Unavailable, "not known yet")
	ready := func() string {
		resp, err := http.Get("http://" + p.Plane().AdminAddr().String() + "/ready")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(body))
	}
	defer http.DefaultClient.CloseIdleConnections()
	if got := ready(); !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "0.yaml") {
		t.Errorf("ready says %q", got)
	}
	p.Apply("0.yaml", manifests)
	eventually(t, "ready", func() bool { return strings.HasPrefix(ready(), "200 ") })
}

func TestPolicy(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	q := webPod(1)
	q.Annotations = map[string]string{annotation.OpaquePorts: "9000-9002"}
	q.Change = func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
		pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready?full=1", Port: strOrInt("http")}}}
		pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: strOrInt("9")}}}
		pod.Spec.Containers[0].StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 10}}}
	}
	pod := p.PutPod(q)
	p.Settle()
	s, err := policyapi.NewPolicyClient(p.As(ctx(t), pod)).Watch(ctx(t), &policyapi.WatchRequest{Pod: "default/web-1"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *policyapi.InboundPolicy {
		t.Helper()
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	got := next()
	want := `[port:10 method:"POST" path:"/grpc.health.v1.Health/Check" port:8080 method:"GET" path:"/ready?full=1" port:9]`
	if s := strings.Join(strings.Fields(fmt.Sprint(got.GetProbes())), " "); s != want {
		t.Errorf("probes %s, want %s", s, want)
	}
	if got.GetVersion() != 1 || got.GetDefault() != policyapi.Default_ALL_UNAUTHENTICATED || len(got.GetClusterNetworks()) != 5 || got.GetLabels()["deployment"] != "web" {
		t.Errorf("policy %v", got)
	}
	if ports := got.GetPorts(); len(ports) != 1 || ports[0].GetFirst() != 9000 || ports[0].GetLast() != 9002 || ports[0].GetProtocol() != uint32(destinationapi.Protocol_OPAQUE) {
		t.Errorf("ports %v", ports)
	}
	// The namespace's annotation holds where the pod's is absent.
	p.Apply("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: {config.tunmesh.io/default-inbound-policy: all-authenticated}}\n")
	if got := next(); got.GetVersion() != 2 || got.GetDefault() != policyapi.Default_ALL_AUTHENTICATED {
		t.Errorf("policy %v", got)
	}
	q.Annotations[annotation.DefaultInboundPolicy] = "deny"
	p.PutPod(q)
	if got := next(); got.GetDefault() != policyapi.Default_DENY {
		t.Errorf("policy %v", got)
	}
	q.Annotations[annotation.DefaultInboundPolicy] = "audit"
	p.PutPod(q)
	if got := next(); got.GetDefault() != policyapi.Default_AUDIT {
		t.Errorf("policy %v", got)
	}
	// What cannot be read denies.
	q.Annotations[annotation.DefaultInboundPolicy] = "alow"
	p.PutPod(q)
	if got := next(); got.GetDefault() != policyapi.Default_DENY {
		t.Errorf("policy %v", got)
	}
}

// TestRestart: the authority is the same, old certificates hold, and watches go
// on with a new stream.
func TestRestart(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(client())
	p.PutPod(webPod(1))
	p.Settle()
	anchors := string(p.Anchors())
	conn := p.As(ctx(t), me)
	watch := func() error {
		s, err := destinationapi.NewDestinationClient(conn).Watch(ctx(t), &destinationapi.WatchRequest{Target: "10.96.0.1:80", Pod: "default/client"}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		u, err := s.Recv()
		if err == nil && len(u.GetTarget().GetEndpoints()) != 1 {
			err = fmt.Errorf("update %v", u)
		}
		return err
	}
	if err := watch(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.Stop()
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("stopping took %v", d)
	}
	p.Resume()
	p.Settle()
	if string(p.Anchors()) != anchors {
		t.Error("another authority after the restart")
	}
	if err := watch(); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// TestAnchorsRotate: a second anchor reaches the streams, and what either signed
// is accepted; with the first gone, its certificates are not.
func TestAnchorsRotate(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(client())
	oldCert := p.Certificate(ctx(t), me)
	s, err := identityapi.NewIdentityClient(p.Dial(&oldCert)).WatchTrust(ctx(t), &identityapi.WatchTrustRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Recv()
	if err != nil || len(first.GetAnchors()) != 1 {
		t.Fatalf("%v, %v", first, err)
	}
	other := t.TempDir()
	f, err := identity.OpenFolder(other, "cluster.local", p.Logger())
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(p.State, control.AuthorityDir)
	put := func(name string, data []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(filepath.Join(ca, ".x"), data, 0o600), os.Rename(filepath.Join(ca, ".x"), filepath.Join(ca, name))); err != nil {
			t.Fatal(err)
		}
	}
	put(identity.AnchorsFile, append(p.Anchors(), f.Current().AnchorsPEM()...))
	both, err := s.Recv()
	if err != nil || len(both.GetAnchors()) != 2 || both.GetGeneration() == first.GetGeneration() {
		t.Fatalf("both anchors: %v, %v", both, err)
	}
	issuer, err := os.ReadFile(filepath.Join(other, identity.IssuerFile))
	if err != nil {
		t.Fatal(err)
	}
	put(identity.IssuerFile, issuer)
	third, err := s.Recv()
	if err != nil || third.GetGeneration() == both.GetGeneration() {
		t.Fatalf("the new issuer: %v, %v", third, err)
	}
	newCert := p.Certificate(ctx(t), me)
	for name, cert := range map[string]*tls.Certificate{"old": &oldCert, "new": &newCert} {
		if err := useTrust(t, p.Dial(cert)); err != nil {
			t.Errorf("the %s certificate while both anchors hold: %v", name, err)
		}
	}
	put(identity.AnchorsFile, f.Current().AnchorsPEM())
	if last, err := s.Recv(); err != nil || len(last.GetAnchors()) != 1 {
		t.Fatalf("the new anchor alone: %v, %v", last, err)
	}
	code(t, useTrust(t, p.Dial(&oldCert)), codes.Unavailable, "")
	if err := useTrust(t, p.Dial(&newCert)); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
}

func useTrust(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	s, err := identityapi.NewIdentityClient(conn).WatchTrust(ctx(t), &identityapi.WatchTrustRequest{})
	if err != nil {
		return err
	}
	_, err = s.Recv()
	return err
}

// gate is a connection whose reader stops while the gate is closed.
type gate struct {
	net.Conn
	open *sync.RWMutex
}

// Read implements net.Conn.
func (g gate) Read(b []byte) (int, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	return g.Conn.Read(b)
}

// TestSlowStreamDelaysNobody: one sidecar has hundreds of streams and reads
// nothing; another one is told of changes; and the slow one, when it reads,
// finds the latest state.
func TestSlowStreamDelaysNobody(t *testing.T) {
	p := controltest.Start(t, nil, manifests)
	me := p.PutPod(client())
	for i := range 50 {
		p.PutPod(webPod(i + 1))
	}
	p.Settle()
	cert := p.Certificate(ctx(t), me)
	var open sync.RWMutex
	slow := p.Dial(&cert, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		return gate{c, &open}, err
	}))
	watch := func(conn *grpc.ClientConn) grpc.ServerStreamingClient[destinationapi.Update] {
		t.Helper()
		s, err := destinationapi.NewDestinationClient(conn).Watch(ctx(t), &destinationapi.WatchRequest{Target: "10.96.0.1:80", Pod: "default/client"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	stuck := []grpc.ServerStreamingClient[destinationapi.Update]{watch(slow)}
	recv(t, stuck[0])
	open.Lock()
	for range 300 { // 300 × 10 KB is far more than a connection's window
		stuck = append(stuck, watch(slow))
	}
	s := watch(p.Dial(&cert))
	const rounds = 20
	for i := range rounds { // each round changes every endpoint: some 8 KB of update
		name := fmt.Sprintf("web-%d", i)
		for n := range 50 {
			q := webPod(n + 1)
			q.Deployment = name
			p.PutPod(q)
		}
		for have := map[string]string{}; !all(have, 50, name); {
			fold(recv(t, s), have)
		}
	}
	open.Unlock()
	for _, s := range []grpc.ServerStreamingClient[destinationapi.Update]{stuck[1], stuck[300]} {
		size := 0
		for have := map[string]string{}; !all(have, 50, fmt.Sprintf("web-%d", rounds-1)); {
			u := recv(t, s)
			size += proto.Size(u)
			fold(u, have)
		}
		// gRPC takes 64 KB for a stream before its sender waits; then only the latest counts.
		if size > 64<<10+2*20<<10 {
			t.Errorf("%d bytes waited for a stream that nobody read", size)
		}
	}
}

// all reports whether n endpoints are of one deployment.
func all(have map[string]string, n int, deployment string) bool {
	of := 0
	for _, d := range have {
		if d == deployment {
			of++
		}
	}
	return of == n && len(have) == n
}

// fold applies an update to a set of addresses and their deployments.
func fold(u *destinationapi.Update, have map[string]string) {
	if tg := u.GetTarget(); tg != nil {
		clear(have)
		for _, e := range tg.GetEndpoints() {
			have[e.GetAddress()] = e.GetLabels()["deployment"]
		}
	}
	for _, e := range u.GetDelta().GetPut() {
		have[e.GetAddress()] = e.GetLabels()["deployment"]
	}
	for _, a := range u.GetDelta().GetRemove() {
		delete(have, a)
	}
}

func TestNewErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := control.Config{Dirs: []string{dir}, StateDir: filepath.Join(dir, "state"), Listen: "127.0.0.1:0"}
	for name, tc := range map[string]struct {
		change func(*control.Config)
		want   string
	}{
		"no folder":            {func(c *control.Config) { c.Dirs = nil }, "no folder of manifests"},
		"a folder that is not": {func(c *control.Config) { c.Dirs = []string{dir + "/none"} }, "create it first"},
		"no state folder":      {func(c *control.Config) { c.StateDir = "" }, "no state folder"},
		"a state file":         {func(c *control.Config) { c.StateDir = file }, "not a directory"},
		"a bad trust domain":   {func(c *control.Config) { c.TrustDomain = "Not A Domain" }, "trust domain"},
		"a bad address":        {func(c *control.Config) { c.Listen = "256.0.0.1:1" }, "listen for sidecars"},
		"a bad socket":         {func(c *control.Config) { c.QuerySocket = file }, "is no socket"},
		"a bad admin address":  {func(c *control.Config) { c.AdminListen = "x" }, "listen for admin"},
		"a slow scrape":        {func(c *control.Config) { c.ScrapeInterval = time.Hour }, "half of the window"},
	} {
		cfg := good
		tc.change(&cfg)
		if p, err := control.New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
			if p != nil {
				_ = p.Close()
			}
		}
	}
}
