package control_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/sourcetest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// inCluster is a plane in a cluster that only remembers.
type inCluster struct {
	t      *testing.T
	client *fake.Clientset
	plane  *control.Plane
	stop   context.CancelFunc
	ended  chan error
	evict  atomic.Pointer[func(name string) error] // what becomes of evictions; nil: the pod goes
	away   atomic.Bool                             // the API server reviews no tokens
}

func authority(t *testing.T) (anchor, anchorKey, cert, key []byte) {
	t.Helper()
	anchor, anchorKey, err := identity.NewAnchor("cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err = identity.NewIssuer(anchor, anchorKey, "cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return anchor, anchorKey, cert, key
}

func anchors(pem []byte) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: control.Namespace, Name: control.AnchorsConfigMap}, Data: map[string]string{control.AnchorsKey: string(pem)}}
}

func issuer(cert, key []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: control.Namespace, Name: control.IssuerSecret}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	}
}

func startCluster(t *testing.T, objects ...runtime.Object) *inCluster {
	t.Helper()
	return startThrough(t, func(c *fake.Clientset) kube.Client { return c }, objects...)
}

// startThrough starts a plane whose way to the cluster is what through returns.
func startThrough(t *testing.T, through func(*fake.Clientset) kube.Client, objects ...runtime.Object) *inCluster {
	t.Helper()
	c := &inCluster{t: t, ended: make(chan error, 1)}
	c.client = fake.NewClientset(append(objects,
		&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: control.WebhookConfiguration}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "pods.tunmesh.io",
				NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
					{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"kube-system"}},
				}},
				ObjectSelector: &metav1.LabelSelector{},
			}},
		},
		sourcetest.Namespace("default", annotation.Inject, "enabled"),
		sourcetest.Pod("a", "10.1.0.1"), sourcetest.Service("web", "10.96.0.1"))...)
	c.client.PrependReactor("create", "tokenreviews", c.review)
	c.client.PrependReactor("create", "pods", c.evicted)
	plane, err := control.New(control.Config{
		Cluster: &control.Cluster{Client: through(c.client), WebhookListen: "127.0.0.1:0", CNINamespace: "tunmesh-cni", Repair: true},
		Listen:  "127.0.0.1:0", AdminListen: "127.0.0.1:0", Version: "v9", StopDelay: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.plane = plane
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go func() { c.ended <- plane.Run(ctx) }()
	t.Cleanup(c.end)
	return c
}

func (c *inCluster) end() {
	c.stop()
	if c.ended == nil {
		return
	}
	select {
	case err := <-c.ended:
		if err != nil {
			c.t.Error(err)
		}
	case <-time.After(30 * time.Second):
		c.t.Error("did not stop within 30 s")
	}
	c.ended = nil
}

// review takes tokens for what their subject says: "pod uid".
func (c *inCluster) review(a clienttesting.Action) (bool, runtime.Object, error) {
	if c.away.Load() {
		return true, nil, errors.New("connection refused")
	}
	r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(r.Spec.Token, &claims); err != nil {
		return true, nil, err
	}
	pod, uid, _ := strings.Cut(claims.Subject, " ")
	r.Status = authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: r.Spec.Audiences,
		User: authenticationv1.UserInfo{Username: "system:serviceaccount:default:default", Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {pod}, "authentication.kubernetes.io/pod-uid": {uid},
		}},
	}
	return true, r, nil
}

// evicted deletes a pod that is to be evicted, as its budgets allow.
func (c *inCluster) evicted(a clienttesting.Action) (bool, runtime.Object, error) {
	if a.GetSubresource() != "eviction" {
		return false, nil, nil
	}
	e := a.(clienttesting.CreateAction).GetObject().(*policyv1.Eviction)
	if f := c.evict.Load(); f != nil {
		if err := (*f)(e.Name); err != nil {
			return true, nil, err
		}
	}
	return true, nil, c.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), e.Namespace, e.Name)
}

