package main

import (
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/api/query"
)

// kinds maps every name that kubectl users type to the query API's kind.
func kindOf(s string) (string, bool) {
	for kind, names := range map[string][]string{
		"deployment":  {"deployment", "deployments", "deploy"},
		"pod":         {"pod", "pods", "po"},
		"service":     {"service", "services", "svc"},
		"namespace":   {"namespace", "namespaces", "ns"},
		"statefulset": {"statefulset", "statefulsets", "sts"},
		"daemonset":   {"daemonset", "daemonsets", "ds"},
		"job":         {"job", "jobs"},
		"replicaset":  {"replicaset", "replicasets", "rs"},
		"authority":   {"authority", "authorities", "au"},

		"replicationcontroller": {"replicationcontroller", "replicationcontrollers", "rc"},
	} {
		if slices.Contains(names, strings.ToLower(s)) {
			return kind, true
		}
	}
	return "", false
}

// parseResources reads TYPE, TYPE/NAME, TYPE NAME… and TYPE/NAME TYPE/NAME…
// Each result names one kind, and one object or all.
func parseResources(args []string, namespace string, all bool, labels string) ([]*query.Selector, error) {
	make1 := func(kind, name string) (*query.Selector, error) {
		k, ok := kindOf(kind)
		if !ok {
			return nil, usage("unknown resource type %q: want deploy, po, svc, ns, sts, ds, job, rs, rc or au", kind)
		}
		s := &query.Selector{Kind: k, Name: name, Namespace: namespace, AllNamespaces: all, LabelSelector: labels}
		if all || k == "namespace" {
			s.Namespace = ""
		}
		return s, nil
	}
	if len(args) == 0 {
		return nil, usage("name a resource, for example deploy or deploy/web")
	}
	if !strings.Contains(args[0], "/") {
		names := args[1:]
		if len(names) == 0 {
			names = []string{""}
		}
		var out []*query.Selector
		for _, n := range names {
			if strings.Contains(n, "/") {
				return nil, usage("%q after %q: use TYPE NAME… or TYPE/NAME…, not both", n, args[0])
			}
			s, err := make1(args[0], n)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
		return out, nil
	}
	var out []*query.Selector
	for _, a := range args {
		kind, name, ok := strings.Cut(a, "/")
		if !ok || name == "" || strings.Contains(name, "/") {
			return nil, usage("resource %q: want TYPE/NAME", a)
		}
		s, err := make1(kind, name)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// parseOne reads one TYPE or TYPE/NAME, for --to and --from.
func parseOne(flag, value, namespace string) (*query.Selector, error) {
	if value == "" {
		return nil, nil
	}
	sel, err := parseResources([]string{value}, namespace, false, "")
	if err != nil {
		return nil, usage("--%s: %w", flag, err)
	}
	return sel[0], nil
}
