package discover

import (
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

func TestLabels(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, m := range []map[string]string{
		{}, {"pod": "p"}, {"": ""}, {"a": "", "": "b"}, {"pod": "web-1", "namespace": "prod", "zone": "a\x00b"}, {long: long, "b": long},
	} {
		e := Endpoint{Own: LabelsOf(m)}
		if got := e.Labels(); !maps.Equal(got, m) {
			t.Errorf("%q came back as %q", m, got)
		}
		var r reader
		var came []wire.Label
		for k, v := range m { // in any order
			came = append(came, wire.Label{Name: []byte(k), Value: []byte("old")})
			came = append(came, wire.Label{Name: []byte(k), Value: []byte(v)})
		}
		r.labels(came)
		e = Endpoint{Workload: WorkloadOf("", spiffe.ID{}, Labels{string(r.others)}), Own: Labels{string(r.own)}}
		if got := e.Labels(); !maps.Equal(got, m) {
			t.Errorf("%q read as %q", m, got)
		}
		shared := maps.Clone(m)
		delete(shared, "pod")
		if e.Workload != WorkloadOf("", spiffe.ID{}, LabelsOf(shared)) {
			t.Errorf("of %q another workload has %q", m, r.others)
		}
	}
	if (Labels{}) != LabelsOf(nil) || LabelsOf(map[string]string{"a": "b"}) == LabelsOf(map[string]string{"ab": ""}) {
		t.Error("labels that are not the same")
	}
}

// What endpoints share tells them apart from those of others, and nothing of a
// workload that was read before leaks into the next.
func TestWorkloads(t *testing.T) {
	var r reader
	read := func(zone, identity string, labels ...string) Workload {
		var l []wire.Label
		for i := 0; i < len(labels); i += 2 {
			l = append(l, wire.Label{Name: []byte(labels[i]), Value: []byte(labels[i+1])})
		}
		r.labels(l)
		w, err := r.workload([]byte(zone), []byte(identity))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	const api, web = "spiffe://cluster.local/ns/prod/sa/api", "spiffe://cluster.local/ns/prod/sa/web"
	one := read("a", api, "pod", "1", "namespace", "prod")
	if one != read("a", api, "namespace", "prod", "pod", "2") || one.Zone() != "a" || one.Identity().String() != api {
		t.Errorf("%+v", one)
	}
	for _, other := range []Workload{read("b", api, "namespace", "prod"), read("a", web, "namespace", "prod"), read("a", "", "namespace", "prod"), read("a", api), read("", "")} {
		if other == one {
			t.Errorf("%q %q is the same", other.Zone(), other.Identity())
		}
	}
	if read("", "") != (Workload{}) || !read("", "").Identity().IsZero() {
		t.Error("nothing is something")
	}
	for i := range 2 * maxShared {
		if w := read(strconv.Itoa(i), web); w.Zone() != strconv.Itoa(i) || w != read(strconv.Itoa(i), web) {
			t.Errorf("zone %d is %q", i, w.Zone())
		}
	}
	if len(r.workloads) != maxShared {
		t.Errorf("%d workloads are kept", len(r.workloads))
	}
	if _, err := r.workload(nil, []byte("spiffe://x")); err == nil {
		t.Error("half an identity was taken")
	}
}
