package inject_test

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/control/inject"
)

const annotateIn = `apiVersion: v1
kind: Namespace
metadata:
  name: shop
---
# a comment
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - image: web
        name: web
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: asks
spec:
  template:
    metadata:
      annotations:
        tunmesh.io/inject: enabled
    spec:
      containers:
      - name: asks
---
apiVersion: v1
kind: Pod
metadata:
  name: host
spec:
  hostNetwork: true
  containers:
  - name: host
---
apiVersion: v1
kind: Pod
metadata:
  name: wrong
  annotations:
    config.tunmesh.io/proxy-queues: many
spec:
  containers:
  - name: wrong
---
apiVersion: v1
kind: Service
metadata:
  name: web
`

func summary(reports []inject.Report) string {
	var b strings.Builder
	for _, r := range reports {
		b.WriteString(r.Kind + "/" + r.Name + "=" + string(r.Reason) + " ")
	}
	return strings.TrimSpace(b.String())
}

// The annotation is all that is added, and taking it away again gives back what
// was there; a workload that asked by itself stops asking, too.
func TestAnnotate(t *testing.T) {
	out, reports, err := inject.Annotate([]byte(annotateIn), inject.Config{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := summary(reports), "namespace/shop= deployment/web= deployment/asks= pod/host=host_network_enabled pod/wrong=invalid_config_annotation"; got != want {
		t.Errorf("reports %s, want %s", got, want)
	}
	if strings.Contains(string(out), "mesh-proxy") || strings.Count(string(out), "tunmesh.io/inject: enabled") != 3 || !strings.Contains(string(out), "hostNetwork: true") {
		t.Errorf("annotated:\n%s", out)
	}
	again, _, err := inject.Annotate(out, inject.Config{Version: "v1"})
	if err != nil || string(again) != string(out) {
		t.Errorf("annotated twice (%v):\n%s", err, again)
	}
	back, reports, err := inject.Unmanifests(out)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := summary(reports), "namespace/shop= deployment/web= deployment/asks= pod/host=not_injected pod/wrong=not_injected"; got != want {
		t.Errorf("reports %s, want %s", got, want)
	}
	if strings.Contains(string(back), "tunmesh.io/inject") {
		t.Errorf("uninjected:\n%s", back)
	}
}

// A namespace that asks for its pods would have the injector undo what was taken away;
// one that asks for nothing stays as it is, and is not reported.
func TestUninjectNamespaces(t *testing.T) {
	const forbids = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: quiet\n  annotations:\n    tunmesh.io/inject: disabled\n"
	const asks = "apiVersion: v1\nkind: Namespace\nmetadata:\n  annotations:\n    config.tunmesh.io/proxy-log-level: debug\n    tunmesh.io/inject: enabled\n  name: shop\n"
	out, reports, err := inject.Unmanifests([]byte(forbids + "---\n" + asks))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := summary(reports), "namespace/shop="; got != want {
		t.Errorf("reports %s, want %s", got, want)
	}
	if want := forbids + "---\n" + strings.Replace(asks, "    tunmesh.io/inject: enabled\n", "", 1); string(out) != want {
		t.Errorf("uninjected:\n%s\nwant:\n%s", out, want)
	}
}

// What kubectl get printed can be applied when the object's status has changed since;
// what is left alone stays as it was.
func TestResourceVersionsGo(t *testing.T) {
	const deploy = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  resourceVersion: \"7\"\nspec:\n  template:\n    spec:\n      containers:\n      - name: web\n"
	const service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  resourceVersion: \"8\"\n"
	for name, f := range map[string]func([]byte, inject.Config) ([]byte, []inject.Report, error){"annotate": inject.Annotate, "inject": inject.Manifests} {
		out, _, err := f([]byte(deploy+"---\n"+service), inject.Config{Version: "v1"})
		if err != nil || strings.Contains(string(out), `resourceVersion: "7"`) || !strings.Contains(string(out), `resourceVersion: "8"`) {
			t.Errorf("%s (%v):\n%s", name, err, out)
		}
		const list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: web\n    resourceVersion: \"8\"\n"
		if out, _, err := f([]byte(list), inject.Config{Version: "v1"}); err != nil || strings.Contains(string(out), "resourceVersion") {
			t.Errorf("%s, a list (%v):\n%s", name, err, out)
		}
	}
}

// A sidecar that is there is taken out, and what the workload asked for stays.
func TestUninjectPrefersTheSidecar(t *testing.T) {
	in, _, err := inject.Manifests([]byte(annotateIn), inject.Config{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	back, _, err := inject.Unmanifests(in)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(back), "mesh-proxy") || strings.Count(string(back), "tunmesh.io/inject: enabled") != 1 {
		t.Errorf("uninjected:\n%s", back)
	}
}
