package main

import (
	"strings"
	"testing"
	"time"
)

// "all" asks for every kind that has an answer, as of one namespace or of all.
func TestStatAsksForAllKinds(t *testing.T) {
	for line, want := range map[string]string{
		"":                  "authority cronjob daemonset deployment job pod replicaset replicationcontroller service statefulset",
		"-l app=web":        "cronjob daemonset deployment job pod replicaset replicationcontroller service statefulset",
		"--to svc/web":      "cronjob daemonset deployment job pod replicaset replicationcontroller statefulset",
		"--from deploy/web": "authority cronjob daemonset deployment job pod replicaset replicationcontroller service statefulset",
		"-A -o json":        "authority cronjob daemonset deployment job pod replicaset replicationcontroller service statefulset",
	} {
		f := statFlags{output: "table", window: time.Minute, every: time.Second}
		switch flag, value, _ := strings.Cut(line, " "); flag {
		case "-l":
			f.labels = value
		case "--to":
			f.to = value
		case "--from":
			f.from = value
		case "-A":
			f.all, f.output = true, "json"
		}
		reqs, err := f.requests([]string{"all"}, "shop")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range reqs {
			s := r.GetResource()
			got = append(got, s.GetKind())
			if s.GetName() != "" || s.GetAllNamespaces() != f.all || (s.GetNamespace() == "shop") == f.all || s.GetLabelSelector() != f.labels {
				t.Errorf("stat all %s: %v", line, s)
			}
		}
		if s := strings.Join(got, " "); s != want || !f.options(0).Kinds {
			t.Errorf("stat all %s asks for %s, want %s; with kinds: %v", line, s, want, f.options(0).Kinds)
		}
	}
	f := statFlags{output: "table", window: time.Minute, every: time.Second}
	if reqs, err := f.requests([]string{"deploy", "all"}, "shop"); err != nil || len(reqs) != 1 || reqs[0].GetResource().GetName() != "all" || f.options(0).Kinds {
		t.Errorf("a Deployment of that name: %v, %v", reqs, err)
	}
}

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
		"edges all":                          exitUsage,
		"edges deploy -o xml":                exitUsage,
		"edges deploy -t 1ms":                exitUsage,
		"list web":                           exitUsage,
		"list -o wide":                       exitUsage,
		"endpoints web":                      exitUsage,
		"top":                                exitUsage,
		"top nonsense":                       exitUsage,
		"top all":                            exitUsage,
		"stat-inbound all":                   exitUsage,
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
		"--local no-such-mesh stat all":      exitFailed,
		"--local no-such-mesh edges cj":      exitFailed,
		"--local no-such-mesh top cronjobs":  exitFailed,
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
