package manifest_test

import (
	"encoding/json"
	"io/fs"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tunmesh/tunmesh/deploy"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, policyv1.AddToScheme, networkingv1.AddToScheme, admissionregistrationv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func kind(all manifest.Objects, name string) (out manifest.Objects) {
	for _, o := range all {
		if o.GetKind() == name {
			out = append(out, o)
		}
	}
	return out
}

func find(t *testing.T, all manifest.Objects, kindName, namespace, name string, into any) {
	t.Helper()
	for _, o := range kind(all, kindName) {
		if o.GetNamespace() == namespace && o.GetName() == name {
			convert(t, o, into)
			return
		}
	}
	t.Fatalf("there is no %s %s/%s", kindName, namespace, name)
}

func convert(t *testing.T, o *unstructured.Unstructured, into any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		t.Fatal(err)
	}
}

func readSchema(t *testing.T) map[string]any {
	t.Helper()
	text, err := fs.ReadFile(deploy.Chart(), "values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// compareSchema goes down as far as the schema names properties.
func compareSchema(t *testing.T, path string, schema map[string]any, values any) {
	t.Helper()
	properties, ok := schema["properties"].(map[string]any)
	if !ok {
		return
	}
	m, ok := values.(map[string]any)
	if !ok {
		t.Errorf("%s: values.yaml has %T, the schema properties", path, values)
		return
	}
	if schema["additionalProperties"] != false {
		t.Errorf("%s: the schema takes what it does not know", path)
	}
	for name, sub := range properties {
		if path+"/"+name == "/global" { // Helm's own
			continue
		}
		v, ok := m[name]
		if !ok {
			t.Errorf("%s/%s is in the schema, and not in values.yaml", path, name)
		}
		compareSchema(t, path+"/"+name, sub.(map[string]any), v)
	}
}
