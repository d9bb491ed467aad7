package layers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/test/layers"
)

type pkg struct {
	ImportPath, Doc, Name string
	Imports               []string
}

func load(t *testing.T) []pkg {
	t.Helper()
	touched(t)
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,Name", layers.Module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// touched looks at every Go file, so that go test does not answer from its cache
// after one has changed: it sees what a test opens, and not what go list does.
func touched(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFloorsAndDoors(t *testing.T) {
	g := layers.Graph{}
	for _, p := range load(t) {
		g[p.ImportPath] = p.Imports
	}
	for _, bad := range layers.Check(g) {
		t.Error(bad)
	}
}

// Each rule can fail.
func TestCheckFindsWhatBreaksTheRules(t *testing.T) {
	m := layers.Module + "/"
	for _, c := range []struct{ from, to, want string }{
		{"api/tap", m + "internal/hop", "api may import"},
		{"internal/hop", m + "netstack", "internal may import"},
		{"netstack", m + "tunproxy/flow", "netstack may import"},
		{"netstack/tun", m + "netstack/link", "lower floor imports an upper"},
		{"tunproxy/detect", m + "tunproxy/balance", "packages of one floor"},
		{"tunproxy/flow", m + "tunproxy", "lower floor imports an upper"},
		{"tunproxy/novel", m + "tunproxy/flow", "has no floor"},
		{"control/catalog", m + "control/files", "lower floor imports an upper"},
		{"control/files", m + "cni/plugin", "control may import"},
		{"cni/broker", m + "cni/agent", "lower floor imports an upper"},
		{"tunproxy/forward", "gvisor.dev/gvisor/pkg/tcpip", "only [netstack] may"},
		{"cni/plugin", "github.com/vishvananda/netlink", "may"},
		{"control/destination", "k8s.io/client-go/informers", "may"},
		{"tunproxy/telemetry", "github.com/prometheus/client_golang/prometheus", "may"},
	} {
		got := layers.Check(layers.Graph{m + c.from: {c.to}})
		if len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("%s imports %s: %q, want one with %q", c.from, c.to, got, c.want)
		}
	}
}

func TestCheckAllowsWhatTheArchitectureDraws(t *testing.T) {
	m := layers.Module + "/"
	g := layers.Graph{
		m + "tunproxy":            {m + "tunproxy/flow", m + "netstack", m + "internal/hop"},
		m + "netstack":            {m + "netstack/link", "gvisor.dev/gvisor/pkg/tcpip"},
		m + "cmd/meshctl":         {m + "control/files", "k8s.io/client-go/rest"},
		m + "tunproxy/h2/h2test":  {m + "tunproxy/h2"},
		m + "control/destination": {m + "control/catalog", m + "api/destination"},
	}
	if got := layers.Check(g); got != nil {
		t.Errorf("refused: %q", got)
	}
}

// Every package says what it owns; generated code and programs included.
func TestEveryPackageHasADoc(t *testing.T) {
	for _, bad := range undocumented(load(t)) {
		t.Errorf("%s has no package comment", bad)
	}
	if got := undocumented([]pkg{{ImportPath: "x", Name: "x"}, {ImportPath: "y", Name: "y", Doc: "Package y owns y."}}); !slices.Equal(got, []string{"x"}) {
		t.Errorf("the check itself: %v", got)
	}
}

func undocumented(all []pkg) []string {
	var bad []string
	for _, p := range all {
		if p.Doc == "" && p.Name != "" {
			bad = append(bad, p.ImportPath)
		}
	}
	return bad
}

// What people run on their own machine is no Linux everywhere: of meshctl only the
// local mesh is made of it.
func TestMeshctlElsewhere(t *testing.T) {
	touched(t)
	cmd := exec.Command("go", "list", "-deps", layers.Module+"/cmd/meshctl")
	cmd.Env = append(os.Environ(), "GOOS=darwin", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := string(out)
	if !strings.Contains(all, layers.Module+"/cmd/meshctl/internal/installation\n") {
		t.Fatalf("go list found %s", all)
	}
	for _, linux := range []string{"/cni/", "/cmd/meshctl/internal/sandbox", "/cmd/meshctl/internal/holder", "/internal/handover"} {
		if strings.Contains(all, layers.Module+linux) {
			t.Errorf("meshctl for darwin has %s in it", linux)
		}
	}
}
