package kube

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// same reports whether two maps are one.
func same(a, b map[string]string) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

func TestSetsAreShared(t *testing.T) {
	var in interner
	pod := func(labels map[string]string) map[string]string {
		p := &catalog.Pod{Labels: maps.Clone(labels)}
		in.intern(p)
		if !maps.Equal(p.Labels, labels) {
			t.Errorf("%v became %v", labels, p.Labels)
		}
		return p.Labels
	}
	a := pod(map[string]string{"app": "web", "x": "1"})
	if !same(a, pod(map[string]string{"x": "1", "app": "web"})) {
		t.Error("the same labels are two sets")
	}
	for _, other := range []map[string]string{{"app": "web"}, {"app": "web", "x": "2"}, {"app": "web", "x1": ""}, {"a": "ppweb", "x": "1"}} {
		if same(a, pod(other)) {
			t.Errorf("%v is another set", other)
		}
	}
	if pod(nil) != nil {
		t.Error("no labels are some")
	}
	for n := range 3 * maxSets {
		pod(map[string]string{"n": fmt.Sprint(n)})
	}
	if len(in.sets) > maxSets {
		t.Errorf("%d sets are remembered", len(in.sets))
	}
}
