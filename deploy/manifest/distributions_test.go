package manifest_test

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// What the page says of a distribution can be rendered, and the node agents have
// those folders of their node.
func TestDistributionsOfThePage(t *testing.T) {
	text, err := os.ReadFile("../../docs/distributions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(text), "| distribution |")
	n := 0
	for line := range strings.Lines(rows) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || strings.HasPrefix(cells[1], " ---") {
			continue
		}
		v, want := certificates(), []string{}
		for i, name := range []string{"netDir", "binDir", "criSocket"} {
			value := strings.Trim(cells[2+i], " `")
			if value == "" || value == "default" {
				continue
			}
			v = v.With(value, "cni", name)
			if name == "criSocket" {
				value = path.Dir(value)
			}
			want = append(want, value)
		}
		n++
		var d appsv1.DaemonSet
		find(t, render(t, v), "DaemonSet", manifest.CNINamespace, "mesh-cni", &d)
		var have []string
		for _, vol := range d.Spec.Template.Spec.Volumes {
			if vol.HostPath != nil {
				have = append(have, vol.HostPath.Path)
			}
		}
		for _, w := range want {
			if !slices.Contains(have, w) {
				t.Errorf("%s: the agents have %q, not %s", strings.TrimSpace(cells[1]), have, w)
			}
		}
	}
	if n < 8 {
		t.Fatalf("only %d distributions found", n)
	}
}
