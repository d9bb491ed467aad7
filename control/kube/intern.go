package kube

import (
	"maps"
	"slices"
	"unique"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// maxSets bounds the sets of labels that are remembered. Pods of one Deployment
// share one; when there are more, the next pods begin anew.
const maxSets = 4096

// interner replaces what many objects have in common by one copy: names of
// namespaces and nodes, and whole sets of labels, make up most of what a thousand
// pods of a Deployment say. It has one user.
type interner struct {
	sets map[string]map[string]string
	key  []byte
}

func (in *interner) intern(o catalog.Object) {
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
		o.Labels, o.Annotations = in.set(o.Labels), in.set(o.Annotations)
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

// set returns the set of the same labels that was seen before, if there was one.
func (in *interner) set(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	in.key = in.key[:0]
	for _, k := range slices.Sorted(maps.Keys(m)) {
		in.key = append(append(append(append(in.key, k...), 0), m[k]...), 0) // no label has a zero byte
	}
	if known := in.sets[string(in.key)]; known != nil {
		return known
	}
	if in.sets == nil || len(in.sets) >= maxSets {
		in.sets = map[string]map[string]string{}
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		one(&k)
		one(&v)
		out[k] = v
	}
	in.sets[string(in.key)] = out
	return out
}