// agent is a node's agent, which is ready.
func agent(node string) *corev1.Pod {
	return sourcetest.Pod("agent-"+node, "192.0.2.1", sourcetest.Unmeshed, func(p *corev1.Pod) {
		p.Namespace, p.Labels, p.Spec.NodeName, p.Spec.HostNetwork = "tunmesh-cni", map[string]string{"app.kubernetes.io/name": "mesh-cni"}, node, true
	})
}

// bare is a pod of a ReplicaSet that has no sidecar.
func bare(name, ip string) *corev1.Pod {
	return sourcetest.Pod(name, ip, sourcetest.Unmeshed, func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "uid-web", Controller: isTrue()}}
	})
}

func isTrue() *bool { b := true; return &b }

// eventually waits until a condition holds.
func (c *inCluster) eventually(what string, cond func() bool) {
	c.t.Helper()
	for end := time.Now().Add(60 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("not within a minute: %s (ready: %v)", what, c.plane.Ready())
		}
	}
}

func (c *inCluster) put(o runtime.Object) {
	c.t.Helper()
	tracker := c.client.Tracker()
	err := tracker.Add(o)
	if apierrors.IsAlreadyExists(err) {
		kind := "configmaps"
		if _, ok := o.(*corev1.Secret); ok {
			kind = "secrets"
		}
		m, merr := meta.Accessor(o)
		if merr != nil {
			c.t.Fatal(merr)
		}
		err = tracker.Update(corev1.SchemeGroupVersion.WithResource(kind), o, m.GetNamespace())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// certify asks for a certificate with a token of a pod.
func (c *inCluster) certify(subject, audience, id string, pool *x509.CertPool) (*identityapi.CertifyResponse, error) {
	c.t.Helper()
	conn := c.dial(pool)
	defer conn.Close()
	return c.certifyOver(conn, subject, audience, id)
}

// dial connects to the plane.
func (c *inCluster) dial(pool *x509.CertPool) *grpc.ClientConn {
	c.t.Helper()
	conn, err := grpc.NewClient(c.plane.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // verified by hand: the name is a URI
		VerifyConnection: func(s tls.ConnectionState) error {
			chain := x509.NewCertPool()
			for _, i := range s.PeerCertificates[1:] {
				chain.AddCert(i)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain})
			return err
		},
	})))
	if err != nil {
		c.t.Fatal(err)
	}
	return conn
}

func (c *inCluster) certifyOver(conn *grpc.ClientConn, subject, audience, id string) (*identityapi.CertifyResponse, error) {
	c.t.Helper()
	tok, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: subject, Audience: []string{audience}}).SignedString([]byte("x"))
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	name, err := url.Parse(id)
	if err != nil {
		c.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return identityapi.NewIdentityClient(conn).Certify(ctx, &identityapi.CertifyRequest{Csr: csr, Token: tok})
}

func poolOf(t *testing.T, pems ...[]byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	for _, pem := range pems {
		if !p.AppendCertsFromPEM(pem) {
			t.Fatal("no certificate")
		}
	}
	return p
}

const (
	ownID      = "spiffe://cluster.local/ns/default/sa/default"
	ouraud     = annotation.TokenAudience
	anotherAud = "https://kubernetes.default.svc"
)

