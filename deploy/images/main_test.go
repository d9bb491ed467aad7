package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// made builds the images for one architecture and returns what was said. Package
// image tests compression, which takes minutes under the race detector.
func made(t *testing.T, out string, flags ...string) string {
	t.Helper()
	var said bytes.Buffer
	args := append([]string{"-o", out, "-version", "v0.0.1", "-arch", "amd64", "-compress=false"}, flags...)
	if err := run(t.Context(), args, &said); err != nil {
		t.Fatal(err)
	}
	return said.String()
}

func TestImages(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all programs twice")
	}
	reg := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	to := strings.TrimPrefix(reg.URL, "http://") + "/some/path"
	one, two := t.TempDir(), t.TempDir()
	said := made(t, one, "-push", to)
	again := made(t, two)
	for _, p := range products() {
		name := "ghcr.io/tunmesh/" + p.name + ":v0.0.1@sha256:"
		if !strings.Contains(said, name) || !strings.Contains(said, "pushed "+to+"/"+p.name+":v0.0.1\n") {
			t.Errorf("said %s", said)
		}
		if digest := said[strings.Index(said, name)+len(name):][:64]; !strings.Contains(again, name+digest) {
			t.Errorf("%s has digest %s, and built again: %s", p.name, digest, again)
		}
		a, err := os.ReadFile(filepath.Join(one, p.name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, p.name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two builds gave two tarballs", p.name)
		}
		raw, err := os.ReadFile(filepath.Join(one, p.name+"-amd64.spdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var sbom struct{ Name string }
		if err := json.Unmarshal(raw, &sbom); err != nil || sbom.Name != p.name {
			t.Errorf("%s: %v, %v", p.name, sbom, err)
		}
	}
}

func TestWrongArchitecture(t *testing.T) {
	err := run(t.Context(), []string{"-o", t.TempDir(), "-arch", "abacus"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "build the programs for abacus") {
		t.Error(err)
	}
}
