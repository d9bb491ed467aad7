package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// clusterOf is a cluster that has some objects.
func clusterOf(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	return &cluster{
		kube: fake.NewClientset(objects...),
		dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(scheme.Scheme, map[schema.GroupVersionResource]string{
			{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}: "APIServiceList", // the core's clients do not know it
		}, objects...),
		server: "https://cluster.example",
	}
}

// on runs a command line against a cluster.
func on(t *testing.T, c *cluster, args ...string) (code int, out, errOut string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var o, e bytes.Buffer
	a := &app{in: null, out: &o, err: &e, env: func(string) string { return "" }, args: args, fake: c}
	code = run(t.Context(), a, args)
	return code, o.String(), e.String()
}

// applied turns manifests into what a cluster has after kubectl apply.
func applied(t *testing.T, text string) (out []runtime.Object) {
	t.Helper()
	all, err := manifest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.GetKind() == "APIService" {
			continue
		}
		typed, err := scheme.Scheme.New(o.GroupVersionKind())
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
			t.Fatal(err)
		}
		typed.GetObjectKind().SetGroupVersionKind(o.GroupVersionKind())
		out = append(out, typed)
	}
	return out
}

func must(t *testing.T, c *cluster, args ...string) string {
	t.Helper()
	code, out, errOut := on(t, c, args...)
	if code != exitOK {
		t.Fatalf("meshctl %s: %d: %s", strings.Join(args, " "), code, errOut)
	}
	return out
}

func object(t *testing.T, text, kind, name string) *unstructured.Unstructured {
	t.Helper()
	all, err := manifest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %s %s in:\n%s", kind, name, text)
	return nil
}

