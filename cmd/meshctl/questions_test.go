package main

import (
	"strings"
	"testing"
)

// Questions that make no sense are 2 before anybody is asked, and 1 where nobody
// is there to be asked.
func TestExitCodesOfQuestions(t *testing.T) {
	for line, want := range map[string]int{
		"stat deploy -t 1500ms":              exitUsage,
		"stat deploy -w -o json":             exitUsage,
		"stat deploy -w --interval 1ms":      exitUsage,
		"stat-inbound":                       exitUsage,
		"stat-inbound svc":                   exitUsage,
		"stat-inbound deploy -o wide":        exitUsage,
		"stat-outbound au":                   exitUsage,
		"stat-outbound deploy -t 0s":         exitUsage,
		"edges":                              exitUsage,
		"edges svc":                          exitUsage,
		"edges nonsense":                     exitUsage,
		"edges deploy -o xml":                exitUsage,
		"edges deploy -t 1ms":                exitUsage,
		"list web":                           exitUsage,
		"list -o wide":                       exitUsage,
		"endpoints web":                      exitUsage,
		"top":                                exitUsage,
		"top nonsense":                       exitUsage,
		"top deploy -o wide":                 exitUsage,
		"top deploy --for -1s":               exitUsage,
		"top au":                             exitUsage,
		"why deploy/web":                     exitUsage,
		"why web voting":                     exitUsage,
		"why deploy/web from voting":         exitUsage,
		"why deploy/web voting:http":         exitUsage,
		"why deploy/web voting:80 --port 8":  exitUsage,
		"why deploy/web voting -o yaml":      exitUsage,
		"why deploy/web x/y":                 exitUsage,
		"tap deploy -o jsonpath={":           exitUsage,
		"tap au/x":                           exitUsage,
		"--local no-such-mesh edges deploy":  exitFailed,
		"--local no-such-mesh list":          exitFailed,
		"--local no-such-mesh top deploy":    exitFailed,
		"--local no-such-mesh why po/a b":    exitFailed,
		"--local no-such-mesh endpoints a:1": exitFailed,
		"dg connections":                     exitUsage,
		"dg connections deploy/web":          exitUsage,
		"dg connections po":                  exitUsage,
		"dg connections po/a -o wide":        exitUsage,
		"--local no-such-mesh dg conns po/a": exitFailed,
		"tap deploy/web --pcap x":            exitUsage,
		"tap po --pcap x":                    exitUsage,
		"tap po/a --pcap x -o json":          exitUsage,
		"tap po/a --pcap x --path /":         exitUsage,
		"tap po/a po/b --pcap x":             exitUsage,
		"tap po/a --pcap /no/such/dir/x":     exitFailed,
	} {
		code, _, errOut := meshctl(t, strings.Fields(line)...)
		if code != want {
			t.Errorf("meshctl %s: exit code %d, want %d: %s", line, code, want, errOut)
		}
		if !strings.HasPrefix(errOut, "meshctl: ") || strings.Count(errOut, "\n") != 1 {
			t.Errorf("meshctl %s: want one line that says why: %q", line, errOut)
		}
	}
}
