package discover

import (
	"maps"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

func TestLabels(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, m := range []map[string]string{
		{}, {"pod": "p"}, {"": ""}, {"a": "", "": "b"}, {"pod": "web-1", "namespace": "prod", "zone": "a\x00b"}, {long: long, "b": long},
	} {
		l := LabelsOf(m)
		if got := l.Map(); !maps.Equal(got, m) {
			t.Errorf("%q came back as %q", m, got)
		}
		var r reader
		var came []wire.Label
		for k, v := range m { // in any order
			came = append(came, wire.Label{Name: []byte(k), Value: []byte("old")})
			came = append(came, wire.Label{Name: []byte(k), Value: []byte(v)})
		}
		if got := r.labels(came); got != l {
			t.Errorf("%q read as %q", m, got.Map())
		}
	}
	if (Labels{}) != LabelsOf(nil) || LabelsOf(map[string]string{"a": "b"}) == LabelsOf(map[string]string{"ab": ""}) {
		t.Error("labels that are not the same")
	}
}
