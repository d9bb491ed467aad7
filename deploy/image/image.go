// Package image makes container images of static programs, without a daemon, a
// base image or a Dockerfile. It owns what an image of ours looks like: one
// layer with nothing in it but the program and the folders that a runtime
// expects, an index over the architectures, and a bill of materials read from
// the program itself. Equal programs give equal digests: no time, name or
// order of the machine that made them gets in.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what an image is.
type Spec struct {
	// Programs maps an architecture, as Go names it, to a static program of it.
	Programs map[string]string
	// Path is the program's in the image; it is also the entry point.
	Path string
	// User is "uid:gid", numeric so that runAsNonRoot can be checked; "" is root.
	User string
	// Labels go into each image's configuration and, as annotations, to its
	// manifest.
	Labels map[string]string
	// Compress the layers with gzip, for registries. What stays on one machine is
	// faster without.
	Compress bool
	// Created is the time in the configuration; the zero time is 1970.
	Created time.Time
}

// Build returns the image's index, with the architectures in order of name.
func Build(s Spec) (v1.ImageIndex, error) {
	if len(s.Programs) == 0 || !path.IsAbs(s.Path) {
		return nil, errors.New("build an image: it needs a program and an absolute path for it")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range slices.Sorted(maps.Keys(s.Programs)) {
		img, err := build(s, arch)
		if err != nil {
			return nil, fmt.Errorf("build the %s image of %s: %w", arch, s.Path, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	if len(s.Labels) > 0 {
		index = mutate.Annotations(index, s.Labels).(v1.ImageIndex)
	}
	return index, nil
}

func build(s Spec, arch string) (v1.Image, error) {
	program, err := os.ReadFile(s.Programs[arch])
	if err != nil {
		return nil, err
	}
	files, err := content(s.Path, program)
	if err != nil {
		return nil, err
	}
	layer, err := s.layer(files)
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), mutate.Addendum{
		Layer:   layer,
		History: v1.History{CreatedBy: "tunmesh deploy/image", Comment: path.Base(s.Path), Created: v1.Time{Time: s.created()}},
	})
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	cf.Created = v1.Time{Time: s.created()}
	cf.Config = v1.Config{
		Entrypoint: []string{s.Path}, User: s.User, WorkingDir: "/", Labels: s.Labels,
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:" + path.Dir(s.Path)},
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, err
	}
	if len(s.Labels) > 0 {
		img = mutate.Annotations(img, s.Labels).(v1.Image)
	}
	return img, nil
}

func (s Spec) created() time.Time {
	if s.Created.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return s.Created.UTC()
}

// layer makes an image's layer of a tar. The compressor is Go's own: one version
// of Go gives one digest, of the program as of the layer.
func (s Spec) layer(files []byte) (v1.Layer, error) {
	if !s.Compress {
		return static.NewLayer(files, types.OCIUncompressedLayer), nil
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
}

// content is a tar of the program, the folders above it, and what runtimes and
// libraries look for: /tmp, and names for root and nobody.
func content(at string, program []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	files := map[string][]byte{
		at:            program,
		"/etc/passwd": []byte("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"),
		"/etc/group":  []byte("root:x:0:\nnobody:x:65534:\n"),
	}
	dirs := map[string]int64{"/tmp": 0o1777}
	for f := range files {
		for d := path.Dir(f); d != "/"; d = path.Dir(d) {
			dirs[d] = 0o755
		}
	}
	for _, d := range slices.Sorted(maps.Keys(dirs)) {
		if err := add(w, &tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: dirs[d]}, nil); err != nil {
			return nil, err
		}
	}
	for _, f := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if f == at {
			mode = 0o755
		}
		if err := add(w, &tar.Header{Typeflag: tar.TypeReg, Name: f, Mode: mode, Size: int64(len(files[f]))}, files[f]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func add(w *tar.Writer, h *tar.Header, content []byte) error {
	h.Name = strings.TrimPrefix(h.Name, "/")
	h.ModTime, h.Format = time.Unix(0, 0), tar.FormatUSTAR
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(content))
	return err
}