func field(t *testing.T, o *unstructured.Unstructured, path ...string) string {
	t.Helper()
	s, _, err := unstructured.NestedString(o.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What install makes is installed once; an upgrade keeps its certificates and
// values, and puts its own flags over them.
func TestInstallThenUpgrade(t *testing.T) {
	version := []string{"--set", "version=v1"}
	first := must(t, clusterOf(t), append([]string{"install", "--ha", "--set", "control.logLevel=debug"}, version...)...)
	c := clusterOf(t, applied(t, first)...)
	code, out, errOut := on(t, c, append([]string{"install"}, version...)...)
	if code != exitFailed || out != "" || !strings.Contains(errOut, "tunmesh v1 is installed in this cluster (https://cluster.example): meshctl upgrade") {
		t.Errorf("a second install: %d, %s%s", code, out, errOut)
	}
	must(t, c, append([]string{"install", "--ignore-cluster"}, version...)...)

	second := must(t, c, "upgrade", "--set", "version=v2", "--set", "injector.timeoutSeconds=3")
	for _, one := range []struct {
		kind, name string
		path       []string
	}{{"ConfigMap", "tunmesh-trust-anchors", []string{"data", "ca-bundle.crt"}}, {"Secret", "tunmesh-identity-issuer", []string{"data", "tls.crt"}}, {"Secret", "tunmesh-identity-issuer", []string{"data", "tls.key"}}} {
		was, is := field(t, object(t, first, one.kind, one.name), one.path...), field(t, object(t, second, one.kind, one.name), one.path...)
		if was == "" || was != is {
			t.Errorf("%s %s %v changed from %q to %q", one.kind, one.name, one.path, was, is)
		}
	}
	for _, want := range []string{"--log-level=debug", "replicas: 3", "mesh-control:v2", "timeoutSeconds: 3"} {
		if !strings.Contains(second, want) {
			t.Errorf("after the upgrade there is no %s", want)
		}
	}
	third := must(t, clusterOf(t, applied(t, second)...), "upgrade", "--set", "version=v3")
	for _, want := range []string{"--log-level=debug", "replicas: 3", "mesh-control:v3", "timeoutSeconds: 3"} {
		if !strings.Contains(third, want) {
			t.Errorf("after another upgrade there is no %s", want)
		}
	}
}

// Values are kept without certificates: those change, and have a place already.
func TestKeptValuesHaveNoCertificates(t *testing.T) {
	out := must(t, clusterOf(t), "install", "--set", "version=v1")
	s := applied(t, out)
	for _, o := range s {
		if secret, ok := o.(*corev1.Secret); ok && secret.Name == "tunmesh-config-overrides" {
			if text := string(secret.Data["values.yaml"]); strings.Contains(text, "BEGIN") || !strings.Contains(text, "version: v1") {
				t.Errorf("kept: %s", text)
			}
			return
		}
	}
	t.Error("nothing is kept for upgrades")
}

// chain writes a trust anchor and an issuer of it.
func chain(t *testing.T, dir, name string) (anchor, cert, key string) {
	t.Helper()
	a, akey, err := identity.NewAnchor("cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, k, err := identity.NewIssuer(a, akey, "cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string][]byte{"anchor": a, "cert": c, "key": k} {
		if err := os.WriteFile(filepath.Join(dir, name+file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, name+"anchor"), filepath.Join(dir, name+"cert"), filepath.Join(dir, name+"key")
}

// Certificates are brought whole or not at all, and fit together.
func TestCertificatesOfInstall(t *testing.T) {
	dir := t.TempDir()
	anchor, cert, key := chain(t, dir, "one")
	other, _, _ := chain(t, dir, "two")
	args := func(more ...string) []string {
		return append([]string{"install", "--ignore-cluster", "--set", "version=v1"}, more...)
	}
	const a, c, k = "--identity-trust-anchors-file", "--identity-issuer-certificate-file", "--identity-issuer-key-file"
	out := must(t, nil, args(a, anchor, c, cert, k, key)...)
	want, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	if got := field(t, object(t, out, "ConfigMap", "tunmesh-trust-anchors"), "data", "ca-bundle.crt"); got != strings.TrimSpace(string(want)) {
		t.Errorf("anchors: %q", got)
	}
	if out := must(t, nil, args("--identity-external-issuer", a, anchor)...); strings.Contains(out, "name: tunmesh-identity-issuer\n  namespace") {
		t.Error("an issuer that others keep is rendered")
	}
	must(t, nil, args("--identity-external-issuer", "--identity-external-ca")...)
	must(t, nil, args("--identity-external-ca", c, cert, k, key)...)
	for want, more := range map[string][]string{
		"needs both":             {a, anchor, c, cert},
		"an issuer of these":     {a, anchor},
		"trust anchors are miss": {c, cert, k, key},
		"do not fit together":    {a, other, c, cert, k, key},
		"no such file":           {a, filepath.Join(dir, "none")},
		"trust anchors are mis":  {"--identity-external-issuer"},
		"do one of the two":      {"--identity-external-issuer", a, anchor, c, cert, k, key},
	} {
		if code, out, errOut := on(t, nil, args(more...)...); code == exitOK || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%v: %d %q, want %q", more, code, errOut, want)
		}
	}
}

// A rotation: an upgrade with a bundle of both anchors, then with the new issuer,
// then with the new anchor alone; each step fits what is there.
func TestRotationByUpgrades(t *testing.T) {
	dir := t.TempDir()
	text := must(t, clusterOf(t), "install", "--set", "version=v1")
	old := field(t, object(t, text, "ConfigMap", "tunmesh-trust-anchors"), "data", "ca-bundle.crt")
	anchor, cert, key := chain(t, dir, "new")
	fresh, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(dir, "both")
	if err := os.WriteFile(both, append([]byte(old+"\n"), fresh...), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := on(t, clusterOf(t, applied(t, text)...), "upgrade", "--identity-trust-anchors-file", anchor); code == exitOK || !strings.Contains(errOut, "does not lead to a trust anchor") {
		t.Errorf("an upgrade that would break every connection: %d, %s", code, errOut)
	}
	for _, step := range [][]string{
		{"--identity-trust-anchors-file", both},
		{"--identity-issuer-certificate-file", cert, "--identity-issuer-key-file", key},
		{"--identity-trust-anchors-file", anchor},
	} {
		text = must(t, clusterOf(t, applied(t, text)...), append([]string{"upgrade"}, step...)...)
	}
	if got := field(t, object(t, text, "ConfigMap", "tunmesh-trust-anchors"), "data", "ca-bundle.crt"); got != strings.TrimSpace(string(fresh)) {
		t.Errorf("anchors after the rotation: %s", got)
	}
}

// An issuer that has expired fits no anchors: those that are new are refused alone, and
// taken with a new issuer.
func TestRotationOfAnExpiredIssuer(t *testing.T) {
	past := time.Now().AddDate(-2, 0, 0)
	old, oldKey, err := identity.NewAnchor("cluster.local", past)
	if err != nil {
		t.Fatal(err)
	}
	expired, expiredKey, err := identity.NewIssuer(old, oldKey, "cluster.local", past)
	if err != nil {
		t.Fatal(err)
	}
	objects := applied(t, must(t, clusterOf(t), "install", "--set", "version=v1"))
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.ConfigMap:
			if o.Name == "tunmesh-trust-anchors" {
				o.Data["ca-bundle.crt"] = string(old)
			}
		case *corev1.Secret:
			if o.Name == "tunmesh-identity-issuer" {
				o.Data[corev1.TLSCertKey], o.Data[corev1.TLSPrivateKeyKey] = expired, expiredKey
			}
		}
	}
	dir := t.TempDir()
	anchor, cert, key := chain(t, dir, "new")
	fresh, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(dir, "both")
	if err := os.WriteFile(both, append(append(old, '\n'), fresh...), 0o600); err != nil {
		t.Fatal(err)
	}
	anchors := []string{"upgrade", "--identity-trust-anchors-file", both}
	if code, out, errOut := on(t, clusterOf(t, objects...), anchors...); code != exitFailed || out != "" || !strings.Contains(errOut, "has expired") {
		t.Errorf("anchors alone: %d %q %q", code, out, errOut)
	}
	must(t, clusterOf(t, objects...), append(anchors, "--identity-issuer-certificate-file", cert, "--identity-issuer-key-file", key)...)
}

func TestUninstall(t *testing.T) {
	objects := applied(t, must(t, clusterOf(t), "install", "--ha", "--set", "version=v1"))
	pod := func(name string, phase corev1.PodPhase) runtime.Object {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, Annotations: map[string]string{annotation.Injected: "v1"}},
			Status:     corev1.PodStatus{Phase: phase},
		}
	}
	used := clusterOf(t, append(objects, pod("web", corev1.PodRunning), pod("job", corev1.PodSucceeded))...)
	code, out, errOut := on(t, used, "uninstall")
	if code != exitFailed || out != "" || !strings.Contains(errOut, "1 pod is still injected: app/web; uninject") {
		t.Errorf("with a pod: %d %q %q", code, out, errOut)
	}
	forced := must(t, used, "uninstall", "--force")
	if clean := must(t, clusterOf(t, objects...), "uninstall"); clean != forced {
		t.Error("--force prints something else")
	}
	all, err := manifest.Parse([]byte(forced))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(objects) {
		t.Errorf("%d objects are removed of %d", len(all), len(objects))
	}
	if first, last := all[0].GetKind()+all[1].GetKind(), all[len(all)-1].GetKind()+all[len(all)-2].GetKind(); first != "MutatingWebhookConfigurationDaemonSet" || last != "NamespaceNamespace" {
		t.Errorf("first %s, last %s", first, last)
	}
	if strings.Contains(forced, "\ndata:") || strings.Contains(forced, "\nspec:") {
		t.Error("more than names is printed")
	}
	if code, _, errOut := on(t, clusterOf(t), "uninstall"); code != exitFailed || !strings.Contains(errOut, "not installed") {
		t.Errorf("an empty cluster: %d, %s", code, errOut)
	}
}

