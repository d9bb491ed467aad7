package kube

import (
	"unique"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// intern replaces texts that many pods have in common by one copy: names of
// namespaces, nodes and labels make up most of what a thousand pods of a
// Deployment say.
func intern(o catalog.Object) {
	switch o := o.(type) {
	case *catalog.Pod:
		one(&o.Namespace)
		one(&o.ServiceAccount)
		one(&o.Owner.Kind)
		one(&o.Owner.Namespace)
		one(&o.Owner.Name)
		one(&o.Node)
		one(&o.Subdomain)
		one(&o.Phase)
		o.Labels, o.Annotations = labels(o.Labels), labels(o.Annotations)
		for i := range o.Ports {
			one(&o.Ports[i].Name)
			one(&o.Ports[i].Transport)
		}
		for i := range o.Probes {
			one(&o.Probes[i].Method)
			one(&o.Probes[i].Path)
		}
	case *catalog.EndpointSlice:
		one(&o.Namespace)
		one(&o.Service)
		for i := range o.Ports {
			one(&o.Ports[i].Name)
			one(&o.Ports[i].Transport)
		}
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			one(&e.Pod) // the pod's own copy
			one(&e.Node)
			one(&e.Zone)
			one(&e.Hostname)
		}
	}
}

func one(s *string) {
	if *s != "" {
		*s = unique.Make(*s).Value()
	}
}

func labels(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		one(&k)
		one(&v)
		out[k] = v
	}
	return out
}
