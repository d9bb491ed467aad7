package inject_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var cfg = inject.Config{Version: "v0.1.0"}

func TestGolden(t *testing.T) {
	inputs, _ := filepath.Glob("testdata/*.in.yaml")
	if len(inputs) < 3 {
		t.Fatalf("%d inputs", len(inputs))
	}
	for _, in := range inputs {
		base := strings.TrimSuffix(filepath.Base(in), ".in.yaml")
		t.Run(base, func(t *testing.T) {
			out, reports, err := inject.Manifests(read(t, base+".in.yaml"), cfg)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, base+".out.yaml", out)
			rep, err := yaml.Marshal(reports)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, base+".report.yaml", rep)

			// A second time changes nothing, and uninject gives back what came in.
			again, reports, err := inject.Manifests(out, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(out), string(again)); d != "" {
				t.Errorf("injecting twice changes something:\n%s", d)
			}
			for _, r := range reports {
				if r.Done {
					t.Errorf("%s %s was injected twice", r.Kind, r.Name)
				}
			}
			back, _, err := inject.Unmanifests(out)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(values(t, read(t, base+".in.yaml")), values(t, back)); d != "" {
				t.Errorf("uninject(inject(x)) is not x:\n%s", d)
			}
		})
	}
}

// values decodes every document, so that key order and comments do not count.
func values(t *testing.T, b []byte) []any {
	t.Helper()
	var out []any
	for doc := range strings.SplitSeq(string(b), "\n---\n") {
		var v any
		if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
			t.Fatal(err)
		}
		if v != nil {
			out = append(out, v)
		}
	}
	return out
}

