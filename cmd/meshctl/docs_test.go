package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every hint of check leads to a heading of the page that it names.
func TestHintsLeadSomewhere(t *testing.T) {
	source, err := os.ReadFile("check.go")
	if err != nil {
		t.Fatal(err)
	}
	page, _, _ := strings.Cut(hints, "#")
	text, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?:check|warn)\([^,\n]+, "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(found) < 10 {
		t.Fatalf("only %d checks found in check.go", len(found))
	}
	for _, m := range found {
		if !strings.Contains(string(text), "\n### "+m[1]+"\n") {
			t.Errorf("%s has no heading %q", page, m[1])
		}
	}
}
