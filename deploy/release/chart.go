package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/deploy"
)

// packChart makes the chart's package, as Helm reads it: its files below a folder of
// its name, with the release's version in Chart.yaml.
func packChart(version string, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("pack the chart: %w", err)
	}
	w := tar.NewWriter(z)
	err = fs.WalkDir(deploy.Chart(), ".", func(name string, d fs.DirEntry, err error) error { // in order of name
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(deploy.Chart(), name)
		if err != nil {
			return err
		}
		if name == "Chart.yaml" {
			if text, err = versioned(text, version); err != nil {
				return err
			}
		}
		h := &tar.Header{Name: "tunmesh/" + name, Mode: 0o644, Size: int64(len(text)), ModTime: at.UTC(), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack the chart: %w", err)
	}
	return out.Bytes(), nil
}

// versioned writes a release's version into Chart.yaml.
func versioned(text []byte, version string) ([]byte, error) {
	for key, value := range map[string]string{"version": strings.TrimPrefix(version, "v"), "appVersion": version} {
		line := regexp.MustCompile(`(?m)^` + key + `: .*$`)
		if n := len(line.FindAll(text, -1)); n != 1 {
			return nil, fmt.Errorf("Chart.yaml has %d lines of %s, want one", n, key)
		}
		text = line.ReplaceAll(text, []byte(key+": "+value))
	}
	return text, nil
}
