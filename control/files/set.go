package files

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefaultNamespace is where objects go that name no namespace, as kubectl does
// it; it exists without being declared.
const DefaultNamespace = "default"

// DefaultServiceAccount exists in every namespace.
const DefaultServiceAccount = "default"

// Set is the objects of some manifests, in the order of reading. Objects have
// the defaults that the API server would have given them, as far as anything
// here reads them.
type Set struct {
	Namespaces      []*corev1.Namespace
	ServiceAccounts []*corev1.ServiceAccount
	Services        []*corev1.Service
	Deployments     []*appsv1.Deployment
	StatefulSets    []*appsv1.StatefulSet
	DaemonSets      []*appsv1.DaemonSet
	Pods            []*corev1.Pod
	ConfigMaps      []*corev1.ConfigMap
	Secrets         []*corev1.Secret
	// Skipped are objects of well-known kinds that mean nothing here: "Ingress
	// default/web".
	Skipped []string

	origins map[metav1.Object]Origin
}

// Origin tells where an object of the set was read.
func (s *Set) Origin(o metav1.Object) Origin { return s.origins[o] }

// Merge appends another set's objects to s. Objects are shared, not copied;
// duplicates are Check's business.
func (s *Set) Merge(o *Set) {
	s.Namespaces = append(s.Namespaces, o.Namespaces...)
	s.ServiceAccounts = append(s.ServiceAccounts, o.ServiceAccounts...)
	s.Services = append(s.Services, o.Services...)
	s.Deployments = append(s.Deployments, o.Deployments...)
	s.StatefulSets = append(s.StatefulSets, o.StatefulSets...)
	s.DaemonSets = append(s.DaemonSets, o.DaemonSets...)
	s.Pods = append(s.Pods, o.Pods...)
	s.ConfigMaps = append(s.ConfigMaps, o.ConfigMaps...)
	s.Secrets = append(s.Secrets, o.Secrets...)
	s.Skipped = append(s.Skipped, o.Skipped...)
	if s.origins == nil {
		s.origins = map[metav1.Object]Origin{}
	}
	maps.Copy(s.origins, o.origins)
}

// Template is something that makes pods: a workload, or a Pod by itself.
type Template struct {
	Kind     string // "Deployment", "StatefulSet", "DaemonSet", "Pod"
	Object   metav1.Object
	Replicas int32
	Selector *metav1.LabelSelector // nil for a Pod
	// Meta and Spec are those of the pods, shared with the object.
	Meta *metav1.ObjectMeta
	Spec *corev1.PodSpec
	// ServiceName is the Service that gives a StatefulSet's pods their names.
	ServiceName string
}

// Templates lists everything that makes pods. A DaemonSet has one replica: there
// is one machine.
func (s *Set) Templates() []Template {
	var list []Template
	for _, d := range s.Deployments {
		t := &d.Spec.Template
		list = append(list, Template{Kind: "Deployment", Object: d, Replicas: *d.Spec.Replicas, Selector: d.Spec.Selector, Meta: &t.ObjectMeta, Spec: &t.Spec})
	}
	for _, d := range s.StatefulSets {
		t := &d.Spec.Template
		list = append(list, Template{Kind: "StatefulSet", Object: d, Replicas: *d.Spec.Replicas, Selector: d.Spec.Selector, Meta: &t.ObjectMeta, Spec: &t.Spec, ServiceName: d.Spec.ServiceName})
	}
	for _, d := range s.DaemonSets {
		t := &d.Spec.Template
		list = append(list, Template{Kind: "DaemonSet", Object: d, Replicas: 1, Selector: d.Spec.Selector, Meta: &t.ObjectMeta, Spec: &t.Spec})
	}
	for _, p := range s.Pods {
		list = append(list, Template{Kind: "Pod", Object: p, Replicas: 1, Meta: &p.ObjectMeta, Spec: &p.Spec})
	}
	return list
}

// each calls f for every object with its kind.
func (s *Set) each(f func(kind string, o metav1.Object)) {
	walk(s.Namespaces, "Namespace", f)
	walk(s.ServiceAccounts, "ServiceAccount", f)
	walk(s.Services, "Service", f)
	walk(s.Deployments, "Deployment", f)
	walk(s.StatefulSets, "StatefulSet", f)
	walk(s.DaemonSets, "DaemonSet", f)
	walk(s.Pods, "Pod", f)
	walk(s.ConfigMaps, "ConfigMap", f)
	walk(s.Secrets, "Secret", f)
}

func walk[T metav1.Object](list []T, kind string, f func(string, metav1.Object)) {
	for _, o := range list {
		f(kind, o)
	}
}

// name prints an object as people name it: "Deployment default/web".
func name(kind string, o metav1.Object) string {
	if ns := o.GetNamespace(); ns != "" {
		return kind + " " + ns + "/" + o.GetName()
	}
	return kind + " " + o.GetName()
}
