package eyes

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Each command of docs/traffic.md is asked of a live mesh.
func TestCommandsOfThePageAreAsked(t *testing.T) {
	asked := map[string]bool{}
	for _, q := range append(Live(), Cluster()...) {
		asked[q.Line] = true
	}
	page, err := os.ReadFile("../../docs/traffic.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^\$ (meshctl .*)$`).FindAllSubmatch(page, -1)
	if len(lines) < 10 {
		t.Errorf("%d commands", len(lines))
	}
	for _, l := range lines {
		if !asked[string(l[1])] {
			t.Errorf("nobody asks %s", l[1])
		}
	}
}

// The commands that docs/console.md names beside its pages are asked, too, with
// other arguments.
func TestCommandsOfTheConsolesPageAreAsked(t *testing.T) {
	asked := map[string]bool{
		"dashboard": true, // Shell.Dashboard
		"upgrade":   true, // test/install
	}
	for _, q := range append(Live(), Cluster()...) {
		asked[strings.Fields(q.Line)[1]] = true
	}
	page, err := os.ReadFile("../../docs/console.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("(?m)(?:`|^|sudo )meshctl ([a-z-]+)").FindAllSubmatch(page, -1)
	if len(named) < 8 {
		t.Errorf("%d commands", len(named))
	}
	for _, n := range named {
		if !asked[string(n[1])] {
			t.Errorf("nobody asks meshctl %s", n[1])
		}
	}
}
