package health_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	discoveryfake "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/health"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const release = "v1"

// world is a cluster as its objects, by kind and name, before it is asked.
type world struct {
	t       *testing.T
	proxy   string                // what sidecars say their certificate is
	mesh    *query.HealthResponse // what mesh-view says
	refuses error                 // or why it says nothing
	anchors string                // and what they say they believe
	server  string
	denied  string                               // a resource that may not be made
	reviews []authorizationv1.ResourceAttributes // what it was asked whether somebody may
	objects []runtime.Object
	apis    []*metav1.APIResourceList // aggregated
}

// healthy is a cluster of one node with a mesh in which all is well, and a pod.
func healthy(t *testing.T) *world {
	t.Helper()
	w := bare(t)
	v, err := installation.Certified(manifest.Values{}.With(true, "view", "store", "persistentVolume", "enabled"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.proxy = leaf(t, v.Text("identity", "issuer", "certificatePEM"), v.Text("identity", "issuer", "keyPEM"))
	w.anchors = v.Text("identity", "trustAnchorsPEM")
	all, err := installation.Objects(v, release)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.GetKind() == "APIService" { // clients of the core have no type for it
			continue
		}
		typed, err := scheme.Scheme.New(o.GroupVersionKind())
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, typed); err != nil {
			t.Fatal(err)
		}
		w.objects = append(w.objects, typed)
	}
	// What the cluster and the control plane add.
	get[*appsv1.Deployment](w, "mesh-control").Status = appsv1.DeploymentStatus{UpdatedReplicas: 1, AvailableReplicas: 1}
	get[*appsv1.Deployment](w, "mesh-view").Status = appsv1.DeploymentStatus{AvailableReplicas: 1}
	w.apis, w.mesh = append(w.apis, &metav1.APIResourceList{GroupVersion: "view.tunmesh.io/v1alpha1"}), &query.HealthResponse{}
	get[*appsv1.DaemonSet](w, "mesh-cni").Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, UpdatedNumberScheduled: 1}
	ready := corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	control := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tunmesh", Name: "control-1", Labels: map[string]string{"app.kubernetes.io/name": "mesh-control"}},
		Spec:       get[*appsv1.Deployment](w, "mesh-control").Spec.Template.Spec, Status: *ready.DeepCopy(),
	}
	control.Spec.NodeName = "node1"
	agent := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tunmesh-cni", Name: "agent-1", Labels: map[string]string{"app.kubernetes.io/name": "mesh-cni"}},
		Spec:       corev1.PodSpec{NodeName: "node1"}, Status: *ready.DeepCopy(),
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web", Annotations: map[string]string{annotation.Injected: release}},
		Status:     *ready.DeepCopy(),
	}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: annotation.SidecarContainer, Ready: true}}
	anchors := get[*corev1.ConfigMap](w, "tunmesh-trust-anchors")
	ca := []byte(anchors.Data["ca-bundle.crt"]) // a certificate as good as any
	get[*admissionregistrationv1.MutatingWebhookConfiguration](w, "tunmesh-injector").Webhooks[0].ClientConfig.CABundle = ca
	w.objects = append(w.objects, control, agent, pod,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app", Labels: map[string]string{"kubernetes.io/metadata.name": "app"}}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "tunmesh", Name: "tunmesh-injector-ca"}, Data: map[string][]byte{"ca.crt": ca}})
	return w
}

// bare is a cluster without a mesh.
func bare(t *testing.T) *world {
	t.Helper()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node1", Labels: map[string]string{"kubernetes.io/os": "linux"}},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{OperatingSystem: "linux", KernelVersion: "6.18.0-rc1+", ContainerRuntimeVersion: "containerd://2.4.2"},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	now := metav1.NowMicro()
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "node1"}, Spec: coordinationv1.LeaseSpec{RenewTime: &now},
	}
	return &world{t: t, server: "v1.36.4", objects: []runtime.Object{node, lease}}
}

