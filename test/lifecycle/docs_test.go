package lifecycle

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// documented is a command of a page, with what the page shows after it.
type documented struct{ line, shown string }

// page reads docs/local.md: its manifest and its commands.
func page(t *testing.T) (manifest string, commands []documented) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/local.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```").FindAllStringSubmatch(string(raw), -1) {
		if block[1] == "yaml" {
			manifest = block[2]
			continue
		}
		for line := range strings.Lines(block[2]) {
			if c, ok := strings.CutPrefix(line, "# "); ok {
				commands = append(commands, documented{line: strings.TrimSpace(c)})
			} else if n := len(commands); n > 0 {
				commands[n-1].shown += line
			}
		}
	}
	return manifest, commands
}

// shape is a text without what differs from run to run: figures, addresses, the
// parts of names that are made up, the width of columns.
func shape(s string) string {
	s = regexp.MustCompile(`"[a-z0-9-]+" is up`).ReplaceAllString(s, `"MESH" is up`)
	s = regexp.MustCompile(`-[0-9a-f]{8,10}-[0-9a-f]{6}\b`).ReplaceAllString(s, "-POD")
	s = regexp.MustCompile(`fd00:[0-9a-f:]+`).ReplaceAllString(s, "IP")
	s = regexp.MustCompile(`[0-9]+(\.[0-9]+)*`).ReplaceAllString(s, "N")
	s = regexp.MustCompile(`N(m?s|m)?(N(m?s|m))*\n`).ReplaceAllString(s, "N\n")
	return strings.Join(strings.Fields(s), " ")
}

// What docs/local.md shows is what one gets, command by command as typed.
func TestPageOfLocal(t *testing.T) {
	needRoot(t)
	for _, p := range []string{"sh", "python3", "curl"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("the page's example needs %s", p)
		}
	}
	manifest, commands := page(t)
	dir := t.TempDir()
	bad := strings.Replace(manifest, "replicas", "replicaz", 1)
	for name, text := range map[string]string{"app.yaml": manifest, "bad.yaml": bad} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := meshtest.Named(bin, "page")
	t.Cleanup(func() { m.Ctl(t, "local", "down") })
	ran := 0
	for _, c := range commands {
		if strings.Contains(c.line, "emojivoto") {
			continue // the demo's, which TestDemo runs
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		sh := exec.CommandContext(ctx, "sh", "-c", "exec "+strings.Replace(c.line, " 8080:", " 0:", 1)) // any free port
		sh.Dir, sh.Env = dir, append(m.Command(ctx).Env, "PATH="+string(bin)+":"+os.Getenv("PATH"))
		if strings.Contains(c.line, "port-forward") {
			sh.Cancel, sh.WaitDelay = func() error { return sh.Process.Signal(os.Interrupt) }, 5*time.Second
			time.AfterFunc(2*time.Second, cancel) // it has no end of its own
		}
		var said bytes.Buffer
		sh.Stderr = &said
		out, err := sh.Output()
		cancel()
		if err != nil { // else it tells of its progress, when it is slow
			out = append(out, said.Bytes()...)
		}
		if got, want := shape(string(out)), shape(c.shown); got != want {
			t.Errorf("%s\ngot:\n%s\nthe page shows:\n%s", c.line, out, c.shown)
		}
		ran++
	}
	if ran < 10 {
		t.Errorf("only %d commands found on the page", ran)
	}
}
