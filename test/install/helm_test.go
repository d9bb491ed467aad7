package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// helm puts Helm itself beside meshctl, of the version whose libraries render the
// chart there.
func helm(t *testing.T, p *meshed.Programs) {
	t.Helper()
	run := func(env []string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	version := run(nil, "list", "-m", "-f", "{{.Version}}", "helm.sh/helm/v4")
	run([]string{"CGO_ENABLED=0", "GOBIN=" + p.Bin}, "install", "-trimpath", "helm.sh/helm/v4/cmd/helm@"+version)
}

// chart copies the chart to where the page's reader has it, with the version that a
// release writes into it.
func (w *walk) chart() {
	w.t.Helper()
	to := filepath.Join(w.Dir, "deploy", "chart")
	if err := os.CopyFS(to, os.DirFS("../../deploy/chart")); err != nil {
		w.t.Fatal(err)
	}
	about := filepath.Join(to, "Chart.yaml")
	text, err := os.ReadFile(about)
	if err != nil {
		w.t.Fatal(err)
	}
	released := strings.Replace(string(text), "\nappVersion: latest\n", "\nappVersion: "+w.Programs.Release+"\n", 1)
	if err := os.WriteFile(about, []byte(released), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestHelm: the chart does by Helm what it does by meshctl, and goes by Helm, too.
func TestHelm(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Helm: not in a short run")
	}
	p := meshed.Build(t)
	helm(t, p)
	w := &walk{t: t, Mesh: meshed.Boot(t, p, meshed.Options{})}
	before := w.Folders(t)
	w.chart()
	anchor, anchorKey, err := identity.NewAnchor("cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := identity.NewIssuer(anchor, anchorKey, "cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"ca.crt": anchor, "issuer.crt": cert, "issuer.key": key} {
		if err := os.WriteFile(filepath.Join(w.Dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"CACHE", "CONFIG", "DATA"} {
		t.Setenv("HELM_"+dir+"_HOME", filepath.Join(w.Dir, ".helm"))
	}
	if out := w.run("helm.sh"); strings.Count(out, "\nStatus check results are √\n") != 3 {
		t.Errorf("not all checks are well:\n%s", out)
	}
	pods := w.restarts("default")
	if out := w.run("authority.sh", "helm-rotate.sh"); strings.Count(out, "Issuer: CN=Our issuer") != 1 {
		t.Errorf("after the rotation by Helm:\n%s", out)
	}
	if d := cmp.Diff(pods, w.restarts("default")); d != "" {
		t.Errorf("the rotation by Helm restarted pods: %s", d)
	}
	w.run("helm-remove.sh")
	w.gone(before)
}
