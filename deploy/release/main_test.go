package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// made is a release whose programs are scripts that say what they are.
func made(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), version)
	if err := fakes(dir, version).make(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func fakes(dir, version string) config {
	return config{
		out: dir, version: version, created: time.Unix(1_700_000_000, 0), say: io.Discard,
		meshctl: func(_ context.Context, s system, version, to string) error {
			return os.WriteFile(to, []byte(fmt.Sprintf("#!/bin/sh\necho meshctl %s for %s on %s\n", version, s.os, s.arch)), 0o600)
		},
		images: func(_ context.Context, version string) (string, error) {
			return imageNames("ghcr.io/tunmesh/mesh-proxy:" + version + "@sha256:aa  bin/images/mesh-proxy.tar\npushed somewhere\n"), nil
		},
	}
}

// A release has everything that the page of installing names, and sums of it.
func TestRelease(t *testing.T) {
	dir := made(t, "v1.2.3-rc.1")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{
		"SHA256SUMS", "images.txt", "install.sh", "meshctl-v1.2.3-rc.1-darwin-amd64", "meshctl-v1.2.3-rc.1-darwin-arm64",
		"meshctl-v1.2.3-rc.1-linux-amd64", "meshctl-v1.2.3-rc.1-linux-arm64", "tunmesh-1.2.3-rc.1.tgz",
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	sums := read(t, dir, "SHA256SUMS")
	for _, name := range want[1:] {
		if line := fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(read(t, dir, name))), name); !strings.Contains(sums, line) {
			t.Errorf("SHA256SUMS has no line %q", line)
		}
	}
	if n := strings.Count(sums, "\n"); n != len(want)-1 {
		t.Errorf("SHA256SUMS has %d lines", n)
	}
	if got := read(t, dir, "images.txt"); got != "ghcr.io/tunmesh/mesh-proxy:v1.2.3-rc.1@sha256:aa\n" {
		t.Errorf("images.txt: %q", got)
	}
	if s := read(t, dir, "install.sh"); !strings.Contains(s, "TUNMESH_VERSION:-v1.2.3-rc.1}") || strings.Contains(s, "@VERSION@") {
		t.Error("the install script is of no release")
	}
}

// The same again gives the same bytes, in a folder that had others.
func TestReproducible(t *testing.T) {
	one, two := made(t, "v1.2.3"), made(t, "v1.2.3")
	if err := os.WriteFile(filepath.Join(two, "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fakes(two, "v1.2.3").make(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := read(t, one, sumsFile), read(t, two, sumsFile); a != b {
		t.Errorf("one release\n%s, and again\n%s", a, b)
	}
}

// The chart's package is one for Helm, and says the version.
func TestChart(t *testing.T) {
	dir := made(t, "v1.2.3")
	z, err := gzip.NewReader(strings.NewReader(read(t, dir, "tunmesh-1.2.3.tgz")))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(1_700_000_000, 0)) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
	var chart struct{ Name, Version, AppVersion string }
	if err := yaml.Unmarshal(files["tunmesh/Chart.yaml"], &chart); err != nil || chart.Name != "tunmesh" || chart.Version != "1.2.3" || chart.AppVersion != "v1.2.3" {
		t.Errorf("%+v %v", chart, err)
	}
	for _, name := range []string{"tunmesh/values.yaml", "tunmesh/values-ha.yaml", "tunmesh/values.schema.json", "tunmesh/templates/control.yaml", "tunmesh/templates/_names.tpl"} {
		if len(files[name]) == 0 {
			t.Errorf("the chart has no %s", name)
		}
	}
	if _, err := versioned([]byte("name: x\n"), "v1.2.3"); err == nil {
		t.Error("a chart without versions is taken")
	}
}

func TestRefused(t *testing.T) {
	for _, v := range []string{"", "1.2.3", "v1.2", "v1.2.3+a", "latest", "v1.2.3-rc 1", "84a8699", "v01.2.3", "v0.1.0-12-gabc\n"} {
		dir := filepath.Join(t.TempDir(), "out")
		if err := fakes(dir, v).make(t.Context()); err == nil || !strings.Contains(err.Error(), "VERSION=v1.2.3") {
			t.Errorf("version %q: %v", v, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("version %q: something was made", v)
		}
	}
	broken := fakes(filepath.Join(t.TempDir(), "out"), "v1.2.3")
	broken.meshctl = func(context.Context, system, string, string) error { return errors.New("no compiler") }
	if err := broken.make(t.Context()); err == nil || !strings.Contains(err.Error(), "no compiler") {
		t.Error(err)
	}
	if err := compile(t.Context(), system{"plan10", "abacus"}, "v1.2.3", filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "plan10/abacus") {
		t.Error(err)
	}
	var usage bytes.Buffer
	if err := run(t.Context(), []string{"-nonsense"}, &usage); err == nil {
		t.Error("an unknown flag is taken")
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
