package image

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// spdxType is the media type of a bill of materials.
const spdxType = types.MediaType("application/spdx+json")

// Push writes an index to its registry under a name with a tag. Each image of
// it gets its bill of materials, by architecture, as an artifact that refers to
// it. Who may write there is what docker's or podman's login left in the user's
// files.
func Push(ctx context.Context, ref string, index v1.ImageIndex, sboms map[string][]byte) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if err := remote.WriteIndex(tag, index, opts...); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		sbom, ok := sboms[d.Platform.Architecture]
		if !ok {
			continue
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		subject, err := partial.Descriptor(img)
		if err != nil {
			return err
		}
		artifact, err := attachment(sbom, *subject)
		if err != nil {
			return fmt.Errorf("make the bill of materials of %s: %w", ref, err)
		}
		digest, err := artifact.Digest()
		if err != nil {
			return err
		}
		if err := remote.Write(tag.Context().Digest(digest.String()), artifact, opts...); err != nil {
			return fmt.Errorf("push the bill of materials of %s: %w", ref, err)
		}
	}
	return nil
}

// attachment is an artifact whose only layer is the document.
func attachment(sbom []byte, subject v1.Descriptor) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), spdxType)
	img, err := mutate.AppendLayers(img, static.NewLayer(sbom, spdxType))
	if err != nil {
		return nil, err
	}
	return mutate.Subject(img, subject).(v1.Image), nil
}
