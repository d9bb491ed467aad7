package store

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/control/files"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	return New(Config{
		Dir:           t.TempDir(),
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
		Check:         func(*files.Set) error { return nil },
	})
}

func parse(t *testing.T, text string) *files.Set {
	t.Helper()
	s, err := files.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func service(name, spec string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {" + spec + "ports: [{port: 80}]}\n---\n"
}

func ips(s *Store) map[string][]string {
	out := map[string][]string{}
	for _, svc := range s.Set().Services {
		out[svc.Name] = svc.Spec.ClusterIPs
	}
	return out
}

func apply(t *testing.T, s *Store, text string) []Result {
	t.Helper()
	r, err := s.Apply(parse(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestClusterIPs(t *testing.T) {
	s := newStore(t)
	all := service("a", "") + service("b", "ipFamilyPolicy: RequireDualStack, ") + service("c", "ipFamilies: [IPv6], ") +
		service("d", "clusterIP: 10.96.0.5, ") + service("e", "clusterIP: None, ") + service("f", "type: ExternalName, externalName: x.y, ")
	apply(t, s, all)
	first := ips(s)
	for name, want := range map[string][]string{"a": {"10.96."}, "b": {"10.96.", "fd00:10:96::"}, "c": {"fd00:10:96::"}, "d": {"10.96.0.5"}} {
		if len(first[name]) != len(want) {
			t.Errorf("%s has %v, want %d addresses", name, first[name], len(want))
			continue
		}
		for i, prefix := range want {
			if !strings.HasPrefix(first[name][i], prefix) {
				t.Errorf("%s has %v, want %v…", name, first[name], want)
			}
		}
	}
	if len(first["f"]) != 0 {
		t.Errorf("an ExternalName Service has %v", first["f"])
	}
	// The same again, and in another mesh: the same addresses.
	for _, r := range apply(t, s, all) {
		if r.Action != "unchanged" {
			t.Errorf("%s was %s by the same manifest", r.Object, r.Action)
		}
	}
	other := newStore(t)
	apply(t, other, all)
	for name, want := range first {
		if got := ips(s)[name]; !slices.Equal(got, want) {
			t.Errorf("%s moved from %v to %v", name, want, got)
		}
		if got := ips(other)[name]; !slices.Equal(got, want) {
			t.Errorf("%s has %v in another mesh, %v here", name, got, want)
		}
	}
	// No two Services share an address, however many there are.
	var many strings.Builder
	for i := range 600 {
		many.WriteString(service("s"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+string(rune('a'+i/26)), ""))
	}
	apply(t, s, many.String())
	seen := map[string]string{}
	for name, list := range ips(s) {
		for _, ip := range list {
			if old, ok := seen[ip]; ok && ip != "None" {
				t.Errorf("%s and %s both have %s", old, name, ip)
			}
			seen[ip] = name
		}
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	s := newStore(t)
	apply(t, s, service("a", ""))
	dir := func() []string {
		list, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	before := dir()
	for name, text := range map[string]string{
		"address outside": service("b", "") + service("c", "clusterIP: 192.0.2.1, "),
		"address taken":   service("b", "clusterIP: "+ips(s)["a"][0]+", "),
		"no address":      service("b", "clusterIP: here, "),
		"written twice":   service("b", "") + service("b", ""),
		"no namespace":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nowhere}\n",
	} {
		if r, err := s.Apply(parse(t, text)); err == nil {
			t.Errorf("%s: applied %v", name, r)
		}
		if got := dir(); !slices.Equal(got, before) || len(s.Set().Services) != 1 {
			t.Errorf("%s: left %v", name, got)
		}
	}
	s.cfg.Check = func(*files.Set) error { return errors.New("refused") }
	if _, err := s.Apply(parse(t, service("b", ""))); err == nil || len(s.Set().Services) != 1 {
		t.Errorf("the runtime's own check was not heard: %v", err)
	}
}

func TestFilesAreManifests(t *testing.T) {
	s := newStore(t)
	apply(t, s, service("a", "")+"apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n")
	set, err := files.Load(nil, s.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Check(set); err != nil {
		t.Error(err)
	}
	if len(set.Services) != 1 || set.Services[0].Spec.ClusterIP != ips(s)["a"][0] || len(set.Namespaces) != 1 || string(set.Secrets[0].Data["k"]) != "v" {
		t.Errorf("read back %+v", set)
	}
	if err := s.Delete("service", "default", "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("service", "default", "a"); err == nil {
		t.Error("deleted twice")
	}
	if _, err := os.Stat(filepath.Join(s.cfg.Dir, "default_service_a.yaml")); err == nil {
		t.Error("the file of what was deleted is left")
	}
}

func TestDeleteWhatIsNeeded(t *testing.T) {
	s := newStore(t)
	apply(t, s, `apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {k: v}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {volumes: [{name: v, configMap: {name: c}}], containers: [{name: c, image: x, command: [x]}]}
`)
	if err := s.Delete("configmap", "default", "c"); err == nil || !strings.Contains(err.Error(), "others need it") {
		t.Errorf("a ConfigMap that a pod needs: %v", err)
	}
}
