package installation

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// pageSize bounds what one answer of the API server has.
const pageSize = 500

// Owned lists every object in the cluster that is the mesh's: of the chart's kinds,
// with its label.
func Owned(ctx context.Context, d dynamic.Interface) (manifest.Objects, error) {
	kinds, err := manifest.Kinds()
	if err != nil {
		return nil, err
	}
	var out manifest.Objects
	for _, kind := range kinds {
		resource, _ := meta.UnsafeGuessKindToResource(kind) // of Kubernetes' own kinds it is right
		opts := metav1.ListOptions{LabelSelector: manifest.ComponentLabel, Limit: pageSize}
		for {
			list, err := d.Resource(resource).List(ctx, opts)
			if err != nil {
				return nil, fmt.Errorf("list the mesh's %s: %w", resource.Resource, err)
			}
			for i := range list.Items {
				o := &list.Items[i]
				o.SetGroupVersionKind(kind) // a list's items need not say
				out = append(out, o)
			}
			if opts.Continue = list.GetContinue(); opts.Continue == "" {
				break
			}
		}
	}
	return out.Sorted(), nil
}

// Superfluous lists the mesh's objects that what is installed would not make again.
// Node agents are left alone where the values leave them to install-cni.
func Superfluous(ctx context.Context, k kubernetes.Interface, d dynamic.Interface, version string) (manifest.Objects, error) {
	if _, err := Find(ctx, k); err != nil {
		return nil, err
	}
	v, err := Stored(ctx, k)
	if err != nil {
		return nil, err
	}
	if v, err = Kept(ctx, k, v); err != nil {
		return nil, err
	}
	want, err := Objects(v, version)
	if err != nil {
		return nil, err
	}
	have, err := Owned(ctx, d)
	if err != nil {
		return nil, err
	}
	over := have.Without(want)
	if len(want.Of(manifest.CNI)) == 0 {
		over = over.Without(have.Of(manifest.CNI))
	}
	return over, nil
}

// Injected lists the pods that have a sidecar and are not over, as namespace/name.
func Injected(ctx context.Context, k kubernetes.Interface) (out []string, err error) {
	err = eachInjected(ctx, k, metav1.NamespaceAll, func(p *corev1.Pod) { out = append(out, p.Namespace+"/"+p.Name) })
	slices.Sort(out)
	return out, err
}

// Sidecars counts the pods of a namespace, or of all, by the version that injected
// them.
func Sidecars(ctx context.Context, k kubernetes.Interface, namespace string) (map[string]int, error) {
	out := map[string]int{}
	return out, eachInjected(ctx, k, namespace, func(p *corev1.Pod) { out[p.Annotations[annotation.Injected]]++ })
}

func eachInjected(ctx context.Context, k kubernetes.Interface, namespace string, f func(*corev1.Pod)) error {
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		list, err := k.CoreV1().Pods(namespace).List(ctx, opts)
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			p := &list.Items[i]
			if p.Annotations[annotation.Injected] != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				f(p)
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return nil
		}
	}
}
