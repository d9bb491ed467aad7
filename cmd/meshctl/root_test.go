package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// meshctl runs a command line in this process.
func meshctl(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var o, e bytes.Buffer
	a := &app{in: null, out: &o, err: &e, env: func(string) string { return "" }, args: args}
	code = run(t.Context(), a, args)
	return code, o.String(), e.String()
}

// leaves are the commands that do something.
func leaves(c *cobra.Command) (out []*cobra.Command) {
	if !c.HasSubCommands() {
		return []*cobra.Command{c}
	}
	for _, sub := range c.Commands() {
		out = append(out, leaves(sub)...)
	}
	return out
}

// Every command has an example of itself, and what it says can be had as JSON;
// but for those that pass on what others say, or say nothing but that it is done.
func TestCommandsAreHelpful(t *testing.T) {
	silent := map[string]bool{
		"meshctl local exec": true, "meshctl local logs": true, "meshctl local port-forward": true,
		"meshctl local up": true, "meshctl local down": true, "meshctl dashboard": true,
		"meshctl diagnostics controller-metrics": true, "meshctl diagnostics proxy-metrics": true,
	}
	all := leaves((&app{}).root())
	if len(all) < 15 {
		t.Fatalf("only %d commands found", len(all))
	}
	for _, c := range all {
		path := c.CommandPath()
		if c.Short == "" || !strings.Contains(c.Example, path+" ") && !strings.HasSuffix(c.Example, path) && !strings.Contains(c.Example, path+"\n") {
			t.Errorf("%s has no example of itself: %q", path, c.Example)
		}
		if f := c.Flags().Lookup("output"); silent[path] != (f == nil) {
			t.Errorf("%s: has -o: %v", path, f != nil)
		} else if f != nil && (f.Shorthand != "o" || !strings.Contains(f.Usage, "json")) {
			t.Errorf("%s: -o is no offer of JSON: %q", path, f.Usage)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, errOut := meshctl(t, "completion", shell); code != exitOK || !strings.Contains(out, "meshctl") {
			t.Errorf("completion %s: %d, %s", shell, code, errOut)
		}
	}
	if _, out, _ := meshctl(t, "__complete", "local", "p"); !strings.Contains(out, "port-forward") || !strings.Contains(out, "ps") {
		t.Errorf("completion of \"local p\": %s", out)
	}
	for line, want := range map[string]string{
		"stat ":                "authority cronjob daemonset deployment job namespace pod replicaset replicationcontroller service statefulset all",
		"stat c":               "cronjob",
		"stat a":               "authority all",
		"stat deploy --to s":   "service statefulset",
		"stat deploy --from s": "statefulset",
		"stat-inbound s":       "statefulset",
		"stat-outbound cron":   "cronjob",
		"edges a":              "",
		"edges cron":           "cronjob",
		"top a":                "",
		"top s":                "service statefulset",
		"tap cron":             "cronjob",
		"tap deploy --to c":    "cronjob",
		"tap cronjob ":         "",
	} {
		_, out, _ := meshctl(t, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		got, _, ok := strings.Cut(out, ":4\n") // no files
		if got = strings.Join(strings.Fields(got), " "); !ok || got != want {
			t.Errorf("completion of %q: %q, want %q", line, out, want)
		}
	}
}

// A command line that makes no sense is 2, before anything else is looked at;
// what could not be done is 1.
func TestExitCodesOfCommandLines(t *testing.T) {
	for line, want := range map[string]int{
		"":                                  exitOK,
		"--help":                            exitOK,
		"local":                             exitOK,
		"local up --help":                   exitOK,
		"version":                           exitOK,
		"version -o json":                   exitOK,
		"nonsense":                          exitUsage,
		"local nonsense":                    exitUsage,
		"--nonsense":                        exitUsage,
		"version -o xml":                    exitUsage,
		"version 1":                         exitUsage,
		"stat":                              exitUsage,
		"stat nonsense":                     exitUsage,
		"stat deploy -o xml":                exitUsage,
		"stat deploy -t 0s":                 exitUsage,
		"stat deploy --to svc/a --from po":  exitUsage,
		"stat deploy --to nonsense/a":       exitUsage,
		"stat deploy/a svc":                 exitUsage,
		"stat all/a":                        exitUsage,
		"stat all deploy":                   exitUsage,
		"stat deploy/a all":                 exitUsage,
		"stat deploy --to all":              exitUsage,
		"stat deploy --from all":            exitUsage,
		"tap all":                           exitUsage,
		"stat deploy -t soon":               exitUsage,
		"tap":                               exitUsage,
		"tap nonsense":                      exitUsage,
		"tap deploy -o table":               exitUsage,
		"tap deploy --max-rps 0":            exitUsage,
		"tap deploy --max-rps 10001":        exitUsage,
		"tap deploy --path here":            exitUsage,
		"diagnostics endpoints":             exitUsage,
		"diagnostics endpoints web":         exitUsage,
		"diagnostics endpoints web:0":       exitUsage,
		"diagnostics endpoints a:1 -o yaml": exitUsage,
		"diagnostics policy po/web":         exitUsage,
		"diagnostics policy web 80":         exitUsage,
		"diagnostics policy deploy/web 80":  exitUsage,
		"diagnostics policy po/web http":    exitUsage,
		"diagnostics policy po/a 1 -o xml":  exitUsage,
		"inject":                            exitUsage,
		"inject - -o table":                 exitUsage,
		"inject --proxy-image x -":          exitUsage,
		"version --client --proxy":          exitUsage,
		"check --pre --proxy":               exitUsage,
		"dashboard --show grafana":          exitUsage,
		"dashboard x":                       exitUsage,
		"dashboard --port 70000":            exitUsage,
		"check --local --pre":               exitUsage,
		"check -o xml":                      exitUsage,
		"inject /no/such/file":              exitFailed,
		"uninject /no/such/file":            exitFailed,
		"uninject - -o xml":                 exitUsage,
		"check --local -o xml":              exitUsage,
		"install -o xml":                    exitUsage,
		"install x":                         exitUsage,
		"install --set nonsense":            exitUsage,
		"install --values /no/such/file":    exitUsage,
		"upgrade --set nonsense":            exitUsage,
		"uninstall -o xml":                  exitUsage,
		"prune -o xml":                      exitUsage,
		"install-cni -o xml":                exitUsage,
		"--kubeconfig /no/such install":     exitFailed,
		"local ps -o xml":                   exitUsage,
		"local apply":                       exitUsage,
		"local apply -f x.yaml -o xml":      exitUsage,
		"local delete web":                  exitUsage,
		"local delete thing/web":            exitUsage,
		"local delete po/web -o xml":        exitUsage,
		"local demo -o xml":                 exitUsage,
		"local demo --duration -1s":         exitUsage,
		"local exec web":                    exitUsage,
		"local exec -- web":                 exitUsage,
		"local port-forward svc/web":        exitUsage,
		"local port-forward svc/web http":   exitUsage,
		"local logs":                        exitUsage,
		"--local BAD local exec p -- true":  exitUsage,
		"--local a local --name b ps":       exitUsage,
		"--local no-such-mesh stat deploy":  exitFailed,
		"--local no-such-mesh tap deploy":   exitFailed,
		"--local no-such-mesh local ps":     exitFailed,
		"--local no-such-mesh local logs p": exitFailed,
	} {
		code, _, errOut := meshctl(t, strings.Fields(line)...)
		if strings.HasPrefix(line, "--local BAD") && os.Geteuid() != 0 {
			continue // who is not root hears that first
		}
		if code != want {
			t.Errorf("meshctl %s: exit code %d, want %d: %s", line, code, want, errOut)
		}
		if said := strings.HasPrefix(errOut, "meshctl: ") && strings.Count(errOut, "\n") == 1; want != exitOK && !said {
			t.Errorf("meshctl %s: want one line that says why: %q", line, errOut)
		}
	}
}

// Whoever is not root is told to type the same again, word for word.
func TestSameAgainAsRoot(t *testing.T) {
	if got := shellWords([]string{"bin/meshctl", "local", "exec", "web-0", "--", "sh", "-c", "echo it's", ""}); got != `bin/meshctl local exec web-0 -- sh -c 'echo it'\''s' ''` {
		t.Error(got)
	}
}
