package files

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tunmesh/tunmesh/control/object"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Check reports, joined, everything that keeps the set from being a cluster that
// could run on one machine: duplicates, values that the API server would
// refuse, references to what is not there, and containers whose program cannot
// be told. Each error is an *Error.
func Check(s *Set) error {
	c := checker{set: s, index: newIndex(s)}
	c.duplicates()
	s.each(func(kind string, o metav1.Object) {
		c.meta(kind, o)
		if ns := o.GetNamespace(); ns != "" && !c.index.namespaces[ns] {
			c.at(kind, o).add("metadata.namespace", "namespace %q is not declared: add a Namespace object of that name", ns)
		}
	})
	for _, t := range s.Templates() {
		c.template(t)
	}
	for _, svc := range s.Services {
		c.service(svc)
	}
	return c.err()
}

// Warnings lists what is odd about a set but wrong with nothing in it, and the
// annotations of Services that nobody can read and that are ignored.
func Warnings(s *Set) []string {
	list := notes(s)
	for _, svc := range s.Services {
		if _, err := object.Service(svc); err != nil {
			list = append(list, strings.Split(err.Error(), "\n")...)
		}
	}
	return list
}

// notes are warnings but for annotations.
func notes(s *Set) []string {
	var list []string
	if len(s.Skipped) > 0 {
		list = append(list, "not used here, left out: "+strings.Join(s.Skipped, ", "))
	}
	templates := s.Templates()
	for _, svc := range s.Services {
		who := name("Service", svc)
		switch svc.Spec.Type {
		case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
			list = append(list, fmt.Sprintf("%s: type %s is served inside the cluster alone", who, svc.Spec.Type))
		}
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		if !slices.ContainsFunc(templates, func(t Template) bool { return selects(svc, t) }) {
			list = append(list, who+": its selector matches no pod")
		}
	}
	return list
}

// index is what references are looked up in.
type index struct {
	namespaces      map[string]bool
	serviceAccounts map[string]bool
	services        map[string]bool
	configMaps      map[string]*corev1.ConfigMap
	secrets         map[string]*corev1.Secret
}

func newIndex(s *Set) index {
	x := index{
		namespaces:      map[string]bool{DefaultNamespace: true},
		serviceAccounts: map[string]bool{},
		services:        map[string]bool{},
		configMaps:      map[string]*corev1.ConfigMap{},
		secrets:         map[string]*corev1.Secret{},
	}
	for _, n := range s.Namespaces {
		x.namespaces[n.Name] = true
	}
	for _, a := range s.ServiceAccounts {
		x.serviceAccounts[a.Namespace+"/"+a.Name] = true
	}
	for _, v := range s.Services {
		x.services[v.Namespace+"/"+v.Name] = true
	}
	for _, m := range s.ConfigMaps {
		x.configMaps[m.Namespace+"/"+m.Name] = m
	}
	for _, m := range s.Secrets {
		x.secrets[m.Namespace+"/"+m.Name] = m
	}
	return x
}

type checker struct {
	problems
	set   *Set
	index index
}

// spot is an object that something may be wrong with, and a path into it.
type spot struct {
	c      *checker
	kind   string
	object metav1.Object
	prefix string
}

func (c *checker) at(kind string, o metav1.Object) spot { return spot{c: c, kind: kind, object: o} }

func (s spot) in(format string, args ...any) spot {
	s.prefix = s.path(fmt.Sprintf(format, args...))
	return s
}

func (s spot) path(p string) string {
	switch {
	case s.prefix == "":
		return p
	case p == "":
		return s.prefix
	case strings.HasPrefix(p, "["):
		return s.prefix + p
	}
	return s.prefix + "." + p
}

func (s spot) add(path, format string, args ...any) {
	s.c.add(s.c.set.Origin(s.object), name(s.kind, s.object), s.path(path), format, args...)
}

// each adds one error for every message: the form of Kubernetes' validators.
func (s spot) each(path string, messages []string) {
	for _, m := range messages {
		s.add(path, "%s", m)
	}
}

func (c *checker) duplicates() {
	first := map[string]Origin{}
	c.set.each(func(kind string, o metav1.Object) {
		n := name(kind, o)
		if at, ok := first[n]; ok {
			c.at(kind, o).add("", "written before, in %s: remove one of them", at)
			return
		}
		first[n] = c.set.Origin(o)
	})
}

// template checks what makes pods.
func (c *checker) template(t Template) {
	s := c.at(t.Kind, t.Object)
	pod := s.in("spec")
	if t.Kind != "Pod" {
		c.workload(t, s)
		pod = s.in("spec.template.spec")
	}
	if t.Kind == "StatefulSet" && t.ServiceName != "" && !c.index.services[t.Object.GetNamespace()+"/"+t.ServiceName] {
		s.add("spec.serviceName", "there is no Service %q in namespace %s", t.ServiceName, t.Object.GetNamespace())
	}
	c.pod(t, pod)
}

func (c *checker) workload(t Template, s spot) {
	if t.Replicas < 0 {
		s.add("spec.replicas", "%d: a number of replicas is 0 or more", t.Replicas)
	}
	sel, err := metav1.LabelSelectorAsSelector(t.Selector)
	switch {
	case err != nil:
		s.add("spec.selector", "%w", err)
	case t.Selector == nil || sel.Empty():
		s.add("spec.selector", "missing: it says which pods are its own; repeat the template's labels in matchLabels")
	case !sel.Matches(labels.Set(t.Meta.Labels)):
		s.add("spec.template.metadata.labels", "the selector %s does not match them", metav1.FormatLabelSelector(t.Selector))
	}
	s.in("spec.template").labels(t.Meta)
}

func (s spot) labels(m *metav1.ObjectMeta) {
	s.labelMap("metadata.labels", m.Labels)
	s.annotations("metadata.annotations", m.Annotations)
}

// service checks a Service's ports and what they name.
func (c *checker) service(svc *corev1.Service) {
	s := c.at("Service", svc)
	c.serviceSpec(svc, s)
	for i, p := range svc.Spec.Ports {
		if p.TargetPort.StrVal == "" {
			continue
		}
		selected, found := false, false
		for _, t := range c.set.Templates() {
			if selects(svc, t) {
				selected = true
				found = found || hasPort(t.Spec, p.TargetPort.StrVal, p.Protocol)
			}
		}
		if selected && !found {
			s.add(fmt.Sprintf("spec.ports[%d].targetPort", i), "no container of the selected pods has a %s port named %q", p.Protocol, p.TargetPort.StrVal)
		}
	}
}

// selects reports whether a Service selects a template's pods.
func selects(svc *corev1.Service, t Template) bool {
	return len(svc.Spec.Selector) > 0 && t.Object.GetNamespace() == svc.Namespace &&
		labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(t.Meta.Labels))
}

func hasPort(spec *corev1.PodSpec, name string, transport corev1.Protocol) bool {
	for _, c := range allContainers(spec) {
		for _, p := range c.Ports {
			if p.Name == name && p.Protocol == transport {
				return true
			}
		}
	}
	return false
}

func allContainers(spec *corev1.PodSpec) []corev1.Container {
	return slices.Concat(spec.InitContainers, spec.Containers)
}

// isSidecar reports the container that the injector makes: its program is not
// the manifest's to name.
func isSidecar(c *corev1.Container) bool { return c.Name == annotation.SidecarContainer }
