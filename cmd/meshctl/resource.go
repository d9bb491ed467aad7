package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
)

// resourceKinds lists what can be asked about: the query API's name of the kind, and
// what else kubectl users type for it.
func resourceKinds() [][]string {
	return [][]string{
		{"authority", "authorities", "au"},
		{"cronjob", "cronjobs", "cj"},
		{"daemonset", "daemonsets", "ds"},
		{"deployment", "deployments", "deploy"},
		{"job", "jobs"},
		{"namespace", "namespaces", "ns"},
		{"pod", "pods", "po"},
		{"replicaset", "replicasets", "rs"},
		{"replicationcontroller", "replicationcontrollers", "rc"},
		{"service", "services", "svc"},
		{"statefulset", "statefulsets", "sts"},
	}
}

// kindOf is the query API's kind for what somebody typed.
func kindOf(s string) (string, bool) {
	for _, names := range resourceKinds() {
		if slices.Contains(names, strings.ToLower(s)) {
			return names[0], true
		}
	}
	return "", false
}

// everyKind is what is typed for all kinds at once, where that makes sense.
const everyKind = "all"

// completeKinds completes the TYPE of a command, but for those that it knows nothing of.
func completeKinds(but ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		var out []string
		if len(args) == 0 {
			for _, names := range append(resourceKinds(), []string{everyKind}) {
				if strings.HasPrefix(names[0], typed) && !slices.Contains(but, names[0]) {
					out = append(out, names[0])
				}
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeKindsOf completes the TYPE of a flag.
func completeKindsOf(c *cobra.Command, flag string, but ...string) {
	complete := completeKinds(but...)
	// Its error is of a flag that is not there, which no command line can mend.
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return complete(c, nil, typed)
	})
}

// parseResources reads TYPE, TYPE/NAME, TYPE NAME… and TYPE/NAME TYPE/NAME…
// Each result names one kind, and one object or all.
func parseResources(args []string, namespace string, all bool, labels string) ([]*query.Selector, error) {
	make1 := func(kind, name string) (*query.Selector, error) {
		k, ok := kindOf(kind)
		switch {
		case strings.EqualFold(kind, everyKind):
			return nil, usage("%q is for stat, alone and without a name", everyKind)
		case !ok:
			return nil, usage("unknown resource type %q: want deploy, po, svc, ns, sts, ds, job, cj, rs, rc or au", kind)
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
