package kubelet

import (
	"fmt"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/control/files"
)

// Tokens live so long when the manifest does not say, and never shorter or
// longer: the control plane refuses those of more than an hour.
const (
	tokenTTL    = time.Hour
	minTokenTTL = 10 * time.Minute
)

// volumes computes the files of a pod's volumes, and the shortest life of a
// token in them (0: there is none).
func volumes(p *corev1.Pod, set *files.Set, tokens Tokens) (list []sandbox.Volume, ttl time.Duration, err error) {
	b := volumeBuilder{pod: p, set: set, tokens: tokens}
	for i := range p.Spec.Volumes {
		v, err := b.build(&p.Spec.Volumes[i])
		if err != nil {
			return nil, 0, fmt.Errorf("volume %s: %w", p.Spec.Volumes[i].Name, err)
		}
		list = append(list, v)
	}
	return list, b.ttl, nil
}

type volumeBuilder struct {
	pod    *corev1.Pod
	set    *files.Set
	tokens Tokens
	ttl    time.Duration
}

func (b *volumeBuilder) build(v *corev1.Volume) (sandbox.Volume, error) {
	out := sandbox.Volume{Name: v.Name, Mode: 0o755, Files: []sandbox.File{}}
	if s := b.pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		out.GID = uint32(*s.FSGroup)
	}
	var err error
	switch {
	case v.EmptyDir != nil:
		out.Mode, out.Files = 0o777, nil
		if l := v.EmptyDir.SizeLimit; l != nil {
			out.MaxBytes = l.Value()
		}
	case v.ConfigMap != nil:
		out.Files, err = b.configMap(v.ConfigMap.Name, v.ConfigMap.Items, mode(v.ConfigMap.DefaultMode), v.ConfigMap.Optional)
	case v.Secret != nil:
		out.Files, err = b.secret(v.Secret.SecretName, v.Secret.Items, mode(v.Secret.DefaultMode), v.Secret.Optional)
	case v.DownwardAPI != nil:
		out.Files, err = b.downward(v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			fs, err := b.projected(s, mode(v.Projected.DefaultMode))
			if err != nil {
				return out, err
			}
			out.Files = append(out.Files, fs...)
		}
	default:
		err = fmt.Errorf("its type is not known here")
	}
	if out.Files == nil && v.EmptyDir == nil {
		out.Files = []sandbox.File{}
	}
	return out, err
}

func mode(m *int32) uint32 {
	if m == nil {
		return 0o644
	}
	return uint32(*m) & 0o777
}

func (b *volumeBuilder) projected(s corev1.VolumeProjection, m uint32) ([]sandbox.File, error) {
	switch {
	case s.ConfigMap != nil:
		return b.configMap(s.ConfigMap.Name, s.ConfigMap.Items, m, s.ConfigMap.Optional)
	case s.Secret != nil:
		return b.secret(s.Secret.Name, s.Secret.Items, m, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return b.downward(s.DownwardAPI.Items, m)
	case s.ServiceAccountToken != nil:
		return b.token(s.ServiceAccountToken, m)
	}
	return nil, fmt.Errorf("one of its sources is not known here")
}

func (b *volumeBuilder) token(t *corev1.ServiceAccountTokenProjection, m uint32) ([]sandbox.File, error) {
	ttl := tokenTTL
	if t.ExpirationSeconds != nil {
		ttl = min(max(time.Duration(*t.ExpirationSeconds)*time.Second, minTokenTTL), tokenTTL)
	}
	token, err := b.tokens.Mint(b.pod, t.Audience, ttl)
	if err != nil {
		return nil, fmt.Errorf("mint a token: %w", err)
	}
	if b.ttl == 0 || ttl < b.ttl {
		b.ttl = ttl
	}
	return []sandbox.File{{Path: path.Clean(t.Path), Mode: m, Data: []byte(token)}}, nil
}

func (b *volumeBuilder) configMap(name string, items []corev1.KeyToPath, m uint32, optional *bool) ([]sandbox.File, error) {
	cm := configMap(b.set, b.pod.Namespace, name)
	if cm == nil {
		return nil, missing("ConfigMap", b.pod.Namespace, name, optional)
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return pick(data, items, m, optional)
}

func (b *volumeBuilder) secret(name string, items []corev1.KeyToPath, m uint32, optional *bool) ([]sandbox.File, error) {
	s := secret(b.set, b.pod.Namespace, name)
	if s == nil {
		return nil, missing("Secret", b.pod.Namespace, name, optional)
	}
	return pick(s.Data, items, m, optional)
}

func missing(kind, namespace, name string, optional *bool) error {
	if isTrue(optional) {
		return nil
	}
	return fmt.Errorf("there is no %s %q in namespace %s", kind, name, namespace)
}

// pick makes files of all keys, or of those that items name.
func pick(data map[string][]byte, items []corev1.KeyToPath, m uint32, optional *bool) ([]sandbox.File, error) {
	var out []sandbox.File
	if items == nil {
		for k, v := range data {
			out = append(out, sandbox.File{Path: k, Mode: m, Data: v})
		}
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if isTrue(optional) {
				continue
			}
			return nil, fmt.Errorf("there is no key %q", it.Key)
		}
		f := sandbox.File{Path: path.Clean(it.Path), Mode: m, Data: v}
		if it.Mode != nil {
			f.Mode = mode(it.Mode)
		}
		out = append(out, f)
	}
	return out, nil
}

func (b *volumeBuilder) downward(items []corev1.DownwardAPIVolumeFile, m uint32) ([]sandbox.File, error) {
	var out []sandbox.File
	for _, it := range items {
		f := sandbox.File{Path: path.Clean(it.Path), Mode: m}
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = field(b.pod, it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			v, err = resourceField(b.pod, &corev1.Container{}, it.ResourceFieldRef)
		}
		if err != nil {
			return nil, err
		}
		if it.Mode != nil {
			f.Mode = mode(it.Mode)
		}
		f.Data = []byte(v)
		out = append(out, f)
	}
	return out, nil
}

// mounts says where a container sees which volume.
func mounts(c *corev1.Container, env []string, list []sandbox.Volume) []sandbox.Mount {
	vars := map[string]string{}
	for _, kv := range env {
		for i := range kv {
			if kv[i] == '=' {
				vars[kv[:i]] = kv[i+1:]
				break
			}
		}
	}
	var out []sandbox.Mount
	for _, m := range c.VolumeMounts {
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, vars)
		}
		at := slices.IndexFunc(list, func(v sandbox.Volume) bool { return v.Name == m.Name })
		if at < 0 {
			continue // Check has refused it
		}
		v := list[at]
		out = append(out, sandbox.Mount{
			Volume: m.Name, SubPath: path.Clean("./" + sub), Path: m.MountPath,
			// What the runtime writes is read-only to pods, as with a kubelet.
			ReadOnly: m.ReadOnly || v.Files != nil,
			File:     isFile(v, sub),
		})
	}
	return out
}

func isFile(v sandbox.Volume, sub string) bool {
	return slices.ContainsFunc(v.Files, func(f sandbox.File) bool { return f.Path == path.Clean(sub) })
}

// points lists where the containers of a pod mount something.
func points(p *corev1.Pod, list []sandbox.Volume) []sandbox.Point {
	var out []sandbox.Point
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			for _, m := range mounts(&cs[i], nil, list) {
				out = append(out, sandbox.Point{Path: m.Path, File: m.File})
			}
		}
	}
	return out
}
