package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/health"
)

// Every hint of check in a cluster does, too, and every heading there is a check's.
func TestHintsOfClustersLeadSomewhere(t *testing.T) {
	var source []byte
	files, err := filepath.Glob("internal/health/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	_, page, _ := strings.Cut(strings.TrimSuffix(health.Hints, "#"), "/blob/main/")
	text, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`r\.check\((?:fails|waits|warns|fatal), [^,\n]+, "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
		used[m[1]] = true
		if !strings.Contains(string(text), "\n### "+m[1]+"\n") {
			t.Errorf("%s has no heading %q", page, m[1])
		}
	}
	if len(used) < 15 {
		t.Fatalf("only %d hints found", len(used))
	}
	for _, m := range regexp.MustCompile(`(?m)^### ([a-z-]+)$`).FindAllStringSubmatch(string(text), -1) {
		if !used[m[1]] {
			t.Errorf("%s has heading %q, which no check leads to", page, m[1])
		}
	}
}

// Every hint of check leads to a heading of the page that it names.
func TestHintsLeadSomewhere(t *testing.T) {
	var source []byte
	for _, f := range []string{"check.go", "check_machine.go"} {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
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
