package manifest_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// Every rule of the control plane and of the view is one of the tables', and every
// one of the tables' is rendered: no right without a reason, no reason without a
// right.
func TestRulesAreTheTable(t *testing.T) {
	for component, table := range map[string]struct {
		design  string
		atLeast int
	}{
		manifest.Control: {"../../docs/design/0009-kubernetes-source.md", 15},
		manifest.View:    {"../../docs/design/0013-view.md", 8},
	} {
		t.Run(component, func(t *testing.T) { compareRules(t, component, table.design, table.atLeast) })
	}
}

func compareRules(t *testing.T, component, design string, atLeast int) {
	t.Helper()
	text, err := os.ReadFile(design)
	if err != nil {
		t.Fatal(err)
	}
	want := tableRules(string(text))
	if len(want) < atLeast {
		t.Fatalf("%s: only %d rules found", design, len(want))
	}
	got := rulesOf(t, render(t, certificates()).Of(component))
	slices.Sort(want)
	slices.Sort(got)
	for _, r := range got {
		if !slices.Contains(want, r) {
			t.Errorf("the chart gives a right that the table does not: %s", r)
		}
	}
	for _, r := range want {
		if !slices.Contains(got, r) {
			t.Errorf("the table has a right that the chart does not give: %s", r)
		}
	}
}

// tableRules writes each row of the table as its rules: namespace, resource, name, verbs.
func tableRules(text string) (out []string) {
	_, text, _ = strings.Cut(text, "| resource | verbs | why |")
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], " ---") {
			continue
		}
		resources, namespace, _ := strings.Cut(strings.TrimSpace(cells[1]), " in ")
		if i := strings.Index(resources, " ("); i > 0 { // the API group
			resources = resources[:i] + resources[strings.Index(resources, ")")+1:]
		}
		name := ""
		if i := strings.Index(resources, " `"); i > 0 {
			resources, name = resources[:i], strings.Trim(resources[i:], " `")
		}
		for r := range strings.SplitSeq(resources, ", ") {
			out = append(out, fmt.Sprintf("%s %s %q %s", strings.Trim(namespace, "`"), r, name, verbs(strings.Split(strings.TrimSpace(cells[2]), ", "))))
		}
	}
	return out
}

func verbs(v []string) string {
	v = slices.Clone(v)
	slices.Sort(v)
	return strings.Join(v, ",")
}

// people begins the names of the roles that are for people: nothing of ours has them.
func people(name string) bool {
	return name == "tunmesh-stat" || strings.HasPrefix(name, "tunmesh-tap")
}

func rulesOf(t *testing.T, all manifest.Objects) (out []string) {
	t.Helper()
	add := func(namespace string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			names := r.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, resource := range r.Resources {
				for _, name := range names {
					if resource == "*" || slices.Contains(r.Verbs, "*") || slices.Contains(r.APIGroups, "*") {
						t.Errorf("a rule without bounds: %+v", r)
					}
					out = append(out, fmt.Sprintf("%s %s %q %s", namespace, resource, name, verbs(r.Verbs)))
				}
			}
		}
	}
	for _, o := range kind(all, "ClusterRole") {
		var r rbacv1.ClusterRole
		convert(t, o, &r)
		if !people(r.Name) {
			add("", r.Rules)
		}
	}
	for _, o := range kind(all, "Role") {
		var r rbacv1.Role
		convert(t, o, &r)
		add(r.Namespace, r.Rules)
	}
	return out
}

// The node agent, which is privileged, may ask the API for one thing.
func TestTheAgentsOneRight(t *testing.T) {
	all := render(t, certificates()).Of(manifest.CNI)
	if n := len(kind(all, "ClusterRole")) + len(kind(all, "ClusterRoleBinding")); n > 0 {
		t.Errorf("%d rights over the cluster", n)
	}
	roles := kind(all, "Role")
	if len(roles) != 1 {
		t.Fatalf("%d roles", len(roles))
	}
	var r rbacv1.Role
	convert(t, roles[0], &r)
	want := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, ResourceNames: []string{"mesh-cni"}}
	if len(r.Rules) != 1 || fmt.Sprint(r.Rules[0]) != fmt.Sprint(want) {
		t.Errorf("%+v", r.Rules)
	}
}
