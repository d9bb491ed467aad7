// Package controltest runs a whole control plane in the process of a test, from
// folders of manifests. It owns the plane's life and helpers that play the local
// runtime (pods with status, tokens) and a sidecar (certificates, connections).
// Only tests import it.
package controltest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/object"
	"github.com/tunmesh/tunmesh/control/token"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Plane is a running control plane and the folders that it lives from.
type Plane struct {
	t testing.TB
	// Manifests and Pods are the watched folders; State is the state folder.
	Manifests, Pods, State string
	// Socket is the query API's.
	Socket string
	cfg    control.Config
	pods   map[catalog.Key]*catalog.Pod // as they were put last

	plane *control.Plane
	stop  context.CancelFunc
	ended chan error
}

// Start runs a control plane until the test ends. change, which may be nil, sees
// the Config first. manifests are written before it starts.
func Start(t testing.TB, change func(*control.Config), manifests ...string) *Plane {
	t.Helper()
	dir, err := os.MkdirTemp("", "tm-control-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Plane{
		t: t, pods: map[catalog.Key]*catalog.Pod{}, Manifests: filepath.Join(dir, "manifests"), Pods: filepath.Join(dir, "pods"),
		State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "query.sock"),
	}
	for _, d := range []string{p.Manifests, p.Pods} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range manifests {
		p.Apply(fmt.Sprintf("%d.yaml", i), m)
	}
	p.cfg = control.Config{
		Dirs: []string{p.Manifests, p.Pods}, StateDir: p.State, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0",
		QuerySocket: p.Socket, ScrapeInterval: 200 * time.Millisecond, Version: "test",
		Logger: slog.New(slog.NewTextHandler(&logWriter{t: t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&p.cfg)
	}
	p.Resume()
	t.Cleanup(p.Stop)
	return p
}

// Resume starts the plane again after Stop, at the address that it had.
func (p *Plane) Resume() {
	p.t.Helper()
	plane, err := control.New(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.plane, p.stop, p.ended = plane, stop, make(chan error, 1)
	if at := plane.Addr().String(); p.cfg.Listen != at { // others read it while it is started again
		p.cfg.Listen = at
	}
	go run(ctx, plane, p.ended)
}

func run(ctx context.Context, plane *control.Plane, ended chan<- error) { ended <- plane.Run(ctx) }

// Stop ends the plane and waits for it. It may be called again.
func (p *Plane) Stop() {
	p.t.Helper()
	if p.plane == nil {
		return
	}
	p.stop()
	select {
	case err := <-p.ended:
		if err != nil {
			p.t.Errorf("control plane ended with: %v", err)
		}
	case <-time.After(10 * time.Second):
		p.t.Error("control plane did not stop within 10 s")
	}
	p.plane = nil
}

// Logger logs to the test.
func (p *Plane) Logger() *slog.Logger { return p.cfg.Logger }

// Plane is the running plane.
func (p *Plane) Plane() *control.Plane { return p.plane }

// Addr is where the sidecars' API listens; it stays over Stop and Resume.
func (p *Plane) Addr() netip.AddrPort { return netip.MustParseAddrPort(p.cfg.Listen) }

// ID is the identity that the control plane proves.
func (p *Plane) ID() spiffe.ID {
	if p.cfg.TrustDomain == "" {
		return control.ID("cluster.local")
	}
	return control.ID(p.cfg.TrustDomain)
}

// Anchors are the trust anchors, PEM.
func (p *Plane) Anchors() []byte { return p.plane.Anchors() }

// Apply writes a manifest, whole; the plane sees it some milliseconds later.
func (p *Plane) Apply(name, text string) {
	p.t.Helper()
	replace(p.t, filepath.Join(p.Manifests, name), []byte(text))
}

// Remove removes a manifest.
func (p *Plane) Remove(name string) {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.Manifests, name)); err != nil {
		p.t.Fatal(err)
	}
}

// Pod says which pod PutPod makes.
type Pod struct {
	Namespace, Name string // namespace "default" if ""
	UID             string // made of the name if ""
	ServiceAccount  string // "default" if ""
	IP              string
	Labels          map[string]string
	Annotations     map[string]string
	Unmeshed        bool
	NotReady        bool
	Deployment      string // its owner, if not ""
	Ports           []corev1.ContainerPort
	Change          func(*corev1.Pod) // last word
}

// Object is the Pod as the local runtime writes it.
func (q Pod) Object() *corev1.Pod {
	if q.Namespace == "" {
		q.Namespace = "default"
	}
	if q.UID == "" {
		q.UID = "uid-" + q.Namespace + "-" + q.Name
	}
	if q.ServiceAccount == "" {
		q.ServiceAccount = "default"
	}
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: q.Namespace, Name: q.Name, UID: types.UID(q.UID), Labels: q.Labels,
			Annotations: map[string]string{}, CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0)),
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: q.ServiceAccount,
			Containers:         []corev1.Container{{Name: "app", Image: "app", Command: []string{"/bin/app"}, Ports: q.Ports}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: q.IP, PodIPs: []corev1.PodIP{{IP: q.IP}}},
	}
	for k, v := range q.Annotations {
		pod.Annotations[k] = v
	}
	if !q.Unmeshed {
		pod.Annotations[annotation.Injected] = "test"
	}
	ready := corev1.ConditionTrue
	if q.NotReady {
		ready = corev1.ConditionFalse
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	if q.Deployment != "" {
		hash := "abc"
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		pod.Labels["pod-template-hash"] = hash
		yes := true
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: q.Deployment + "-" + hash, Controller: &yes}}
	}
	if q.Change != nil {
		q.Change(pod)
	}
	return pod
}

