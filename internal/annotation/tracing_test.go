package annotation_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

func TestParseCollector(t *testing.T) {
	for in, want := range map[string]string{
		"collector.observability:4317": "collector.observability:4317", "collector": "collector:4317", "a.b.": "a.b.:4317",
		"10.0.0.1:80": "10.0.0.1:80", "10.0.0.1": "10.0.0.1:4317", "[fd00::1]:4317": "[fd00::1]:4317", "fd00::1": "[fd00::1]:4317", "[fd00::1]": "[fd00::1]:4317",
		"": "", ":4317": "", "http://a:4317": "", "a:0": "", "a:70000": "", "a:b": "", "a b:1": "", "-a:1": "", "a..b:1": "", "a/v1/traces": "",
	} {
		got, err := annotation.ParseCollector(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func TestParseSampling(t *testing.T) {
	for in, want := range map[string]float64{"0": 0, "1": 1, "0.01": 0.01, "1%": 0.01, "100%": 1, "2.5%": 0.025} {
		if got, err := annotation.ParseSampling(in); got != want || err != nil {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "%", "2", "-0.1", "101%", "NaN", "Inf", "half", "1e-3", "0x1p-2", "1 %"} {
		if got, err := annotation.ParseSampling(in); err == nil || got != 0 {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestHanded(t *testing.T) {
	all := map[string]string{
		annotation.TraceSampling: "1", "resource.opentelemetry.io/service.name": "web", "resource.opentelemetry.io/": "x", "other": "y", annotation.Inject: "enabled",
		"resource.opentelemetry.io/long": strings.Repeat("x", 257),
	}
	got := annotation.Handed(all)
	if len(got) != 2 || got[annotation.TraceSampling] != "1" || got["resource.opentelemetry.io/service.name"] != "web" {
		t.Errorf("%v", got)
	}
	for i := range 100 {
		all[fmt.Sprintf("resource.opentelemetry.io/a%d", i)] = "v"
	}
	if got = annotation.Handed(all); len(got) != 33 {
		t.Errorf("%d annotations", len(got))
	}
}
