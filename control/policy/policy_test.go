package policy

import (
	"strings"
	"testing"

	api "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

func TestParseDefault(t *testing.T) {
	for s, want := range map[string]api.Default{
		"all-unauthenticated": api.Default_ALL_UNAUTHENTICATED, "all-authenticated": api.Default_ALL_AUTHENTICATED,
		"cluster-unauthenticated": api.Default_CLUSTER_UNAUTHENTICATED, "cluster-authenticated": api.Default_CLUSTER_AUTHENTICATED,
		"deny": api.Default_DENY, "audit": api.Default_AUDIT,
	} {
		if got, err := ParseDefault(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "allow", "DENY", "all_authenticated", "default-unspecified", " deny"} {
		if got, err := ParseDefault(s); err == nil || got != api.Default_DENY {
			t.Errorf("%q: %v, %v; want an error and deny", s, got, err)
		}
	}
}

func TestInboundPrecedence(t *testing.T) {
	rules := Rules{Default: api.Default_CLUSTER_AUTHENTICATED}
	with := func(v string) map[string]string { return map[string]string{annotation.DefaultInboundPolicy: v} }
	for _, tc := range []struct {
		name    string
		pod, ns map[string]string
		want    api.Default
		bad     string
	}{
		{"nothing said", nil, nil, api.Default_CLUSTER_AUTHENTICATED, ""},
		{"the namespace", nil, with("audit"), api.Default_AUDIT, ""},
		{"the pod", with("deny"), with("audit"), api.Default_DENY, ""},
		{"the pod, unreadable", with("none"), with("audit"), api.Default_DENY, `"none" is not known`},
		{"the pod, empty", with(""), with("audit"), api.Default_DENY, `"" is not known`},
	} {
		got, err := Inbound(&catalog.Pod{Annotations: tc.pod}, &catalog.Namespace{Annotations: tc.ns}, nil, rules)
		if got.GetDefault() != tc.want || (err == nil) != (tc.bad == "") || err != nil && !strings.Contains(err.Error(), tc.bad) {
			t.Errorf("%s: %v, %v", tc.name, got.GetDefault(), err)
		}
	}
	if got, err := Inbound(&catalog.Pod{}, nil, nil, rules); err != nil || got.GetDefault() != rules.Default {
		t.Errorf("no namespace: %v, %v", got, err)
	}
}

func TestParseNetworks(t *testing.T) {
	list, err := ParseNetworks(" 10.1.2.3/8, fd00::/8,")
	if err != nil || len(list) != 2 || list[0].String() != "10.0.0.0/8" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := ParseNetworks("10.0.0.0"); err == nil {
		t.Error("an address was taken for a network")
	}
}
