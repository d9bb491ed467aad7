package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/extension"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// metricsVolume is where the chart has the metrics store; absent with a Prometheus
// of somebody else's.
const metricsVolume = "metrics"

// view checks what people ask the mesh by, where it is installed.
func (r *run) view(ctx context.Context) {
	d, err := r.Kube.AppsV1().Deployments(manifest.Namespace).Get(ctx, control.ViewService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	r.category("tunmesh-view")
	r.check(waits, "mesh-view is ready", "view", func() error {
		if err != nil {
			return err
		}
		if d.Status.AvailableReplicas < 1 || d.Status.ObservedGeneration < d.Generation {
			return fmt.Errorf("%d of 1 replicas are ready, of generation %d of %d", d.Status.AvailableReplicas, d.Status.ObservedGeneration, d.Generation)
		}
		return nil
	})
	r.check(warns, "what mesh-view has counted outlives it", "figures", func() error {
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.Name == metricsVolume && v.EmptyDir != nil {
				return errors.New("its store is in an emptyDir: figures of the past end with the pod; the value view.store.persistentVolume.enabled gives it a volume")
			}
		}
		return nil
	})
	var (
		said    *query.HealthResponse
		refused error // who runs meshctl may not ask
	)
	r.check(waits, "the API server reaches mesh-view", "view", func() error {
		if _, err := r.Kube.Discovery().ServerResourcesForGroupVersion(extension.Group + "/" + extension.Version); err != nil {
			return fmt.Errorf("the aggregated API %s does not answer: %w", control.ViewAPI, err)
		}
		h, err := r.Mesh(ctx)
		switch text := status.Convert(err).Message(); {
		case status.Code(err) == codes.PermissionDenied:
			refused = errors.New(text)
		case err != nil:
			return fmt.Errorf("the aggregated API %s does not answer: %s", control.ViewAPI, text)
		}
		said = h
		return nil
	})
	if said == nil && refused == nil {
		return // said above
	}
	r.check(warns, "what sidecars count is kept", "store", func() error {
		return cmp.Or(Kept(said), refused)
	})
}

// Kept is why what sidecars count is not kept, as mesh-view says; nil where it is.
func Kept(said *query.HealthResponse) error {
	if why := said.GetFiguresProblem(); why != "" {
		return errors.New(why)
	}
	return nil
}
