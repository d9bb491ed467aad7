package kubelet

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/files"
)

// pods writes views as "name:hash[:flags]", r ready, d deleting; later ones are
// younger.
func pods(t *testing.T, s string) []view {
	t.Helper()
	var out []view
	for i, f := range strings.Fields(s) {
		part := strings.Split(f+":", ":")
		out = append(out, view{name: part[0], hash: part[1], ready: strings.Contains(part[2], "r"),
			deleting: strings.Contains(part[2], "d"), created: time.Unix(int64(i), 0)})
	}
	return out
}

func TestPlan(t *testing.T) {
	deployment := func(n, surge, unavailable int) workload {
		return workload{template: files.Template{Kind: "Deployment"}, name: "w", hash: "B", replicas: n, surge: surge, unavailable: unavailable}
	}
	recreate := deployment(2, 1, 0)
	recreate.oneByOne = true
	set := workload{template: files.Template{Kind: "StatefulSet"}, name: "w", hash: "B", replicas: 3}
	parallel := set
	parallel.parallel = true
	one := workload{template: files.Template{Kind: "Pod"}, name: "w", hash: "B", replicas: 1, oneByOne: true}
	for _, c := range []struct {
		name           string
		w              workload
		pods           string
		create, remove string
	}{
		{"nothing yet", deployment(2, 1, 0), "", ". .", ""},
		{"as wanted", deployment(2, 1, 0), "a:B:r b:B", "", ""},
		{"scaled down: the unready goes first", deployment(1, 1, 0), "a:B b:B:r", "", "a"},
		{"scaled down: the youngest goes", deployment(1, 1, 0), "a:B:r b:B:r", "", "b"},
		{"leaving pods do not count", deployment(2, 1, 0), "a:B:r b:B:rd", ".", ""},
		{"change: one more comes first", deployment(2, 1, 0), "a:A:r b:A:r", ".", ""},
		{"change: wait for it", deployment(2, 1, 0), "a:A:r b:A:r c:B", "", ""},
		{"change: then one goes", deployment(2, 1, 0), "a:A:r b:A:r c:B:r", "", "b"},
		{"change: broken old ones go at once", deployment(2, 1, 0), "a:A b:A c:B", "", "a b"},
		{"change: one may be missing", deployment(2, 0, 1), "a:A:r b:A:r", "", "b"},
		{"recreate: all go", recreate, "a:A:r b:A:r", "", "a b"},
		{"recreate: none comes before they are gone", recreate, "a:A:rd", "", ""},
		{"recreate: then all come", recreate, "", ". .", ""},
		{"pod", one, "", "w", ""},
		{"pod changed", one, "w:A:r", "", "w"},
		{"pod leaving", one, "w:A:rd", "", ""},
		{"set: in order", set, "", "w-0", ""},
		{"set: each waits for the one before", set, "w-0:B", "", ""},
		{"set: the next", set, "w-0:B:r", "w-1", ""},
		{"set: parallel", parallel, "w-0:B", "w-1 w-2", ""},
		{"set: last first", set, "w-0:A:r w-1:A:r w-2:A:r", "", "w-2"},
		{"set: one at a time", set, "w-0:A:r w-1:A:r w-2:B", "", ""},
		{"set: a broken old one is replaced", set, "w-0:A:r w-1:A w-2:B:r", "", "w-1"},
		{"set: scaled down", set, "w-0:B:r w-1:B:r w-2:B:r w-3:B:r", "", "w-3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := plan(c.w, pods(t, c.pods))
			create := strings.Fields(strings.ReplaceAll(c.create, ".", "-"))
			for i := range got.create {
				if got.create[i] == "" {
					got.create[i] = "-"
				}
			}
			remove := strings.Fields(c.remove)
			slices.Sort(got.remove)
			if fmt.Sprint(got.create) != fmt.Sprint(create) || fmt.Sprint(got.remove) != fmt.Sprint(remove) {
				t.Errorf("create %v remove %v, want %v and %v", got.create, got.remove, create, remove)
			}
		})
	}
}

// A change always ends with exactly the wanted pods, and keeps its bounds.
func TestPlanConverges(t *testing.T) {
	for replicas := range 6 {
		for _, b := range [][2]int{{1, 0}, {0, 1}, {2, 2}, {1, 1}} {
			w := workload{template: files.Template{Kind: "Deployment"}, name: "w", hash: "B", replicas: replicas, surge: b[0], unavailable: b[1]}
			var have []view
			for i := range 4 {
				have = append(have, view{name: fmt.Sprint("old", i), hash: "A", ready: i%2 == 0})
			}
			for step := range 60 {
				d := plan(w, slices.Clone(have))
				for i := range d.create {
					have = append(have, view{name: fmt.Sprint("new", step, "-", i), hash: "B", created: time.Unix(int64(step), 0)})
				}
				have = slices.DeleteFunc(have, func(v view) bool { return slices.Contains(d.remove, v.name) })
				if len(have) > max(replicas+b[0], 4) {
					t.Fatalf("%d replicas, %v: %d pods at step %d", replicas, b, len(have), step)
				}
				for i := range have { // one becomes ready at each step
					if have[i].hash == "B" && !have[i].ready {
						have[i].ready = true
						break
					}
				}
			}
			if len(have) != replicas || slices.ContainsFunc(have, func(v view) bool { return v.hash != "B" }) {
				t.Errorf("%d replicas, %v: ended with %v", replicas, b, have)
			}
		}
	}
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)"}
	for in, want := range map[string]string{
		"$(A)":         "1",
		"x$(A)y$(B)":   "x1y$(A)",
		"$$(A)":        "$(A)",
		"$$$(A)":       "$1",
		"$(NONE) $A $": "$(NONE) $A $",
		"$(open":       "$(open",
		"":             "",
	} {
		if got := expand(in, vars); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{max: time.Second}
	var got []time.Duration
	for range 6 {
		got = append(got, b.next(0))
	}
	got = append(got, b.next(backoffReset))
	want := []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, time.Second, 0}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