func TestClusterIdentity(t *testing.T) {
	anchor, anchorKey, cert, key := authority(t)
	c := startCluster(t, anchors(anchor), issuer(cert, key))
	c.eventually("ready", func() bool { return c.plane.Ready() == nil })
	pool := poolOf(t, anchor)
	first, err := c.certify("a uid-a", ouraud, ownID, pool)
	if err != nil {
		t.Fatal(err)
	}
	for what, try := range map[string]struct {
		subject, audience, id string
		want                  codes.Code
	}{
		"another audience":       {"a uid-a", anotherAud, ownID, codes.Unauthenticated},
		"a deleted pod's":        {"gone uid-gone", ouraud, ownID, codes.Unauthenticated},
		"a pod of the same name": {"a uid-before", ouraud, ownID, codes.Unauthenticated},
		"names somebody else":    {"a uid-a", ouraud, "spiffe://cluster.local/ns/default/sa/root", codes.PermissionDenied},
	} {
		if _, err := c.certify(try.subject, try.audience, try.id, pool); status.Code(err) != try.want {
			t.Errorf("%s: %v, want %s", what, err, try.want)
		}
	}
	c.away.Store(true)
	if _, err := c.certify("a uid-a", ouraud, ownID, pool); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody reviews tokens: %v", err)
	}
	c.away.Store(false)

	// A new issuer, by its own kind of Secret: another generation, no restart.
	cert2, key2, err := identity.NewIssuer(anchor, anchorKey, "cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	next := issuer(nil, nil)
	next.Type, next.Data = corev1.SecretTypeOpaque, map[string][]byte{control.IssuerKey: append(bytes.Clone(cert2), key2...)}
	c.put(next)
	var second *identityapi.CertifyResponse
	c.eventually("another issuer", func() bool {
		second, err = c.certify("a uid-a", ouraud, ownID, pool)
		return err == nil && second.GetGeneration() != first.GetGeneration()
	})
	// The node agents have the anchors, whatever somebody does to their copy.
	copied := func() bool {
		m, err := c.client.CoreV1().ConfigMaps("tunmesh-cni").Get(context.Background(), control.AnchorsConfigMap, metav1.GetOptions{})
		return err == nil && m.Data[control.AnchorsKey] == string(anchor)
	}
	c.eventually("the copy", copied)
	broken := anchors(nil)
	broken.Namespace = "tunmesh-cni"
	c.put(broken)
	c.eventually("the copy again", copied)
	// A foreign issuer is refused, named, and changes nothing.
	_, _, foreign, foreignKey := authority(t)
	c.put(issuer(foreign, foreignKey))
	c.eventually("the problem is told", func() bool { return strings.Contains(c.scrape(), "certificate_authority_healthy 0") })
	if third, err := c.certify("a uid-a", ouraud, ownID, pool); err != nil || third.GetGeneration() != second.GetGeneration() {
		t.Errorf("%v", err)
	}
}

// TestClusterWithoutAuthority: it runs, says what is missing, and goes on when it
// is there.
func TestClusterWithoutAuthority(t *testing.T) {
	c := startCluster(t)
	c.eventually("what is missing", func() bool {
		err := c.plane.Ready()
		return err != nil && strings.Contains(err.Error(), "there is nothing in ConfigMap tunmesh/tunmesh-trust-anchors") && strings.Contains(err.Error(), "there is nothing in Secret tunmesh/tunmesh-identity-issuer")
	})
	anchor, _, cert, key := authority(t)
	c.put(anchors(anchor))
	c.put(issuer(cert, key))
	c.eventually("ready", func() bool { return c.plane.Ready() == nil })
	if _, err := c.certify("a uid-a", ouraud, ownID, poolOf(t, anchor)); err != nil {
		t.Error(err)
	}
}

// scrape is what /metrics says.
func (c *inCluster) scrape() string {
	c.t.Helper()
	resp, err := http.Get("http://" + c.plane.AdminAddr().String() + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// believed waits until the API server believes the webhook, and returns by what.
func (c *inCluster) believed() (bundle []byte) {
	c.t.Helper()
	c.eventually("the API server believes the webhook", func() bool {
		w, err := c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(context.Background(), control.WebhookConfiguration, metav1.GetOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		bundle = w.Webhooks[0].ClientConfig.CABundle
		return len(bundle) > 0 && c.plane.Ready() == nil
	})
	return bundle
}

// ask asks the webhook about a pod, JSON, as the API server does.
func (c *inCluster) ask(bundle []byte, namespace, pod string) *admissionv1.AdmissionResponse {
	c.t.Helper()
	client := c.webhookClient(bundle)
	defer client.CloseIdleConnections()
	resp, err := askOver(client, namespace, pod)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// webhookClient asks the webhook and nobody else.
func (c *inCluster) webhookClient(bundle []byte) *http.Client {
	c.t.Helper()
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: poolOf(c.t, bundle), ServerName: "mesh-injector.tunmesh.svc", MinVersion: tls.VersionTLS13},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, c.plane.WebhookAddr().String())
		},
	}}
}