// PutPod writes a running pod, as the local runtime does; Settle waits until the
// plane has read it.
func (p *Plane) PutPod(q Pod) *corev1.Pod {
	p.t.Helper()
	pod := q.Object()
	text, err := json.Marshal(pod)
	if err != nil {
		p.t.Fatal(err)
	}
	replace(p.t, p.podPath(pod.Namespace, pod.Name), text)
	stripped, err := object.Pod(pod)
	if err != nil {
		p.t.Logf("put pod: %v", err)
	}
	p.pods[stripped.Key] = stripped
	return pod
}

// Settle waits until the plane knows all pods as they were put and deleted last.
func (p *Plane) Settle() {
	p.t.Helper()
	for end := time.Now().Add(10 * time.Second); !p.settled(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("the control plane does not know all pods after 10 s: %v", p.plane.Ready())
		}
	}
}

func (p *Plane) settled() bool {
	c := p.plane.Catalog()
	for k, want := range p.pods {
		if have, ok := c.Pod(k); !ok || !reflect.DeepEqual(have, want) {
			return false
		}
	}
	return len(c.Pods("")) == len(p.pods)
}

// DeletePod removes a running pod.
func (p *Plane) DeletePod(namespace, name string) {
	p.t.Helper()
	if err := os.Remove(p.podPath(namespace, name)); err != nil {
		p.t.Fatal(err)
	}
	delete(p.pods, catalog.Key{Namespace: namespace, Name: name})
}

func (p *Plane) podPath(namespace, name string) string {
	return filepath.Join(p.Pods, namespace+"_"+name+".json")
}

func replace(t testing.TB, path string, data []byte) {
	t.Helper()
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// Token mints a token for a pod, as the local runtime does.
func (p *Plane) Token(pod *corev1.Pod) string {
	p.t.Helper()
	return p.Mint(Claims(pod), annotation.TokenAudience, time.Hour)
}

// Claims are those of a pod's token.
func Claims(pod *corev1.Pod) token.Claims {
	return token.Claims{Namespace: pod.Namespace, ServiceAccount: pod.Spec.ServiceAccountName, Pod: pod.Name, PodUID: string(pod.UID)}
}

// Mint mints any token with the plane's key.
func (p *Plane) Mint(c token.Claims, audience string, lifetime time.Duration) string {
	p.t.Helper()
	key, err := token.Open(filepath.Join(p.State, control.TokenDir))
	if err != nil {
		p.t.Fatal(err)
	}
	tok, err := key.Mint(c, audience, lifetime)
	if err != nil {
		p.t.Fatal(err)
	}
	return tok
}

// CSR makes a key and a request for a certificate of id.
func CSR(t testing.TB, id spiffe.ID) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// Certificate gets a pod's certificate from the plane, as its sidecar does.
func (p *Plane) Certificate(ctx context.Context, pod *corev1.Pod) tls.Certificate {
	p.t.Helper()
	id := spiffe.ID{TrustDomain: p.ID().TrustDomain, Namespace: pod.Namespace, ServiceAccount: pod.Spec.ServiceAccountName}
	key, csr := CSR(p.t, id)
	conn := p.Dial(nil)
	defer conn.Close()
	resp, err := identityapi.NewIdentityClient(conn).Certify(ctx, &identityapi.CertifyRequest{Csr: csr, Token: p.Token(pod)})
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key}
}

// Dial connects to the sidecars' API, with a client certificate or none. It
// verifies the plane's identity against its anchors.
func (p *Plane) Dial(cert *tls.Certificate, opts ...grpc.DialOption) *grpc.ClientConn {
	p.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.Anchors())
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The name in the certificate is an identity, which VerifyConnection checks.
		InsecureSkipVerify: true,
		VerifyConnection:   func(s tls.ConnectionState) error { return verify(s, pool, p.ID()) },
	}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(cfg))}, opts...)
	conn, err := grpc.NewClient(p.cfg.Listen, opts...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

func verify(s tls.ConnectionState, pool *x509.CertPool, want spiffe.ID) error {
	chain := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		chain.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain}); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want.String() {
		return fmt.Errorf("the control plane is %v, not %s", leaf.URIs, want)
	}
	return nil
}

// As connects as a pod's sidecar: with a certificate of its own.
func (p *Plane) As(ctx context.Context, pod *corev1.Pod) *grpc.ClientConn {
	p.t.Helper()
	cert := p.Certificate(ctx, pod)
	return p.Dial(&cert)
}

// Ask connects to the query API.
func (p *Plane) Ask() *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient("unix:"+p.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

// logWriter sends log lines to a test's log while the test runs.
type logWriter struct{ t testing.TB }

// Write implements io.Writer.
func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}
