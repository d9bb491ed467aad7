package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// containerdName is the annotation from which containerd takes an imported
// image's name.
const containerdName = "io.containerd.image.name"

// WriteTarball writes an index as an OCI layout in a tar file, which containerd
// (ctr images import) and others (skopeo, podman) load under the name, as
// "ghcr.io/tunmesh/mesh-proxy:v1".
func WriteTarball(file, name string, index v1.ImageIndex) (err error) {
	tmp := file + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
			err = fmt.Errorf("write the image %s: %w", name, err)
		}
	}()
	if err := writeLayout(tar.NewWriter(f), name, index); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func writeLayout(w *tar.Writer, name string, index v1.ImageIndex) error {
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	raw, err := index.RawManifest()
	if err != nil {
		return err
	}
	tag := name[strings.LastIndexByte(name, ':')+1:]
	top, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIImageIndex, Digest: digest, Size: int64(len(raw)),
			Annotations: map[string]string{containerdName: name, "org.opencontainers.image.ref.name": tag},
		}},
	})
	if err != nil {
		return err
	}
	l := &layoutWriter{w: w}
	l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	l.file("index.json", top)
	l.blob(digest, raw)
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := l.image(img); err != nil {
			return err
		}
	}
	if l.err != nil {
		return l.err
	}
	return w.Close()
}

// layoutWriter writes blobs once each; its first error stays.
type layoutWriter struct {
	w       *tar.Writer
	written []v1.Hash
	err     error
}

func (l *layoutWriter) file(name string, content []byte) {
	if l.err == nil {
		l.err = add(l.w, &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content)
	}
}

func (l *layoutWriter) blob(h v1.Hash, content []byte) {
	if slices.Contains(l.written, h) {
		return
	}
	l.written = append(l.written, h)
	l.file("blobs/"+h.Algorithm+"/"+h.Hex, content)
}

func (l *layoutWriter) image(img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	l.blob(digest, manifest)
	config, err := img.ConfigName()
	if err != nil {
		return err
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	l.blob(config, raw)
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		h, err := layer.Digest()
		if err != nil {
			return err
		}
		r, err := layer.Compressed()
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		l.blob(h, raw)
	}
	return nil
}
