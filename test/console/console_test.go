package console_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/console"
	"github.com/tunmesh/tunmesh/deploy"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

const web = "../../control/console/web"

// browser finds what a walk needs, and leaves the test out where something is
// missing.
func browser(t *testing.T) (chromium string) {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			chromium = p
			break
		}
	}
	if chromium == "" {
		t.Skip("no chromium: apt-get install chromium")
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node: install Node 20.19 or newer")
	}
	if _, err := os.Stat(filepath.Join(web, "node_modules", "playwright-core")); err != nil {
		t.Skip("no playwright-core: make console")
	}
	h, err := console.New()
	if err != nil {
		t.Fatal(err)
	}
	if !h.Built() {
		t.Skip("the page was not built: make console")
	}
	return chromium
}

// meshctl builds the program.
func meshctl(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "meshctl")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/tunmesh/tunmesh/cmd/meshctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build meshctl: %v\n%s", err, out)
	}
	return bin
}

// dashboard runs meshctl dashboard until the test ends, and returns its link.
func dashboard(t *testing.T, bin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, append([]string{"dashboard", "--show", "url"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "KUBECONFIG=")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); !cmd.ProcessState.Success() {
			t.Errorf("meshctl dashboard: %v: %s", err, said.String())
		}
	})
	link, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("meshctl dashboard says nothing: %v: %s", err, said.String())
	}
	return strings.TrimSpace(link)
}

// kubeconfig is one that leads to a server.
func kubeconfig(t *testing.T, url string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: ann, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: ann, namespace: emojivoto}}]\n", url)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// walk runs a walk, and each of its steps as a test.
func walk(t *testing.T, chromium, name, link, mode string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "e2e/walk.mjs")
	cmd.Dir, cmd.WaitDelay = web, 5*time.Second
	// TUNMESH_SHOTS is where docs' screenshots are made.
	cmd.Env = append(os.Environ(), "LINK="+link, "MODE="+mode, "WALK="+name, "CHROMIUM="+chromium, "OUT="+os.Getenv("TUNMESH_SHOTS"))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if step, ok := strings.CutPrefix(line, "ok "); ok {
			steps++
			t.Run(step, func(*testing.T) {})
		} else if rest, ok := strings.CutPrefix(line, "not ok "); ok {
			steps++
			step, why, _ := strings.Cut(rest, ": ")
			t.Run(step, func(t *testing.T) { t.Error(why) })
		} else {
			t.Log(line)
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil && !t.Failed() {
		t.Errorf("the walk ended early: %v: %s", err, said.String())
	}
	if steps < 5 {
		t.Errorf("only %d steps: %s", steps, said.String())
	}
}

// TestPages: every page with data, without, with the API down and back; nothing
// that axe-core calls serious; the page's own policy holds; nobody else is asked.
func TestPages(t *testing.T) {
	chromium := browser(t)
	s := sample().serve(t)
	link := dashboard(t, meshctl(t), "--kubeconfig", kubeconfig(t, s.URL))
	walk(t, chromium, "pages", link, s.URL+"/mode")
}

// TestLarge: 200 workloads and 2,000 pods stay usable. The walk prints how long
// things took; what it requires leaves room for a machine that is busy.
func TestLarge(t *testing.T) {
	chromium := browser(t)
	s := large().serve(t)
	link := dashboard(t, meshctl(t), "--kubeconfig", kubeconfig(t, s.URL))
	walk(t, chromium, "large", link, s.URL+"/mode")
}

// TestLive: every page with what a real mesh says of the sample application.
func TestLive(t *testing.T) {
	chromium := browser(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs pods in namespaces")
	}
	bin, err := meshtest.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sample := strings.ReplaceAll(string(deploy.Emojivoto()), "metadata:\n  name: emojivoto\n",
		"metadata:\n  name: emojivoto\n  annotations: {tunmesh.io/inject: enabled}\n")
	m := meshtest.Up(t, bin, "console", sample)
	link := dashboard(t, m.Program("meshctl"), "--local", m.Name)
	walk(t, chromium, "live", link, "")
}
