package install

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// commands are the lines of a shell's text, without comments, continued ones whole.
func commands(text string) (out []string) {
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(text, "")
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// Each command that docs/install.md has people type is typed by a test, but for
// Helm's, of which the page says that they are not.
func TestCommandsOfThePageAreRun(t *testing.T) {
	typed := map[string]bool{}
	scripts, err := filepath.Glob("testdata/*.sh")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("walk_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		if !strings.Contains(string(source), `"`+filepath.Base(s)+`"`) {
			t.Errorf("%s is run by no test", s)
		}
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands(string(text)) {
			typed[c] = true
		}
	}
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range regexp.MustCompile("(?s)\n```\n(.*?)\n```\n").FindAllStringSubmatch(string(page), -1) {
		for _, c := range commands(block[1]) {
			if strings.HasPrefix(c, "helm ") {
				continue
			}
			if n++; !typed[c] {
				t.Errorf("nobody types %s", c)
			}
		}
	}
	if n < 15 {
		t.Fatalf("only %d commands found", n)
	}
}
