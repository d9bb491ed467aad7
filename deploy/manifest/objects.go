package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Objects are Kubernetes objects in an order.
type Objects []*unstructured.Unstructured

// Key names an object.
type Key struct {
	schema.GroupKind
	Namespace, Name string
}

// KeyOf is an object's key.
func KeyOf(o *unstructured.Unstructured) Key {
	return Key{o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName()}
}

// order lists all kinds of the chart so that each comes after what it needs: the
// webhook last, as nobody answers it before.
func order() []string {
	return []string{
		"Namespace", "ServiceAccount", "Secret", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
		"NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim", "Service", "DaemonSet", "Deployment", "APIService", "MutatingWebhookConfiguration",
	}
}

// Sorted are the objects in the order in which they can be made.
func (all Objects) Sorted() Objects {
	kinds := order()
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b *unstructured.Unstructured) int {
		return slices.Index(kinds, a.GetKind()) - slices.Index(kinds, b.GetKind())
	})
	return out
}

// Kinds lists every kind of which the chart has objects.
func Kinds() ([]schema.GroupVersionKind, error) {
	v, err := HighAvailability() // with everything
	if err != nil {
		return nil, err
	}
	all, err := Render(v.With("-", "identity", "trustAnchorsPEM").With("-", "identity", "issuer", "certificatePEM").With("-", "identity", "issuer", "keyPEM").
		With(true, "view", "store", "persistentVolume", "enabled"))
	if err != nil {
		return nil, err
	}
	var out []schema.GroupVersionKind
	for _, o := range all {
		if k := o.GroupVersionKind(); !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out, nil
}

// Of are the objects of a component.
func (all Objects) Of(component string) (out Objects) {
	for _, o := range all {
		if o.GetLabels()[ComponentLabel] == component {
			out = append(out, o)
		}
	}
	return out
}

// Without are the objects that are not among others.
func (all Objects) Without(others Objects) (out Objects) {
	known := map[Key]bool{}
	for _, o := range others {
		known[KeyOf(o)] = true
	}
	for _, o := range all {
		if !known[KeyOf(o)] {
			out = append(out, o)
		}
	}
	return out
}

// Removal are the objects' names alone, in the order in which they can be taken
// away: first who asks for others, namespaces last.
func (all Objects) Removal() Objects {
	// While a registered API has no server, no namespace can end.
	first := []string{"MutatingWebhookConfiguration", "APIService", "DaemonSet", "Deployment"}
	rank := func(o *unstructured.Unstructured) int {
		if i := slices.Index(first, o.GetKind()); i >= 0 {
			return i
		}
		return len(order()) - slices.Index(order(), o.GetKind()) + len(first)
	}
	out := make(Objects, 0, len(all))
	for _, o := range all {
		n := &unstructured.Unstructured{}
		n.SetGroupVersionKind(o.GroupVersionKind())
		n.SetName(o.GetName())
		if o.GetNamespace() != "" {
			n.SetNamespace(o.GetNamespace())
		}
		out = append(out, n)
	}
	slices.SortStableFunc(out, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return out
}

// YAML is a document for each object.
func (all Objects) YAML() ([]byte, error) {
	var b bytes.Buffer
	for i, o := range all {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("write %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(text)
	}
	return b.Bytes(), nil
}

// JSON is one List.
func (all Objects) JSON() ([]byte, error) {
	items := make([]any, len(all))
	for i, o := range all {
		items[i] = o.Object
	}
	text, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": items}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write objects: %w", err)
	}
	return append(text, '\n'), nil
}