// A right to make what has no namespace is not one that a Role of a namespace gives.
func TestRightsAreAskedForWhereThingsAre(t *testing.T) {
	v, err := installation.Certified(manifest.Values{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	all, err := installation.Objects(v, release)
	if err != nil {
		t.Fatal(err)
	}
	wide := map[string]bool{}
	for _, o := range all {
		resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		wide[resource.Resource] = o.GetNamespace() == ""
	}
	w := bare(t)
	w.run(health.Config{Pre: true})
	for _, r := range w.reviews {
		if (r.Namespace == "") != wide[r.Resource] {
			t.Errorf("%s %s: asked for in namespace %q", r.Verb, r.Resource, r.Namespace)
		}
	}
	if len(w.reviews) < len(wide) {
		t.Errorf("%d questions about %d kinds", len(w.reviews), len(wide))
	}
}

// leaf is a certificate that an authority, PEM, signs.
func leaf(t *testing.T, cert, key string) string {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}, pair.Leaf, own.Public(), pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// get finds the first object of a type and a name.
func get[T runtime.Object](w *world, name string) T {
	w.t.Helper()
	for _, o := range w.objects {
		if typed, ok := o.(T); ok && o.(metav1.Object).GetName() == name {
			return typed
		}
	}
	var none T
	w.t.Fatalf("there is no %T %s", none, name)
	return none
}

// drop takes an object away.
func drop[T runtime.Object](w *world, name string) {
	w.t.Helper()
	gone := runtime.Object(get[T](w, name))
	w.objects = slices.DeleteFunc(w.objects, func(o runtime.Object) bool { return o == gone })
}

func (w *world) run(cfg health.Config) (health.Result, string) {
	w.t.Helper()
	client := fake.NewClientset(w.objects...)
	client.Discovery().(*discoveryfake.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: w.server}
	client.Resources = append(client.Resources, w.apis...)
	client.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		w.reviews = append(w.reviews, *review.Spec.ResourceAttributes)
		review.Status.Allowed = review.Spec.ResourceAttributes.Resource != w.denied
		return true, review, nil
	})
	cfg.Kube, cfg.Version = client, release
	cfg.Get = func(_ context.Context, p *corev1.Pod, port, path string) ([]byte, error) {
		switch {
		case p.Name != "web" || port != "4191":
		case path == "certificate":
			return []byte(w.proxy), nil
		case path == "trust-anchors":
			return []byte(w.anchors), nil
		}
		return nil, errors.New("nobody answers")
	}
	cfg.Mesh = func(context.Context) (*query.HealthResponse, error) {
		return w.mesh, w.refuses
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	got := health.Run(context.Background(), cfg)
	var b strings.Builder
	if err := render.Checks(&b, got.Categories, false); err != nil {
		w.t.Fatal(err)
	}
	return got, b.String()
}

func TestAllIsWell(t *testing.T) {
	for _, cfg := range []health.Config{{}, {Proxy: true}, {Proxy: true, Namespace: "app"}} {
		got, text := healthy(t).run(cfg)
		if !render.Passed(got.Categories) || strings.ContainsAny(text, "‼×") || got.Waiting != "" || !strings.HasSuffix(text, "\nStatus check results are √\n") {
			t.Errorf("waiting %q\n%s", got.Waiting, text)
		}
	}
	got, text := bare(t).run(health.Config{Pre: true})
	if !render.Passed(got.Categories) || strings.ContainsAny(text, "‼×") || !strings.Contains(text, "√ can create MutatingWebhookConfigurations\n") {
		t.Error(text)
	}
}

// Each thing that is wrong fails one check, which names it; what may come right by
// itself is waited for, and nothing else.
func TestWhatIsWrong(t *testing.T) {
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		cfg    health.Config
		world  func(*testing.T) *world
		breaks func(*world)
		want   []string // lines
		waits  bool
	}{
		"nothing installed": {world: bare, want: []string{"× 'tunmesh-config' config map exists", "meshctl install prints what installs it"}},
		"installed before": {
			cfg: health.Config{Pre: true}, want: []string{"× control plane is not installed already", "tunmesh v1 is installed"},
		},
		"old Kubernetes": {breaks: func(w *world) { w.server = "v1.31.9" }, want: []string{"× is running the minimum Kubernetes API version"}},
		"new Kubernetes": {breaks: func(w *world) { w.server = "v1.99.0" }, want: []string{"‼ is running a Kubernetes API version that is tested"}},
		"no right": {
			world: bare, cfg: health.Config{Pre: true}, breaks: func(w *world) { w.denied = "daemonsets" },
			want: []string{"× can create DaemonSets", "create daemonsets: not allowed"},
		},
		"old kernel": {
			breaks: func(w *world) { get[*corev1.Node](w, "node1").Status.NodeInfo.KernelVersion = "4.18.0-553.el8" },
			want:   []string{"‼ nodes run a Linux kernel that is new enough", "node1 has Linux 4.18.0-553.el8"},
		},
		"other runtime": {
			breaks: func(w *world) {
				get[*corev1.Node](w, "node1").Status.NodeInfo.ContainerRuntimeVersion = "docker://29.0"
			},
			want: []string{"‼ container runtimes hand", "node1 has docker://29.0"},
		},
		"clock ahead": {
			breaks: func(w *world) {
				at := metav1.NewMicroTime(time.Now().Add(time.Hour))
				get[*coordinationv1.Lease](w, "node1").Spec.RenewTime = &at
			},
			want: []string{"‼ no clock skew detected", "the clock of node1 is 1h0m0s ahead"},
		},
		"clock behind": {
			breaks: func(w *world) {
				at := metav1.NewMicroTime(time.Now().Add(-time.Hour))
				get[*coordinationv1.Lease](w, "node1").Spec.RenewTime = &at
			},
			want: []string{"‼ no clock skew detected", "behind this machine's"},
		},
		"replica starting": {
			breaks: func(w *world) { get[*appsv1.Deployment](w, "mesh-control").Status.AvailableReplicas = 0 },
			want:   []string{"× control plane replicas are ready", "0 of 1 are ready"}, waits: true,
		},
		"image missing": {
			breaks: func(w *world) {
				p := get[*corev1.Pod](w, "control-1")
				p.Status.Conditions = nil
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "mesh-control", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
			},
			want: []string{"× control plane pods are ready", "control-1: mesh-control waits: ErrImagePull"}, waits: true,
		},
		"no place": {
			breaks: func(w *world) {
				p := get[*corev1.Pod](w, "control-1")
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes"})
			},
			want: []string{"‼ no unschedulable pods", "control-1: 0/1 nodes"},
		},
		"role gone": {
			breaks: func(w *world) { w.objects = without(w, "Role") }, want: []string{"× control plane Roles exist"},
		},
		"view starting": {
			breaks: func(w *world) { get[*appsv1.Deployment](w, "mesh-view").Status.AvailableReplicas = 0 },
			want:   []string{"× mesh-view is ready", "0 of 1 replicas are ready"}, waits: true,
		},
		"no volume for figures": {
			breaks: func(w *world) {
				spec := &get[*appsv1.Deployment](w, "mesh-view").Spec.Template.Spec
				for i := range spec.Volumes {
					if spec.Volumes[i].Name == "metrics" {
						spec.Volumes[i].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
					}
				}
			},
			want: []string{"‼ what mesh-view has counted outlives it", "view.store.persistentVolume.enabled"},
		},
		"view not reached": {
			breaks: func(w *world) { w.apis = nil },
			want:   []string{"× the API server reaches mesh-view", "v1alpha1.view.tunmesh.io does not answer"}, waits: true,
		},
		"figures are not kept": {
			breaks: func(w *world) { w.mesh.FiguresProblem = "/data: no space left on device" },
			want:   []string{"‼ what sidecars count is kept", "/data: no space left on device", "checks.md#store"},
		},
		"view does not answer": {
			breaks: func(w *world) { w.refuses = status.Error(codes.Unavailable, "nobody is there") }, waits: true,
			want: []string{"× the API server reaches mesh-view", "does not answer: nobody is there\n"},
		},
		"no right to ask": {
			breaks: func(w *world) { w.refuses = status.Error(codes.PermissionDenied, "ann may not get health") },
			want:   []string{"√ the API server reaches mesh-view", "‼ what sidecars count is kept", "    ann may not get health\n"},
		},
		"agent gone": {
			breaks: func(w *world) { drop[*corev1.Pod](w, "agent-1") },
			want:   []string{"× node agents are ready on all nodes", "node1 has none"}, waits: true,
		},
		"agent ends": {
			breaks: func(w *world) {
				p := get[*corev1.Pod](w, "agent-1")
				p.Status.Conditions = nil
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{
					Name: "agent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
					LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no such folder\n"}},
				}}
			},
			want: []string{"× node agents are ready on all nodes", "node1, agent-1: agent ended with 1: no such folder\n"}, waits: true,
		},
		"agents gone": {breaks: func(w *world) { drop[*appsv1.DaemonSet](w, "mesh-cni") }, want: []string{"× node agents' DaemonSet exists"}},
		"anchors not copied": {
			breaks: func(w *world) {
				w.objects = slices.DeleteFunc(w.objects, func(o runtime.Object) bool {
					m, ok := o.(*corev1.ConfigMap)
					return ok && m.Namespace == "tunmesh-cni"
				})
			},
			want: []string{"× node agents have the trust anchors in force", "has not copied them"}, waits: true,
		},
		"issuer expired": {
			cfg:  health.Config{Now: func() time.Time { return time.Now().Add(400 * day) }},
			want: []string{"× issuer cert is within its validity period", "has expired on", "‼ no clock skew detected"},
		},
		"issuer expires": {
			cfg: health.Config{Now: func() time.Time { return time.Now().Add(340 * day) }}, want: []string{"‼ issuer cert is valid for at least 60 days", "in 24 days", "‼ no clock skew detected"},
		},
		"issuer of another": {
			breaks: func(w *world) {
				a, _, err := identity.NewAnchor("cluster.local", time.Now())
				if err != nil {
					w.t.Fatal(err)
				}
				for _, o := range w.objects {
					if m, ok := o.(*corev1.ConfigMap); ok && m.Name == "tunmesh-trust-anchors" {
						m.Data["ca-bundle.crt"] = string(a)
					}
				}
			},
			want: []string{"× issuer cert is issued by the trust anchor", "does not lead to a trust anchor"},
		},
		"issuer gone": {breaks: func(w *world) { drop[*corev1.Secret](w, "tunmesh-identity-issuer") }, want: []string{"× certificate config is valid"}},
		"webhook not told": {
			breaks: func(w *world) {
				get[*admissionregistrationv1.MutatingWebhookConfiguration](w, "tunmesh-injector").Webhooks[0].ClientConfig.CABundle = nil
			},
			want: []string{"× injector webhook has a certificate", "has not the authority in Secret"}, waits: true,
		},
		"Linkerd is there": {
			breaks: func(w *world) {
				w.objects = append(w.objects, &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "linkerd-proxy-injector-webhook-config"}})
			},
			want: []string{"‼ Linkerd's injector is not in this cluster", "its own"},
		},
		"another version": {
			breaks: func(w *world) { get[*corev1.ConfigMap](w, "tunmesh-config").Data["version"] = "v0" },
			want:   []string{"‼ control plane and cli versions match", "control plane v0, meshctl v1"}, waits: true, // of replicas of v1
		},
		"unmeshed pod": {
			breaks: func(w *world) {
				get[*corev1.Namespace](w, "app").Annotations = map[string]string{annotation.Inject: "enabled"}
				get[*corev1.Pod](w, "web").Annotations = nil
			},
			want: []string{"‼ pods that should have a sidecar have one", "app/web"},
		},
		"unmeshed pod on its node's network": { // which can have none, as the injector has said
			breaks: func(w *world) {
				get[*corev1.Namespace](w, "app").Annotations = map[string]string{annotation.Inject: "enabled"}
				web := get[*corev1.Pod](w, "web")
				web.Annotations, web.Spec.HostNetwork = nil, true
			},
		},
		"sidecar not ready": {
			cfg: health.Config{Proxy: true}, breaks: func(w *world) { get[*corev1.Pod](w, "web").Status.InitContainerStatuses[0].Ready = false },
			want: []string{"× data plane proxies are ready", "app/web: it is not ready"}, waits: true,
		},
		"sidecar of old": {
			cfg: health.Config{Proxy: true}, breaks: func(w *world) { get[*corev1.Pod](w, "web").Annotations[annotation.Injected] = "v0" },
			want: []string{"‼ data plane is up-to-date", "app/web has v0", "‼ data plane and cli versions match"},
		},
		"sidecar with a certificate of old": {
			cfg: health.Config{Proxy: true}, breaks: func(w *world) {
				a, key, err := identity.NewAnchor("cluster.local", time.Now())
				if err != nil {
					w.t.Fatal(err)
				}
				w.proxy = leaf(w.t, string(a), string(key))
			},
			want: []string{"‼ data plane proxies have certificates of the issuer and the trust anchors in force", "1 of 1 have not", "app/web has one of CN=Tunmesh trust anchor"},
		},
		"sidecar that believes more": {
			cfg: health.Config{Proxy: true}, breaks: func(w *world) {
				a, _, err := identity.NewAnchor("cluster.local", time.Now())
				if err != nil {
					w.t.Fatal(err)
				}
				w.anchors += "\n" + string(a)
			},
			want: []string{"‼ data plane proxies have certificates of the issuer and the trust anchors in force", "app/web believes other trust anchors"},
		},
		"sidecar that says nothing": {
			cfg: health.Config{Proxy: true}, breaks: func(w *world) { w.proxy = "" },
			want: []string{"‼ data plane proxies have certificates of the issuer and the trust anchors in force", "app/web says what is no certificate"},
		},
		"no namespace": {cfg: health.Config{Proxy: true, Namespace: "nowhere"}, want: []string{"× data plane namespace exists"}},
	} {
		t.Run(name, func(t *testing.T) {
			make := healthy
			if c.world != nil {
				make = c.world
			}
			w := make(t)
			if c.breaks != nil {
				c.breaks(w)
			}
			got, text := w.run(c.cfg)
			for _, line := range c.want {
				if !strings.Contains(text, line) {
					t.Errorf("no %q in:\n%s", line, text)
				}
			}
			if (got.Waiting != "") != c.waits {
				t.Errorf("waiting %q in:\n%s", got.Waiting, text)
			}
			bad := strings.Count(text, "\n‼ ") + strings.Count(text, "\n× ")
			if marks := strings.Count(strings.Join(c.want, "\n"), "‼ ") + strings.Count(strings.Join(c.want, "\n"), "× "); bad != marks && name != "another version" {
				t.Errorf("%d things are wrong, want %d:\n%s", bad, marks, text)
			}
		})
	}
}

// without is the world's objects but for the control plane's Roles.
func without(w *world, kind string) []runtime.Object {
	return slices.DeleteFunc(slices.Clone(w.objects), func(o runtime.Object) bool {
		return o.GetObjectKind().GroupVersionKind().Kind == kind && o.(metav1.Object).GetNamespace() == "tunmesh"
	})
}