// askOver asks about a pod over a client that is kept.
func askOver(client *http.Client, namespace, pod string) (*admissionv1.AdmissionResponse, error) {
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "q", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create, Namespace: namespace,
			Object: runtime.RawExtension{Raw: []byte(pod)},
		},
	})
	if err != nil {
		return nil, err
	}
	resp, err := client.Post("https://mesh-injector.tunmesh.svc/inject", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(resp.Body).Decode(&review); err != nil {
		return nil, err
	}
	if review.Response == nil {
		return nil, errors.New("no response: " + resp.Status)
	}
	return review.Response, nil
}

func TestClusterWebhook(t *testing.T) {
	anchor, _, cert, key := authority(t)
	c := startCluster(t, anchors(anchor), issuer(cert, key))
	bundle := c.believed()
	ask := func(pod string) *admissionv1.AdmissionResponse {
		t.Helper()
		return c.ask(bundle, "default", pod)
	}
	if resp := ask(`{"metadata":{"name":"x"},"spec":{"containers":[{"name":"app"}]}}`); !strings.Contains(string(resp.Patch), `"mesh-proxy"`) || !strings.Contains(string(resp.Patch), ":v9") {
		t.Errorf("%s", resp.Patch)
	}
	if resp := ask(`{"metadata":{"name":"x","annotations":{"config.tunmesh.io/nope":"1"}},"spec":{"containers":[{"name":"app"}]}}`); len(resp.Patch) > 0 || len(resp.Warnings) != 1 {
		t.Errorf("%s %q", resp.Patch, resp.Warnings)
	}
	c.eventually("an event", func() bool {
		list, err := c.client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 1 && strings.Contains(list.Items[0].Message, "config.tunmesh.io/nope")
	})
	c.eventually("the event counted", func() bool { return strings.Contains(c.scrape(), "kube_events_written_total 1") })
	text := c.scrape()
	for _, want := range []string{
		`proxy_inject_admission_requests_total{namespace="default",owner_kind="pod"} 2`,
		`proxy_inject_admission_responses_total{namespace="default",owner_kind="pod",skip="false",skip_reason=""} 1`,
		`proxy_inject_admission_responses_total{namespace="default",owner_kind="pod",skip="true",skip_reason="invalid_config_annotation"} 1`,
		`kube_cache_size{kind="Pod"} 1`, `kube_watched{kind="Service"} 1`, "webhook_healthy 1", "kube_events_written_total 1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %q", want)
		}
	}
	// A pod that came through without being asked about is named.
	c.put(sourcetest.Pod("bare", "10.1.0.9", sourcetest.Unmeshed))
	c.put(sourcetest.Pod("host", "192.0.2.9", sourcetest.Unmeshed, func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	c.put(sourcetest.Pod("plain", "10.1.0.8", sourcetest.Unmeshed, func(p *corev1.Pod) { p.Annotations[annotation.Inject] = "disabled" }))
	c.eventually("an event about the pod", func() bool {
		list, err := c.client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 2 && (list.Items[0].InvolvedObject.Name == "bare" || list.Items[1].InvolvedObject.Name == "bare")
	})
	c.eventually("its metric", func() bool { return strings.Contains(c.scrape(), `unmeshed_pods{namespace="default"} 1`) })
	// Told to stop, it is not ready at once, and answers on.
	c.stop()
	c.eventually("not ready", func() bool { err := c.plane.Ready(); return err != nil && strings.Contains(err.Error(), "is to stop") })
	c.end()
}

// Every metric of the control plane is on the page of metrics.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	anchor, _, cert, key := authority(t)
	c := startCluster(t, anchors(anchor), issuer(cert, key))
	n := 0
	for line := range strings.Lines(c.scrape()) {
		name, ok := strings.CutPrefix(line, "# TYPE ")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if n++; !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
	}
	if n < 40 {
		t.Errorf("only %d metrics found", n)
	}
}
