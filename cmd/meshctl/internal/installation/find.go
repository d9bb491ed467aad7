package installation

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const (
	// ConfigMap says what is installed; the chart renders it.
	ConfigMap = "tunmesh-config"
	// OverridesSecret keeps the values that install and upgrade were given, but for
	// certificates, under OverridesKey. A Secret, as values may have passwords.
	OverridesSecret = "tunmesh-config-overrides"
	OverridesKey    = "values.yaml"
)

// ErrNone is what there is to say of a cluster without a mesh.
var ErrNone = errors.New("tunmesh is not installed in this cluster") //nolint:gochecknoglobals // a sentinel

// Installed is a mesh in a cluster.
type Installed struct {
	Version, ProxyImage, TrustDomain, ClusterDomain string
	// Defaults are the configuration annotations of pods for which nobody says
	// otherwise.
	Defaults map[string]string
}

// Find says what is installed; ErrNone: nothing.
func Find(ctx context.Context, k kubernetes.Interface) (*Installed, error) {
	m, err := k.CoreV1().ConfigMaps(manifest.Namespace).Get(ctx, ConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("ask the cluster for ConfigMap %s/%s: %w", manifest.Namespace, ConfigMap, err)
	}
	defaults := map[string]string{}
	for key, name := range map[string]string{"traceCollector": annotation.TraceCollector, "traceSampling": annotation.TraceSampling} {
		if v, ok := m.Data[key]; ok {
			defaults[name] = v
		}
	}
	return &Installed{
		Version: m.Data["version"], ProxyImage: m.Data["proxyImage"], TrustDomain: m.Data["trustDomain"], ClusterDomain: m.Data["clusterDomain"],
		Defaults: defaults,
	}, nil
}

// Stored are the values that install and upgrade were given; none for a mesh that
// somebody else installed, such as Helm.
func Stored(ctx context.Context, k kubernetes.Interface) (manifest.Values, error) {
	s, err := k.CoreV1().Secrets(manifest.Namespace).Get(ctx, OverridesSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no Secret %s/%s: what meshctl did not install it can't upgrade (helm upgrade does what helm install did)", manifest.Namespace, OverridesSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the cluster for Secret %s/%s: %w", manifest.Namespace, OverridesSecret, err)
	}
	v, err := manifest.Read(s.Data[OverridesKey])
	if err != nil {
		return nil, fmt.Errorf("Secret %s/%s, key %s: %w", manifest.Namespace, OverridesSecret, OverridesKey, err)
	}
	return v, nil
}

// Kept returns v with the certificates that the cluster has where v has none and
// does not leave them to others.
func Kept(ctx context.Context, k kubernetes.Interface, v manifest.Values) (manifest.Values, error) {
	if v.Text(anchorsPath()...) == "" && !v.Is("identity", "externalCA") {
		m, err := k.CoreV1().ConfigMaps(manifest.Namespace).Get(ctx, control.AnchorsConfigMap, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("ask the cluster for the trust anchors: %w", err)
		}
		v = v.With(m.Data[control.AnchorsKey], anchorsPath()...)
	}
	if v.Text(certPath()...) == "" && v.Text(keyPath()...) == "" && !v.Is("identity", "issuer", "external") {
		s, err := k.CoreV1().Secrets(manifest.Namespace).Get(ctx, control.IssuerSecret, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("ask the cluster for the issuer: %w", err)
		}
		v = v.With(string(s.Data[corev1.TLSCertKey]), certPath()...).With(string(s.Data[corev1.TLSPrivateKeyKey]), keyPath()...)
	}
	return v, nil
}

// Objects are everything that is to be applied for v: the chart's, and the Secret
// that keeps v for the next upgrade. version is the images' where v says none; it is
// not kept, as an upgrade is to another one.
func Objects(v manifest.Values, version string) (manifest.Objects, error) {
	of := v
	if v.Text("version") == "" {
		of = v.With(version, "version")
	}
	all, err := manifest.Render(of)
	if err != nil {
		return nil, err
	}
	keep, err := v.With("", anchorsPath()...).With("", certPath()...).With("", keyPath()...).YAML()
	if err != nil {
		return nil, err
	}
	secret, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name: OverridesSecret, Namespace: manifest.Namespace,
			Labels: map[string]string{manifest.ComponentLabel: manifest.Control, "app.kubernetes.io/part-of": "tunmesh"},
		},
		Data: map[string][]byte{OverridesKey: keep},
	})
	if err != nil {
		return nil, fmt.Errorf("write Secret %s: %w", OverridesSecret, err)
	}
	delete(secret["metadata"].(map[string]any), "creationTimestamp")
	return append(all, &unstructured.Unstructured{Object: secret}).Sorted(), nil
}
