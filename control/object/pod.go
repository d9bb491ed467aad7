package object

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Pod strips a Pod.
func Pod(p *corev1.Pod) (*catalog.Pod, error) {
	opaque, err := opaquePorts(p.Annotations)
	pod := &catalog.Pod{
		Key: key(p), UID: string(p.UID), Labels: p.Labels, Annotations: ours(p.Annotations), Opaque: opaque,
		ServiceAccount: p.Spec.ServiceAccountName,
		Owner:          owner(p),
		Node:           p.Spec.NodeName,
		IPs:            podIPs(p),
		Hostname:       p.Spec.Hostname,
		Subdomain:      p.Spec.Subdomain,
		Phase:          string(p.Status.Phase),
		Ready:          ready(p),
		Terminating:    p.DeletionTimestamp != nil,
		HostNetwork:    p.Spec.HostNetwork,
		Meshed:         p.Annotations[annotation.Injected] != "",
		Outside:        outside(p),
		Created:        p.CreationTimestamp.UnixNano(),
	}
	if p.DeletionTimestamp != nil {
		pod.EndsBy = p.DeletionTimestamp.Unix()
	}
	if p.CreationTimestamp.IsZero() {
		pod.Created = 0
	}
	if pod.ServiceAccount == "" {
		pod.ServiceAccount = "default"
	}
	for _, c := range appContainers(p) {
		for _, cp := range c.Ports {
			pod.Ports = append(pod.Ports, catalog.ContainerPort{Name: cp.Name, Port: uint16(cp.ContainerPort), Transport: transport(cp.Protocol)})
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			pod.Probes = appendProbe(pod.Probes, &c, probe)
		}
	}
	return pod, wrap("Pod", p, err)
}

// appContainers are all containers but the sidecar.
func appContainers(p *corev1.Pod) []corev1.Container {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	return slices.DeleteFunc(all, func(c corev1.Container) bool { return c.Name == annotation.SidecarContainer })
}

func podIPs(p *corev1.Pod) []netip.Addr {
	var ips []netip.Addr
	for _, s := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(s.IP); err == nil {
			ips = append(ips, a.Unmap())
		}
	}
	if a, err := netip.ParseAddr(p.Status.PodIP); err == nil && !slices.Contains(ips, a.Unmap()) {
		ips = append(ips, a.Unmap())
	}
	return ips
}

// ready is the Ready condition, and where the status tells of the sidecar, the
// sidecar's readiness too: a runtime that forgets to count a native sidecar
// must not bring traffic to a pod that cannot receive any.
func ready(p *corev1.Pod) bool {
	ok := false
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			ok = c.Status == corev1.ConditionTrue
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.Name == annotation.SidecarContainer && !s.Ready {
			return false
		}
	}
	return ok
}

// outside reports a sidecar that ended, or ends again and again, because its pod is
// outside of the node's chain.
func outside(p *corev1.Pod) bool {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.Name != annotation.SidecarContainer || s.State.Running != nil {
			continue
		}
		for _, end := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if end != nil {
				return end.ExitCode == annotation.ExitOutside
			}
		}
	}
	return false
}

// podTemplateHash is the label that a Deployment gives its ReplicaSets' pods,
// and the end of those ReplicaSets' names.
const podTemplateHash = "pod-template-hash"

// owner finds the workload that people know a pod by. A ReplicaSet of a
// Deployment is known by its name, which saves watching ReplicaSets.
func owner(p *corev1.Pod) catalog.Ref {
	o := metav1.GetControllerOf(p)
	if o == nil && len(p.OwnerReferences) == 1 {
		o = &p.OwnerReferences[0]
	}
	if o == nil {
		return catalog.Ref{}
	}
	ref := catalog.Ref{Kind: o.Kind, Key: catalog.Key{Namespace: p.Namespace, Name: o.Name}}
	if hash := p.Labels[podTemplateHash]; o.Kind == "ReplicaSet" && hash != "" {
		if name, ok := strings.CutSuffix(o.Name, "-"+hash); ok && name != "" {
			ref.Kind, ref.Name = catalog.KindDeployment, name
		}
	}
	return ref
}

// grpcHealthPath is what a kubelet's gRPC probe calls.
const grpcHealthPath = "/grpc.health.v1.Health/Check"

// probeTarget is the request target, query included, that a kubelet makes of a
// probe's path.
func probeTarget(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.Parse(path)
	if err != nil {
		u = &url.URL{Path: path}
	}
	return u.RequestURI()
}

// appendProbe adds what a kubelet will ask for this probe, unless it runs inside
// the pod or asks another host.
func appendProbe(list []catalog.Probe, c *corev1.Container, p *corev1.Probe) []catalog.Probe {
	if p == nil {
		return list
	}
	var probe catalog.Probe
	switch {
	case p.HTTPGet != nil && p.HTTPGet.Host == "":
		probe = catalog.Probe{Port: probePort(c, p.HTTPGet.Port), Method: "GET", Path: probeTarget(p.HTTPGet.Path)}
		if p.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			probe.Method, probe.Path = "", "" // method and path are not seen in TLS
		}
	case p.TCPSocket != nil && p.TCPSocket.Host == "":
		probe = catalog.Probe{Port: probePort(c, p.TCPSocket.Port)}
	case p.GRPC != nil:
		probe = catalog.Probe{Port: uint16(p.GRPC.Port), Method: "POST", Path: grpcHealthPath}
	}
	if probe.Port == 0 || slices.Contains(list, probe) {
		return list
	}
	return append(list, probe)
}

func probePort(c *corev1.Container, port intstr.IntOrString) uint16 {
	if port.Type == intstr.Int {
		return uint16(port.IntVal)
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return uint16(p.ContainerPort)
		}
	}
	return 0
}
