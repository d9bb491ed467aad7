package main

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/test/eyes"
)

// Every command is asked of live traffic, of a mesh in which nothing is meshed, and
// with arguments that make no sense, on a cluster and on a mesh of one machine: by the
// tables of test/eyes, or where this says.
func TestEveryCommandIsAsked(t *testing.T) {
	elsewhere := map[string]string{
		"dashboard": "Shell.Dashboard of test/eyes: Guarded, Empty",
		"check":     "test/install's scripts before and after the sample, TestPageOfLocal",
		"install":   "test/install", "upgrade": "test/install", "uninstall": "test/install", "prune": "test/install", "install-cni": "test/install",
		"inject": "test/install", "uninject": "test/install", "completion": "test/install",
		"local": "test/lifecycle",
	}
	asked := func(tables ...[]eyes.Question) func(path string) bool {
		return func(path string) bool {
			for _, table := range tables {
				for _, q := range table {
					if strings.HasPrefix(q.Line+" ", path+" ") {
						return true
					}
				}
			}
			return false
		}
	}
	for what, of := range map[string]func(string) bool{"live traffic": asked(eyes.Live()), "an empty mesh": asked(eyes.Empty()), "wrong arguments": asked(eyes.Wrong())} {
		n := 0
		for _, c := range leaves((&app{}).root()) {
			path := c.CommandPath()
			if elsewhere[strings.Fields(path)[1]] != "" {
				continue
			}
			n++
			if !of(path) {
				t.Errorf("%s is not asked of %s", path, what)
			}
		}
		if n < 15 {
			t.Errorf("only %d commands found", n)
		}
	}
}
