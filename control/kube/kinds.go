package kube

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/object"
)

// kind is one kind of object that is watched.
type kind struct {
	name    string // as the catalog has it
	example runtime.Object
	list    func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch   func(context.Context, metav1.ListOptions) (watch.Interface, error)
	// convert makes the catalog's object; nil for one that is none of its business.
	convert func(any) (catalog.Object, error)
	// strip removes what convert does not read, for the moments that a list of all
	// objects is in memory.
	strip func(any)
}

// lister is what the clients of all kinds can do.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func kindOf[L runtime.Object, T any](name string, c lister[L], example runtime.Object, convert func(*T) (catalog.Object, error), strip func(*T)) kind {
	return kind{
		name: name, example: example,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) },
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, o)
		},
		convert: func(o any) (catalog.Object, error) { return convert(o.(*T)) }, //nolint:forcetypeassert // the reflector checks it
		strip: func(o any) {
			if t, ok := o.(*T); ok && strip != nil {
				strip(t)
			}
		},
	}
}

// kinds lists what is watched.
func kinds(c Client) []kind {
	core, apps := c.CoreV1(), c.AppsV1()
	return []kind{
		kindOf(catalog.KindNamespace, core.Namespaces(), &corev1.Namespace{}, func(o *corev1.Namespace) (catalog.Object, error) {
			return object.Namespace(o)
		}, nil),
		kindOf(catalog.KindNode, core.Nodes(), &corev1.Node{}, func(o *corev1.Node) (catalog.Object, error) {
			return object.Node(o), nil
		}, func(o *corev1.Node) {
			o.Annotations, o.Spec, o.Status = nil, corev1.NodeSpec{}, corev1.NodeStatus{Addresses: o.Status.Addresses}
		}),
		kindOf(catalog.KindService, core.Services(""), &corev1.Service{}, func(o *corev1.Service) (catalog.Object, error) {
			return object.Service(o)
		}, nil),
		kindOf(catalog.KindEndpointSlice, c.DiscoveryV1().EndpointSlices(""), &discoveryv1.EndpointSlice{}, func(o *discoveryv1.EndpointSlice) (catalog.Object, error) {
			if s := object.EndpointSlice(o); s != nil {
				return s, nil
			}
			return nil, nil
		}, func(o *discoveryv1.EndpointSlice) { o.OwnerReferences = nil }),
		kindOf(catalog.KindPod, core.Pods(""), &corev1.Pod{}, func(o *corev1.Pod) (catalog.Object, error) {
			return object.Pod(o)
		}, stripPod),
		kindOf(catalog.KindDeployment, apps.Deployments(""), &appsv1.Deployment{}, func(o *appsv1.Deployment) (catalog.Object, error) {
			return object.Deployment(o), nil
		}, func(o *appsv1.Deployment) {
			o.Annotations, o.Spec.Template, o.Status = nil, corev1.PodTemplateSpec{}, appsv1.DeploymentStatus{}
		}),
		kindOf(catalog.KindStatefulSet, apps.StatefulSets(""), &appsv1.StatefulSet{}, func(o *appsv1.StatefulSet) (catalog.Object, error) {
			return object.StatefulSet(o), nil
		}, func(o *appsv1.StatefulSet) {
			o.Annotations, o.Spec.Template, o.Spec.VolumeClaimTemplates = nil, corev1.PodTemplateSpec{}, nil
		}),
		kindOf(catalog.KindDaemonSet, apps.DaemonSets(""), &appsv1.DaemonSet{}, func(o *appsv1.DaemonSet) (catalog.Object, error) {
			return object.DaemonSet(o), nil
		}, func(o *appsv1.DaemonSet) { o.Annotations, o.Spec.Template = nil, corev1.PodTemplateSpec{} }),
		kindOf(catalog.KindJob, c.BatchV1().Jobs(""), &batchv1.Job{}, func(o *batchv1.Job) (catalog.Object, error) {
			if j := object.Job(o); j != nil {
				return j, nil
			}
			return nil, nil
		}, func(o *batchv1.Job) {
			o.Labels, o.Annotations, o.Spec, o.Status = nil, nil, batchv1.JobSpec{}, batchv1.JobStatus{}
		}),
	}
}

// stripPod keeps of a pod what object.Pod reads.
func stripPod(p *corev1.Pod) {
	p.Spec.Volumes, p.Spec.Tolerations, p.Spec.Affinity, p.Spec.TopologySpreadConstraints = nil, nil, nil, nil
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			list[i] = corev1.Container{
				Name: c.Name, Ports: c.Ports,
				StartupProbe: c.StartupProbe, ReadinessProbe: c.ReadinessProbe, LivenessProbe: c.LivenessProbe,
			}
		}
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			list[i] = corev1.ContainerStatus{
				Name: list[i].Name, Ready: list[i].Ready,
				State: stripState(list[i].State), LastTerminationState: stripState(list[i].LastTerminationState),
			}
		}
	}
}

// stripState keeps whether a container runs, and the code that it ended with.
func stripState(s corev1.ContainerState) corev1.ContainerState {
	var out corev1.ContainerState
	if s.Running != nil {
		out.Running = &corev1.ContainerStateRunning{}
	}
	if t := s.Terminated; t != nil {
		out.Terminated = &corev1.ContainerStateTerminated{ExitCode: t.ExitCode}
	}
	return out
}
