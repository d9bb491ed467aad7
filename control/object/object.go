// Package object turns Kubernetes API objects into the catalog's own, stripped
// of everything that nothing reads. Both sources go through it, so that above
// them nobody can tell which one it was. It owns the reading of fields and
// annotations, and refuses to know where objects come from and what is made of
// them.
package object

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Namespace strips a Namespace. An error says what of it is malformed and was
// ignored; the object is good without it. So it is with every function here.
func Namespace(n *corev1.Namespace) (*catalog.Namespace, error) {
	opaque, err := opaquePorts(n.Annotations)
	return &catalog.Namespace{
		Name: n.Name, Labels: n.Labels, Annotations: ours(n.Annotations), Opaque: opaque,
	}, wrap("Namespace", n, err)
}

// ServiceAccount strips a ServiceAccount.
func ServiceAccount(a *corev1.ServiceAccount) *catalog.ServiceAccount {
	return &catalog.ServiceAccount{Key: key(a)}
}

// Deployment strips a Deployment.
func Deployment(d *appsv1.Deployment) *catalog.Workload {
	return workload(catalog.KindDeployment, d, replicas(d.Spec.Replicas))
}

// StatefulSet strips a StatefulSet.
func StatefulSet(d *appsv1.StatefulSet) *catalog.Workload {
	return workload(catalog.KindStatefulSet, d, replicas(d.Spec.Replicas))
}

// DaemonSet strips a DaemonSet; its replicas are what its status says, or 1.
func DaemonSet(d *appsv1.DaemonSet) *catalog.Workload {
	return workload(catalog.KindDaemonSet, d, max(d.Status.DesiredNumberScheduled, 1))
}

// Job strips a Job; nil for one that no CronJob made. One that kubectl made of a
// CronJob (create job --from) has it for its owner, too.
func Job(j *batchv1.Job) *catalog.Job {
	for _, o := range j.OwnerReferences {
		if o.Kind == catalog.KindCronJob && strings.HasPrefix(o.APIVersion, batchv1.GroupName+"/") {
			return &catalog.Job{Key: key(j), CronJob: o.Name}
		}
	}
	return nil
}

func workload(kind string, o metav1.Object, n int32) *catalog.Workload {
	return &catalog.Workload{Kind: kind, Key: key(o), Labels: o.GetLabels(), Replicas: n}
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// Service strips a Service.
func Service(s *corev1.Service) (*catalog.Service, error) {
	opaque, err := opaquePorts(s.Annotations)
	traffic, terr := traffic(s.Annotations)
	err = errors.Join(err, terr)
	svc := &catalog.Service{
		Key: key(s), Labels: s.Labels, Selector: s.Spec.Selector, Opaque: opaque, Traffic: traffic,
		PublishNotReady: s.Spec.PublishNotReadyAddresses,
		Local:           s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		svc.ExternalName = s.Spec.ExternalName
		return svc, wrap("Service", s, err)
	}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 && s.Spec.ClusterIP != "" {
		ips = []string{s.Spec.ClusterIP}
	}
	for _, ip := range ips {
		if ip == corev1.ClusterIPNone {
			svc.Headless = true
			continue
		}
		if a, perr := netip.ParseAddr(ip); perr == nil {
			svc.ClusterIPs = append(svc.ClusterIPs, a.Unmap())
		}
	}
	for _, p := range s.Spec.Ports {
		sp := catalog.ServicePort{Name: p.Name, Port: uint16(p.Port), Transport: transport(p.Protocol)}
		if p.AppProtocol != nil {
			sp.AppProtocol = *p.AppProtocol
		}
		switch {
		case p.TargetPort.StrVal != "":
			sp.TargetName = p.TargetPort.StrVal
		case p.TargetPort.IntVal != 0:
			sp.TargetPort = uint16(p.TargetPort.IntVal)
		default:
			sp.TargetPort = sp.Port
		}
		svc.Ports = append(svc.Ports, sp)
	}
	return svc, wrap("Service", s, err)
}

func transport(p corev1.Protocol) string {
	if p == "" {
		return "TCP"
	}
	return string(p)
}

func key(o metav1.Object) catalog.Key {
	return catalog.Key{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// prefix begins the annotations that are not configuration.
const prefix = "tunmesh.io/"

// ours keeps this project's annotations, and Linkerd's that stand for them.
func ours(all map[string]string) map[string]string {
	var m map[string]string
	for k, v := range all {
		if annotation.IsConfig(k) || strings.HasPrefix(k, prefix) || annotation.IsLinkerd(k) {
			if m == nil {
				m = map[string]string{}
			}
			m[k] = v
		}
	}
	return m
}

func opaquePorts(all map[string]string) (*catalog.PortSet, error) {
	name := annotation.OpaquePorts
	v, ok := all[name]
	if !ok {
		name = annotation.LinkerdConfigPrefix + strings.TrimPrefix(name, annotation.ConfigPrefix)
		if v, ok = all[name]; !ok {
			return nil, nil
		}
	}
	set, err := catalog.ParsePortSet(v)
	if err != nil {
		return nil, fmt.Errorf("annotation %s, ignored: %w", name, err)
	}
	return set, nil
}

func wrap(kind string, o metav1.Object, err error) error {
	if err == nil {
		return nil
	}
	var several interface{ Unwrap() []error }
	if !errors.As(err, &several) {
		return fmt.Errorf("%s %s: %w", kind, key(o), err)
	}
	var all []error
	for _, e := range several.Unwrap() {
		all = append(all, wrap(kind, o, e))
	}
	return errors.Join(all...)
}
