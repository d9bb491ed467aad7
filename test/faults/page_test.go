package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named are the tests that the last column of the page's tables names, as
// `cni/plugin` TestAdd, or with the subtest's name after a slash: each has its
// folder before it, or the one before it in the row.
func named(page string) (out [][3]string) {
	cell := regexp.MustCompile("`([a-z/-]+)`|(Test[A-Za-z0-9]+)(?:/\"([^\"]+)\")?")
	for line := range strings.Lines(page) {
		row := strings.Split(strings.TrimSpace(line), "|")
		if len(row) != 6 { // a table of four columns
			continue
		}
		dir := ""
		for _, f := range cell.FindAllStringSubmatch(row[4], -1) {
			if f[1] != "" {
				dir = f[1]
			} else {
				out = append(out, [3]string{dir, f[2], f[3]})
			}
		}
	}
	return out
}

// missing says what is wrong with what a row names.
func missing(root string, test [3]string) string {
	dir, name, sub := test[0], test[1], test[2]
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil || dir == "" {
		return "no folder is named before " + name
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err.Error()
		}
		all.Write(text)
	}
	if !strings.Contains(all.String(), "\nfunc "+name+"(") {
		return dir + " has no " + name
	}
	if sub != "" && !strings.Contains(all.String(), `"`+sub+`"`) {
		return dir + ": " + name + ` has no "` + sub + `"`
	}
	return ""
}

// Every fault of docs/faults.md has a test, and each test is there.
func TestPageOfFaults(t *testing.T) {
	page, err := os.ReadFile("../../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		if row := strings.Split(strings.TrimSpace(line), "|"); len(row) == 6 && !strings.Contains(row[1], "---") && strings.TrimSpace(row[1]) != "fault" {
			if rows++; len(named(line)) == 0 {
				t.Errorf("no test causes it: %s", row[1])
			}
		}
	}
	if rows < 25 {
		t.Errorf("only %d faults found", rows)
	}
	for _, test := range named(string(page)) {
		if why := missing("../..", test); why != "" {
			t.Error(why)
		}
	}
}

func TestMissing(t *testing.T) {
	for row, want := range map[string]string{
		"| a | b | c | `test/faults` TestMissing |":           "",
		"| a | b | c | `test/faults` TestFaults/\"tokens\" |": "",
		"| a | b | c | `test/faults` TestNothing |":           "test/faults has no TestNothing",
		"| a | b | c | `test/faults` TestFaults/\"no\" |":     "test/faults: TestFaults has no \"no\"",
		"| a | b | c | `test/nothing` TestMissing |":          "test/nothing has no TestMissing",
		"| a | b | c | TestMissing |":                         "no folder is named before TestMissing",
	} {
		tests := named(row)
		if len(tests) != 1 {
			t.Errorf("%s: %v", row, tests)
			continue
		}
		if got := missing("../..", tests[0]); got != want {
			t.Errorf("%s: %q, want %q", row, got, want)
		}
	}
}
