package manifest_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tunmesh/tunmesh/deploy/manifest"
)

var update = flag.Bool("update", false, "write the golden files") //nolint:gochecknoglobals // a flag

// certificates stand where the maker's would.
func certificates() manifest.Values {
	return manifest.Values{}.
		With("ANCHORS", "identity", "trustAnchorsPEM").
		With("ISSUER", "identity", "issuer", "certificatePEM").
		With("KEY", "identity", "issuer", "keyPEM").
		With("v1.2.3", "version")
}

func render(t *testing.T, v manifest.Values) manifest.Objects {
	t.Helper()
	out, err := manifest.Render(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func highAvailability(t *testing.T) manifest.Values {
	t.Helper()
	v, err := manifest.HighAvailability()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGolden(t *testing.T) {
	for name, v := range map[string]manifest.Values{
		"default": certificates(),
		"ha":      highAvailability(t).Merge(certificates()),
		"apart": certificates().Merge(manifest.Values{
			"createNamespaces": false,
			"identity":         map[string]any{"externalCA": true, "trustDomain": "example.com", "issuer": map[string]any{"external": true}},
			"cni":              map[string]any{"enabled": false},
			"networkPolicy":    map[string]any{"enabled": false},
			"imagePullSecrets": []any{map[string]any{"name": "regcred"}},
			"control": map[string]any{
				"meshNetworks": []any{"10.244.0.0/16", "10.96.0.0/12"}, "hostAddresses": []any{"10.244.0.1"}, "clusterNetworks": []any{"10.0.0.0/8"},
				"podAnnotations": map[string]any{"a": "b"}, "tolerations": []any{map[string]any{"operator": "Exists"}}, "nodeSelector": nil,
			},
			"proxy": map[string]any{"image": "registry.example.com/proxy", "tracing": map[string]any{"collector": "collector.observability:4317", "sampling": 0.05}},
		}),
		"k3s": certificates().With("/var/lib/rancher/k3s/agent/etc/cni/net.d", "cni", "netDir").
			With("/var/lib/rancher/k3s/data/cni", "cni", "binDir").With("/run/k3s/containerd/containerd.sock", "cni", "criSocket"),
	} {
		got, err := render(t, v).YAML()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".yaml")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: not as in %s; go test ./deploy/manifest -update, and look at the difference", name, file)
		}
	}
}

// Everything is what the API knows, field by field, and says whose it is.
func TestObjectsAreOfTheAPI(t *testing.T) {
	for _, v := range []manifest.Values{certificates(), highAvailability(t).Merge(certificates())} {
		for _, o := range render(t, v) {
			if o.GetKind() == "APIService" { // its type is the aggregator's, which nothing else here needs
				continue
			}
			typed, err := scheme(t).New(o.GroupVersionKind())
			if err != nil {
				t.Error(err)
				continue
			}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
				t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
			}
			if c := o.GetLabels()[manifest.ComponentLabel]; c != manifest.Control && c != manifest.CNI && c != manifest.View {
				t.Errorf("%s %s: component %q", o.GetKind(), o.GetName(), c)
			}
		}
	}
}

// The control plane passes Pod Security restricted, which its namespace enforces;
// nothing of it but the node agents is privileged.
func TestControlIsRestricted(t *testing.T) {
	var d appsv1.Deployment
	find(t, render(t, certificates()), "Deployment", "tunmesh", "mesh-control", &d)
	pod := d.Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod: %+v", s)
	}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" || len(s.Capabilities.Add) > 0 {
			t.Errorf("container %s: %+v", c.Name, s)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("container %s: resources %+v", c.Name, c.Resources)
		}
		if c.LivenessProbe == nil || c.ReadinessProbe == nil {
			t.Errorf("container %s has not both probes", c.Name)
		}
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.Volumes) > 0 {
		t.Errorf("host %v %v %v, volumes %v", pod.HostNetwork, pod.HostPID, pod.HostIPC, pod.Volumes)
	}
}

// One more replica answers before one goes; with three, nodes and zones apart are
// preferred and two are left when nodes are drained.
func TestHighAvailability(t *testing.T) {
	objects := render(t, highAvailability(t).Merge(certificates()))
	var d appsv1.Deployment
	find(t, objects, "Deployment", "tunmesh", "mesh-control", &d)
	if *d.Spec.Replicas != 3 || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Errorf("replicas %d, %+v", *d.Spec.Replicas, d.Spec.Strategy)
	}
	if terms := d.Spec.Template.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) != 2 {
		t.Errorf("anti-affinity: %+v", terms)
	}
	if n := len(kind(objects, "PodDisruptionBudget")); n != 1 {
		t.Errorf("%d budgets", n)
	}
	if n := len(kind(render(t, certificates()), "PodDisruptionBudget")); n != 0 {
		t.Errorf("one replica has %d budgets: no node of it could be drained", n)
	}
}

// The schema refuses what is not in values.yaml and what cannot work; certificates
// that are missing are named.
func TestRefused(t *testing.T) {
	for want, v := range map[string]manifest.Values{
		"controller":                      certificates().With(3, "controller", "replicas"),
		"/control/replicas":               certificates().With(2, "control", "replicas"),
		"/injector/timeoutSeconds":        certificates().With(10, "injector", "timeoutSeconds"),
		"/injector/failurePolicy":         certificates().With("Maybe", "injector", "failurePolicy"),
		"/version":                        certificates().With("(devel)", "version"),
		"/cni/netDir":                     certificates().With("etc/cni", "cni", "netDir"),
		"/control/defaultInboundPolicy":   certificates().With("allow", "control", "defaultInboundPolicy"),
		"/control/meshNetworks/0":         certificates().With([]any{"10"}, "control", "meshNetworks"),
		"/identity/trustDomain":           certificates().With("a b", "identity", "trustDomain"),
		"identity.trustAnchorsPEM: the ":  certificates().With("", "identity", "trustAnchorsPEM"),
		"identity.issuer.keyPEM: the is":  certificates().With("", "identity", "issuer", "keyPEM"),
		"identity.issuer.certificatePEM:": certificates().With("", "identity", "issuer", "certificatePEM"),
	} {
		if _, err := manifest.Render(v); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), ".", "/"), strings.ReplaceAll(want, ".", "/")) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// The schema knows every value of values.yaml, and values.yaml every one of the schema's.
func TestSchemaAndValuesAreOfOneKind(t *testing.T) {
	defaults, err := manifest.Defaults(nil)
	if err != nil {
		t.Fatal(err)
	}
	compareSchema(t, "", readSchema(t), map[string]any(defaults))
}
