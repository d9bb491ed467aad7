package programs_test

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/test/cluster/programs"
)

func TestRelease(t *testing.T) {
	newest := programs.Kubernetes()[0]
	for in, want := range map[string]string{
		"": newest, programs.Minor(newest): newest, "v" + newest: newest,
		"1.34.2": "1.34.2", "v1.32": "1.32.6",
	} {
		if got, err := programs.Release(in); err != nil || got != want {
			t.Errorf("Release(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"1.31": "range is 1.32 to 1.36", "1.99.1": "not supported", "2.34": "not a version", "1": "not a version",
		"1.34.x": "not a version", "latest": "not a version", "1.34.2.1": "not a version", "1.-4": "not a version",
	} {
		if got, err := programs.Release(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Release(%q) = %q, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	if !programs.AtLeast("1.33.1", 33) || programs.AtLeast("1.32.13", 33) {
		t.Error("1.33.1 is of 1.33, 1.32.13 is not")
	}
}