// Without --ha the budget of disruptions is of no use any more.
func TestPrune(t *testing.T) {
	ha := must(t, clusterOf(t), "install", "--ha", "--set", "version=v1")
	objects := applied(t, ha)
	c := clusterOf(t, objects...)
	if code, out, errOut := on(t, c, "prune"); code != exitOK || out != "" || !strings.Contains(errOut, "nothing") {
		t.Errorf("nothing to prune: %d %q %q", code, out, errOut)
	}
	one := must(t, c, "upgrade", "--set", "control.replicas=1")
	for _, o := range objects {
		if m, ok := o.(metav1.Object); ok && m.GetName() == "mesh-control" && o.GetObjectKind().GroupVersionKind().Kind == "PodDisruptionBudget" {
			c = clusterOf(t, append(applied(t, one), o)...)
		}
	}
	out := must(t, c, "prune")
	all, err := manifest.Parse([]byte(out))
	if err != nil || len(all) != 1 || all[0].GetKind() != "PodDisruptionBudget" {
		t.Errorf("%v:\n%s", err, out)
	}
}

// The node agents may come from somebody else: install leaves them out, and prune
// leaves them alone.
func TestNodeAgentsApart(t *testing.T) {
	agents := must(t, nil, "install-cni", "--set", "version=v1")
	rest := must(t, clusterOf(t), "install", "--set", "version=v1,cni.enabled=false")
	object(t, agents, "DaemonSet", "mesh-cni")
	object(t, agents, "Namespace", "tunmesh-cni")
	if strings.Contains(rest, "kind: DaemonSet") || strings.Contains(agents, "mesh-control:v1") {
		t.Error("both print the same things")
	}
	c := clusterOf(t, append(applied(t, agents), applied(t, rest)...)...)
	if _, out, errOut := on(t, c, "prune"); out != "" {
		t.Errorf("prune: %s%s", out, errOut)
	}
	if out := must(t, c, "uninstall"); !strings.Contains(out, "kind: DaemonSet") {
		t.Error("uninstall leaves them")
	}
}

