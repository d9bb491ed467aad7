package image_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/tunmesh/tunmesh/deploy/image"
)

func program(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func spec(t *testing.T) image.Spec {
	t.Helper()
	return image.Spec{
		Programs: map[string]string{"amd64": program(t, "for amd64"), "arm64": program(t, "for arm64")},
		Path:     "/usr/local/bin/app", User: "2102:2102",
		Labels: map[string]string{"org.opencontainers.image.version": "v1"},
	}
}

func build(t *testing.T, s image.Spec) v1.ImageIndex {
	t.Helper()
	index, err := image.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func digest(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestBuild(t *testing.T) {
	for _, compress := range []bool{true, false} {
		s := spec(t)
		s.Compress = compress
		testBuild(t, build(t, s))
	}
}

func testBuild(t *testing.T, index v1.ImageIndex) {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.Annotations["org.opencontainers.image.version"] != "v1" {
		t.Errorf("annotations of the index: %v", m.Annotations)
	}
	var archs []string
	for _, d := range m.Manifests {
		archs = append(archs, d.Platform.OS+"/"+d.Platform.Architecture)
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := cf.Config
		if cf.Architecture != d.Platform.Architecture || c.User != "2102:2102" || !slices.Equal(c.Entrypoint, []string{"/usr/local/bin/app"}) || c.Labels["org.opencontainers.image.version"] != "v1" {
			t.Errorf("%+v", cf)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		r, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		files := untar(t, r)
		if got := files["usr/local/bin/app"]; got != "-rwxr-xr-x for "+cf.Architecture {
			t.Errorf("the program is %q", got)
		}
		for _, f := range []string{"tmp/", "usr/", "usr/local/", "usr/local/bin/", "etc/", "etc/passwd", "etc/group"} {
			if _, ok := files[f]; !ok {
				t.Errorf("%s is missing in %v", f, files)
			}
		}
		if len(files) != 8 {
			t.Errorf("%d entries: %v", len(files), files)
		}
	}
	if !slices.Equal(archs, []string{"linux/amd64", "linux/arm64"}) {
		t.Error(archs)
	}
}

// untar returns mode and content by name.
func untar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 {
			t.Errorf("%s: %v of %d", h.Name, h.ModTime, h.Uid)
		}
		out[h.Name] = h.FileInfo().Mode().String() + " " + string(raw)
	}
}

func TestSameProgramsSameDigest(t *testing.T) {
	one, two := spec(t), spec(t) // files of other names and times
	testSame(t, one, two)
	one.Compress, two.Compress = true, true
	testSame(t, one, two)
}

func testSame(t *testing.T, a, b image.Spec) {
	t.Helper()
	one, two := build(t, a), build(t, b)
	if digest(t, one) != digest(t, two) {
		t.Errorf("%s and %s", digest(t, one), digest(t, two))
	}
	changed := spec(t)
	changed.Programs["arm64"] = program(t, "another")
	if digest(t, build(t, changed)) == digest(t, one) {
		t.Error("another program has the same digest")
	}
	var files [2]string
	for i := range files {
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := image.WriteTarball(path, "registry.test/app:v1", one); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = string(raw)
	}
	if files[0] != files[1] {
		t.Error("the same image gave two different tarballs")
	}
}

func TestBuildRefuses(t *testing.T) {
	for what, s := range map[string]image.Spec{
		"no program":    {Path: "/app"},
		"relative path": {Path: "app", Programs: map[string]string{"amd64": program(t, "x")}},
		"missing file":  {Path: "/app", Programs: map[string]string{"amd64": "/nowhere"}},
	} {
		if _, err := image.Build(s); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestTarball(t *testing.T) {
	index := build(t, spec(t))
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := image.WriteTarball(path, "registry.test/app:v1", index); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := untar(t, f)
	var top v1.IndexManifest
	if err := json.Unmarshal([]byte(strings.TrimPrefix(files["index.json"], "-rw-r--r-- ")), &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Digest.String() != digest(t, index) || top.Manifests[0].Annotations["io.containerd.image.name"] != "registry.test/app:v1" {
		t.Errorf("%+v", top)
	}
	// The index, and for each architecture a manifest, a configuration and a layer.
	if blobs := len(files) - 2; blobs != 7 || files["oci-layout"] == "" {
		t.Errorf("%d blobs of %d files", blobs, len(files))
	}
	if err := image.WriteTarball(filepath.Join(t.TempDir(), "no", "x.tar"), "a:b", index); err == nil {
		t.Error("a folder that is not there took a file")
	}
}

func TestPush(t *testing.T) {
	reg := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	ref := strings.TrimPrefix(reg.URL, "http://") + "/tunmesh/app:v1"
	index := build(t, spec(t))
	if err := image.Push(t.Context(), ref, index, map[string][]byte{"amd64": []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, got) != digest(t, index) {
		t.Error("the registry has another index")
	}
	m, err := got.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		refs, err := remote.Referrers(tag.Context().Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		rm, err := refs.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if d.Platform.Architecture == "amd64" {
			want = 1
		}
		if len(rm.Manifests) != want {
			t.Errorf("%s has %d bills of materials", d.Platform.Architecture, len(rm.Manifests))
		}
		for _, r := range rm.Manifests {
			if r.ArtifactType != "application/spdx+json" {
				t.Errorf("it is a %q", r.ArtifactType)
			}
		}
	}
	if err := image.Push(t.Context(), "not a name", index, nil); err == nil {
		t.Error("a name that is none was taken")
	}
}

func TestSBOM(t *testing.T) {
	built := filepath.Join(t.TempDir(), "images")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", built, "../images").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := image.SBOM(built, "v1.2.3", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		SPDXVersion   string
		CreationInfo  struct{ Created string }
		Packages      []struct{ SPDXID, Name, VersionInfo string }
		Relationships []struct{ SPDXElementID, RelationshipType, RelatedSPDXElement string }
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if d.SPDXVersion != "SPDX-2.3" || d.CreationInfo.Created != "1970-01-01T00:00:00Z" || len(d.Packages) < 3 {
		t.Errorf("%+v", d)
	}
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	var names []string
	for _, p := range d.Packages {
		if ids[p.SPDXID] || p.VersionInfo == "" {
			t.Errorf("%+v", p)
		}
		ids[p.SPDXID] = true
		names = append(names, p.Name)
	}
	for _, want := range []string{"stdlib", "github.com/google/go-containerregistry"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in %v", want, names)
		}
	}
	for _, r := range d.Relationships {
		if !ids[r.SPDXElementID] || !ids[r.RelatedSPDXElement] {
			t.Errorf("%+v is about somebody unknown", r)
		}
	}
	if _, err := image.SBOM(program(t, "no program"), "v1", time.Time{}); err == nil {
		t.Error("a file that is no Go program has materials")
	}
}
