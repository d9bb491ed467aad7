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

// What docs/traffic.md shows after a command is an answer that a live mesh may give.
func TestShownAnswersAreRight(t *testing.T) {
	page, err := os.ReadFile("../../docs/traffic.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, block := range regexp.MustCompile("(?ms)^```\\w*\n(.*?)^```").FindAllStringSubmatch(string(page), -1) {
		line := ""
		for l := range strings.Lines(block[1]) {
			if c, ok := strings.CutPrefix(l, "$ "); ok {
				line = strings.TrimSuffix(c, "\n")
			} else if line != "" {
				shown[line] += l
			}
		}
	}
	checked := 0
	for _, q := range append(Live(), Cluster()...) {
		text, is := shown[q.Line]
		if !is {
			continue
		}
		checked++
		if lacks := missing(text, q.Out); lacks != "" {
			t.Errorf("$ %s\n%snothing shown is %s", q.Line, text, lacks)
		}
	}
	if checked < 10 {
		t.Errorf("%d answers", checked)
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