// Lists as JSON are what kubectl takes, too.
func TestInstallAsJSON(t *testing.T) {
	out := must(t, nil, "install", "--ignore-cluster", "--set", "version=v1", "-o", "json")
	all, err := manifest.Parse([]byte(out))
	if err != nil || len(all) != 1 || all[0].GetKind() != "List" {
		t.Errorf("%v: %.100s", err, out)
	}
}

// Versions are those of this program, of the mesh, and of sidecars by pods; without
// a mesh there is one less to say.
func TestVersions(t *testing.T) {
	objects := applied(t, must(t, clusterOf(t), "install", "--set", "version=v1"))
	for _, name := range []string{"a", "b"} {
		objects = append(objects, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, Annotations: map[string]string{annotation.Injected: "v0"}}})
	}
	c := clusterOf(t, objects...)
	if out := must(t, c, "version", "--proxy"); !strings.HasSuffix(out, "\nServer version: v1\nProxy versions:\n\tv0 (2 pods)\n") {
		t.Errorf("%q", out)
	}
	if out := must(t, c, "version", "--proxy", "-n", "other", "-o", "json"); !strings.HasSuffix(out, `,"server":"v1"}`+"\n") {
		t.Errorf("%q", out)
	}
	if out := must(t, clusterOf(t), "version"); !strings.HasSuffix(out, "\nServer version: unavailable\n") {
		t.Errorf("%q", out)
	}
	if out := must(t, c, "version", "--client"); strings.Contains(out, "Server") {
		t.Errorf("%q", out)
	}
	if code, _, errOut := on(t, clusterOf(t), "version", "--proxy"); code != exitFailed || !strings.Contains(errOut, "not installed") {
		t.Errorf("%d %q", code, errOut)
	}
}

// In a cluster inject asks for the sidecar; --manual adds the one that the cluster
// has, and in local mode it is added as well.
func TestInjectIntoACluster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: web}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := clusterOf(t, applied(t, must(t, clusterOf(t), "install", "--set", "version=v7,imageRegistry=registry.example.com"))...)
	if out := must(t, nil, "inject", file); !strings.Contains(out, "tunmesh.io/inject: enabled") || strings.Contains(out, "mesh-proxy") {
		t.Errorf("annotated:\n%s", out)
	}
	if out := must(t, c, "inject", "--manual", file); !strings.Contains(out, "image: registry.example.com/mesh-proxy:v7") || !strings.Contains(out, "tunmesh.io/injected: v7") {
		t.Errorf("by hand:\n%s", out)
	}
	for _, args := range [][]string{{"--local", "x", "inject", file}, {"inject", "--manual", "--ignore-cluster", file}} {
		if out := must(t, nil, args...); !strings.Contains(out, "image: ghcr.io/tunmesh/mesh-proxy:") {
			t.Errorf("%v:\n%s", args, out)
		}
	}
	if code, _, errOut := on(t, clusterOf(t), "inject", "--manual", file); code != exitFailed || !strings.Contains(errOut, "--ignore-cluster") {
		t.Errorf("%d %q", code, errOut)
	}
}
