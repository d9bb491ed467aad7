package install

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// typed are the commands that the walk and others type, each script of which is run
// by a test.
func typed(t *testing.T) (out []string) {
	t.Helper()
	scripts, err := filepath.Glob("testdata/*.sh")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, name := range tests {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	for _, s := range scripts {
		if !strings.Contains(string(source), `"`+filepath.Base(s)+`"`) {
			t.Errorf("%s is run by no test", s)
		}
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, commands(string(text))...)
	}
	return out
}

// of are the commands that a page has people type: in blocks, as they stand, and within its
// sentences. A page says of the others, as of cert-manager's, that no test runs them.
func of(page string) (blocks, inline []string) {
	page = strings.ReplaceAll(page, "\r", "")
	block := regexp.MustCompile("(?s)\n```(\\w*)\n(.*?)\n```\n")
	for _, b := range block.FindAllStringSubmatch(page, -1) {
		if b[1] == "" {
			blocks = append(blocks, commands(b[2])...)
		}
	}
	for _, c := range regexp.MustCompile("`((?:meshctl|kubectl|helm)\\s[^`]*)`([^`]{0,24})").FindAllStringSubmatch(block.ReplaceAllString(page, "\n"), -1) {
		if !strings.HasPrefix(strings.TrimSpace(c[2]), "(not run by our tests") {
			inline = append(inline, strings.Join(strings.Fields(c[1]), " "))
		}
	}
	return blocks, inline
}

// names says whether a typed command has each word of one in a sentence, where words in
// capitals, such as deploy/NAME, stand for others.
func names(typed, command string) bool {
	words := strings.Fields(typed)
	for word := range strings.FieldsSeq(command) {
		is := regexp.MustCompile("^" + regexp.MustCompile(`[A-Z]{3,}`).ReplaceAllLiteralString(regexp.QuoteMeta(word), `\S+`) + "$")
		if !slices.ContainsFunc(words, is.MatchString) {
			return false
		}
	}
	return true
}

// Each command of these pages is typed by a test, or the page says that it is not.
func TestCommandsOfThePagesAreRun(t *testing.T) {
	all := typed(t)
	for page, least := range map[string]int{"install": 30, "certificates": 2, "nodes": 2, "distributions": 1, "checks": 15} {
		text, err := os.ReadFile(filepath.Join("../../docs", page+".md"))
		if err != nil {
			t.Fatal(err)
		}
		blocks, inline := of(string(text))
		for _, c := range blocks {
			if !slices.Contains(all, c) {
				t.Errorf("docs/%s.md: nobody types %s", page, c)
			}
		}
		for _, c := range inline {
			if strings.Contains(c, " --local") {
				continue // of a mesh without a cluster: test/lifecycle runs docs/local.md
			}
			if !slices.ContainsFunc(all, func(typed string) bool { return names(typed, c) }) {
				t.Errorf("docs/%s.md: nobody types %s", page, c)
			}
		}
		if n := len(blocks) + len(inline); n < least {
			t.Errorf("docs/%s.md: only %d commands found", page, n)
		}
	}
}

// The test above must see what is missing.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		typed, command string
		want           bool
	}{
		{"meshctl -n shop identity", "meshctl identity -n NAMESPACE", true},
		{"meshctl -n shop diagnostics endpoints web.shop:80", "meshctl diagnostics endpoints SERVICE.NAMESPACE:PORT", true},
		{"kubectl -n shop logs deploy/web", "kubectl logs POD -c mesh-proxy", false},
		{"meshctl check", "meshctl check --proxy", false},
		{"meshctl install | kubectl apply -f -", "meshctl upgrade | kubectl apply -f -", false},
	} {
		if got := names(c.typed, c.command); got != c.want {
			t.Errorf("%s for %s: %t", c.typed, c.command, got)
		}
	}
	_, inline := of("Ask `meshctl why a b` or\n`kubectl get\nnodes` (not run by our tests).\n\n```yaml\nno: `kubectl delete x`\n```\n")
	if !slices.Equal(inline, []string{"meshctl why a b"}) {
		t.Errorf("%q", inline)
	}
}