func TestSkipReasons(t *testing.T) {
	yes := true
	app := func(change func(*corev1.PodSpec)) *corev1.PodSpec {
		s := &corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}
		if change != nil {
			change(s)
		}
		return s
	}
	for _, c := range []struct {
		name string
		ann  map[string]string
		ns   map[string]string
		opt  bool
		spec *corev1.PodSpec
		want inject.Reason
	}{
		{"host network", nil, nil, false, app(func(s *corev1.PodSpec) { s.HostNetwork = true }), inject.HostNetwork},
		{"shared processes", nil, nil, false, app(func(s *corev1.PodSpec) { s.ShareProcessNamespace = &yes }), inject.ShareProcess},
		{"there already", nil, nil, false, app(func(s *corev1.PodSpec) { s.InitContainers = []corev1.Container{{Name: "mesh-proxy"}} }), inject.SidecarExists},
		{"linkerd", nil, nil, false, app(func(s *corev1.PodSpec) { s.Containers = append(s.Containers, corev1.Container{Name: "linkerd-proxy"}) }), inject.ForeignSidecar},
		{"admin port", nil, nil, false, app(func(s *corev1.PodSpec) { s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 4191}} }), inject.ReservedPort},
		{"disabled", map[string]string{annotation.Inject: "disabled"}, nil, false, app(nil), inject.DisablePresent},
		{"invalid", map[string]string{annotation.Inject: "yes"}, nil, false, app(nil), inject.InvalidAtWorkload},
		{"invalid at namespace", nil, map[string]string{annotation.Inject: "yes"}, false, app(nil), inject.InvalidAtNamespace},
		{"disabled at namespace", nil, map[string]string{annotation.Inject: "disabled"}, false, app(nil), inject.DisablePresent},
		{"nobody asks", nil, nil, true, app(nil), inject.EnableAbsent},
		{"namespace asks", nil, map[string]string{annotation.Inject: "enabled"}, true, app(nil), ""},
		{"workload overrides", map[string]string{annotation.Inject: "enabled"}, map[string]string{annotation.Inject: "disabled"}, true, app(nil), ""},
		{"unknown annotation", map[string]string{"config.tunmesh.io/colour": "red"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"bad policy", map[string]string{annotation.DefaultInboundPolicy: "allow"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"bad queues", map[string]string{annotation.ProxyQueues: "3"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"too few connections", map[string]string{annotation.ProxyMaxConnections: "10"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"enough connections", map[string]string{annotation.Inject: "enabled", annotation.ProxyMaxConnections: "65536"}, nil, true, app(nil), ""},
		{"tcp as a protocol", map[string]string{annotation.AllowIPProtocols: "47,6"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"an extension header as a protocol", map[string]string{annotation.AllowIPProtocols: "47,60"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"no image", map[string]string{annotation.ProxyImage: ""}, nil, false, app(nil), inject.InvalidAnnotation},
		{"bad pull policy", map[string]string{annotation.ImagePullPolicy: "Sometimes"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"negative memory", map[string]string{annotation.ProxyMemoryRequest: "-1Mi"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"no access log", map[string]string{annotation.LinkerdAccessLog: "xml"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"no grace", map[string]string{annotation.ShutdownGracePeriod: "0s"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"bad port", map[string]string{annotation.OpaquePorts: "3306,x"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"bad cpu", map[string]string{annotation.ProxyCPULimit: "fast"}, nil, false, app(nil), inject.InvalidAnnotation},
		{"bad at namespace", nil, map[string]string{annotation.ProxyLogLevel: "loud"}, false, app(nil), inject.InvalidAnnotation},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.spec.DeepCopy()
			_, got, err := inject.Pod(c.ann, c.spec, inject.Config{Version: "v1", OptIn: c.opt, NamespaceAnnotations: c.ns})
			if got != c.want {
				t.Fatalf("reason %q (%v), want %q", got, err, c.want)
			}
			if (got == inject.InvalidAnnotation) != (err != nil) {
				t.Errorf("error %v for %q", err, got)
			}
			if got != "" {
				if d := cmp.Diff(before, c.spec); d != "" {
					t.Errorf("a skipped pod was changed:\n%s", d)
				}
			}
		})
	}
}

func TestNamespaceConfigurationReachesThePod(t *testing.T) {
	spec := &corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}
	ann, reason, err := inject.Pod(map[string]string{annotation.ProxyLogLevel: "debug"}, spec, inject.Config{
		Version: "v1", NamespaceAnnotations: map[string]string{annotation.DefaultInboundPolicy: "deny", annotation.ProxyLogLevel: "error", "other": "x"},
	})
	if reason != "" || err != nil {
		t.Fatal(reason, err)
	}
	want := map[string]string{annotation.ProxyLogLevel: "debug", annotation.DefaultInboundPolicy: "deny", annotation.Injected: "v1", annotation.Inherited: annotation.DefaultInboundPolicy}
	if d := cmp.Diff(want, ann); d != "" {
		t.Error(d)
	}
}

// The mesh's defaults count where neither the pod nor its namespace says otherwise,
// and a malformed annotation is reported.
func TestDefaultsReachThePod(t *testing.T) {
	spec := &corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}
	c := inject.Config{
		Version: "v1", NamespaceAnnotations: map[string]string{annotation.TraceSampling: "5%"},
		Defaults: map[string]string{annotation.TraceCollector: "collector.obs:4317", annotation.TraceSampling: "1%", annotation.ProxyLogLevel: "error"},
	}
	ann, reason, err := inject.Pod(map[string]string{annotation.ProxyLogLevel: "debug"}, spec.DeepCopy(), c)
	if reason != "" || err != nil {
		t.Fatal(reason, err)
	}
	want := map[string]string{
		annotation.ProxyLogLevel: "debug", annotation.TraceSampling: "5%", annotation.TraceCollector: "collector.obs:4317", annotation.Injected: "v1",
		annotation.Inherited: annotation.TraceCollector + "," + annotation.TraceSampling,
	}
	if d := cmp.Diff(want, ann); d != "" {
		t.Error(d)
	}
	for k, v := range map[string]string{annotation.TraceCollector: "http://collector:4318", annotation.TraceSampling: "200%"} {
		if _, reason, err := inject.Pod(map[string]string{k: v}, spec.DeepCopy(), c); reason != inject.InvalidAnnotation || err == nil || !strings.Contains(err.Error(), k) {
			t.Errorf("%s: %s: %q, %v", k, v, reason, err)
		}
	}
}

// What annotations say of the sidecar's container is in the container.
func TestAnnotationsOfTheContainer(t *testing.T) {
	spec := &corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}
	_, reason, err := inject.Pod(map[string]string{
		annotation.ProxyCPURequest: "30m", annotation.ProxyCPULimit: "200m",
		annotation.ProxyMemoryRequest: "15Mi", annotation.ProxyMemoryLimit: "90Mi",
		annotation.ProxyImage: "registry.example/proxy@sha256:0123", annotation.ImagePullPolicy: "Never",
	}, spec, cfg)
	if reason != "" || err != nil {
		t.Fatal(reason, err)
	}
	c := spec.InitContainers[0]
	if c.Image != "registry.example/proxy@sha256:0123" || c.ImagePullPolicy != corev1.PullNever {
		t.Errorf("image %q, pulled %q", c.Image, c.ImagePullPolicy)
	}
	got := fmt.Sprint(c.Resources.Requests.Cpu(), c.Resources.Limits.Cpu(), c.Resources.Requests.Memory(), c.Resources.Limits.Memory())
	if got != "30m 200m 15Mi 90Mi" {
		t.Errorf("resources %s", got)
	}
}

func TestLimitBelowDefaultRequestLowersTheRequest(t *testing.T) {
	spec := &corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}
	if _, reason, err := inject.Pod(map[string]string{annotation.ProxyMemoryLimit: "12Mi"}, spec, cfg); reason != "" {
		t.Fatal(reason, err)
	}
	r := spec.InitContainers[0].Resources
	if r.Requests.Memory().Cmp(*r.Limits.Memory()) > 0 {
		t.Errorf("request %v above limit %v: the API server refuses that", r.Requests.Memory(), r.Limits.Memory())
	}
}

func TestBadManifests(t *testing.T) {
	for name, in := range map[string]string{
		"not yaml":      "a: b: c",
		"no kind":       "a: b\n",
		"no template":   "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {}\n",
		"wrong type":    "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: 3}\n",
		"no spec":       "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
		"template list": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {template: []}\n",
	} {
		if out, _, err := inject.Manifests([]byte(in), cfg); err == nil {
			t.Errorf("%s: accepted: %s", name, out)
		}
	}
}

func FuzzManifests(f *testing.F) {
	for _, p := range []string{"workloads.in.yaml", "list.in.yaml", "rich.in.yaml"} {
		b, err := os.ReadFile(filepath.Join("testdata", p))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {annotations: {a: 1}}\nspec: {containers: [{name: a}, 3]}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, _, err := inject.Manifests(in, cfg)
		if err != nil {
			return
		}
		again, _, err := inject.Manifests(out, cfg)
		if err != nil {
			t.Fatalf("own output refused: %v\n%s", err, out)
		}
		if string(again) != string(out) {
			t.Fatalf("injecting twice changes something:\n%s\n---- then\n%s", out, again)
		}
		asked, _, err := inject.Annotate(in, cfg)
		if err != nil {
			t.Fatalf("injected, and not annotated: %v", err)
		}
		if again, _, err = inject.Annotate(asked, cfg); err != nil || string(again) != string(asked) {
			t.Fatalf("annotating twice changes something (%v):\n%s\n---- then\n%s", err, asked, again)
		}
		if _, _, err := inject.Unmanifests(asked); err != nil {
			t.Fatalf("annotated, and not uninjected: %v\n%s", err, asked)
		}
	})
}
