package manifest_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// page is where people read what every port and right is for.
const page = "../../docs/rights.md"

// table reads the rows of the page's table that has this first column.
func table(t *testing.T, head string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "| "+head+" |")
	if !ok {
		t.Fatalf("%s has no table of %s", page, head)
	}
	for i, line := range strings.Split(rest, "\n") {
		if i < 2 {
			continue // the rest of the head, and the rule below it
		}
		if !strings.HasPrefix(line, "|") {
			return rows
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// Every rule that anybody of ours is bound to, and every role for people, is one of
// the table's, and every one of the table's is rendered: no right without a reason,
// no reason without a right.
func TestRulesAreTheTable(t *testing.T) {
	for name, repair := range map[string]bool{"default": false, "with repair": true} {
		t.Run(name, func(t *testing.T) {
			var want []string
			for _, row := range table(t, "account") {
				account, only, _ := strings.Cut(row[0], ", ")
				if only == "" || repair && only == "`repair.enabled`" {
					want = append(want, tableRules(account, row[1], row[2])...)
				}
			}
			if len(want) < 35 {
				t.Fatalf("%s: only %d rules found", page, len(want))
			}
			got := rulesOf(t, render(t, certificates().With(repair, "repair", "enabled")))
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
		})
	}
}

// tableRules writes a row as its rules.
func tableRules(account, what, may string) (out []string) {
	what, namespace, _ := strings.Cut(strings.ReplaceAll(what, `\*`, "*"), " in ")
	var group, name string
	if i := strings.Index(what, " ("); i > 0 {
		group = strings.Trim(what[i:], " ()")
		what = what[:i]
	}
	if i := strings.Index(what, " `"); i > 0 {
		name = strings.Trim(what[i:], " `")
		what = what[:i]
	}
	for r := range strings.SplitSeq(what, ", ") {
		out = append(out, rule(account, strings.Trim(namespace, "`"), group, r, name, strings.Split(may, ", ")))
	}
	return out
}

func rule(account, namespace, group, resource, name string, verbs []string) string {
	verbs = slices.Clone(verbs)
	slices.Sort(verbs)
	return fmt.Sprintf("%s: %s of %q %s %q in %q", account, strings.Join(verbs, ","), group, resource, name, namespace)
}

// kubernetesOwn are roles that every cluster has.
func kubernetesOwn(namespace, name string) ([]rbacv1.PolicyRule, bool) {
	if namespace == "kube-system" && name == "extension-apiserver-authentication-reader" {
		return []rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"extension-apiserver-authentication"}}}, true
	}
	return nil, false
}

// rulesOf lists what each ServiceAccount is bound to, and the roles that nobody is:
// those are for people.
func rulesOf(t *testing.T, all manifest.Objects) (out []string) {
	t.Helper()
	add := func(account, namespace string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			names := r.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, resource := range r.Resources {
				for _, name := range names {
					if resource == "*" || slices.Contains(r.Verbs, "*") || slices.Contains(r.APIGroups, "*") || len(r.APIGroups) != 1 {
						t.Errorf("a rule without bounds, or of several groups: %+v", r)
					}
					out = append(out, rule(account, namespace, r.APIGroups[0], resource, name, r.Verbs))
				}
			}
		}
	}
	bound := map[string]bool{}
	for _, o := range kind(all, "ClusterRoleBinding") {
		var b rbacv1.ClusterRoleBinding
		convert(t, o, &b)
		var r rbacv1.ClusterRole
		find(t, all, "ClusterRole", "", b.RoleRef.Name, &r)
		bound[r.Name] = true
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.GroupKind && s.Name == "system:authenticated" && (r.Name == "tunmesh-console" || r.Name == "tunmesh-why") {
				add("everybody", "", r.Rules) // what shows nothing by itself
				continue
			}
			add(account(t, all, s), "", r.Rules)
		}
	}
	for _, o := range kind(all, "RoleBinding") {
		var b rbacv1.RoleBinding
		convert(t, o, &b)
		rules, own := kubernetesOwn(b.Namespace, b.RoleRef.Name)
		if !own {
			var r rbacv1.Role
			find(t, all, b.RoleRef.Kind, b.Namespace, b.RoleRef.Name, &r)
			rules = r.Rules
		}
		for _, s := range b.Subjects {
			add(account(t, all, s), b.Namespace, rules)
		}
	}
	for _, o := range kind(all, "ClusterRole") {
		var r rbacv1.ClusterRole
		convert(t, o, &r)
		if !bound[r.Name] {
			add("role "+r.Name, "", r.Rules)
		}
	}
	return out
}

// account is a subject's name; it has to be one of the chart's ServiceAccounts.
func account(t *testing.T, all manifest.Objects, s rbacv1.Subject) string {
	t.Helper()
	if s.Kind != rbacv1.ServiceAccountKind {
		t.Errorf("%s %s is bound to a role", s.Kind, s.Name)
	}
	var a corev1.ServiceAccount
	find(t, all, "ServiceAccount", s.Namespace, s.Name, &a)
	return s.Name
}
