// Package inject adds the sidecar to pods, and takes it away again: pure
// functions on values and manifests. It owns what an injected pod looks like
// and why a pod is skipped; it refuses to know where manifests come from, the
// cluster, and everything that the node's agent tells the sidecar by itself
// (addresses, trust anchors, the control plane).
//
// An injected pod has one native sidecar container, one projected token volume
// and the annotation tunmesh.io/injected more than before (and tunmesh.io/inherited
// where its namespace configures it), and nothing else.
package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Reason is why a pod was not injected, by Linkerd's name where it has one.
type Reason string

// The reasons.
const (
	HostNetwork         Reason = "host_network_enabled"
	SidecarExists       Reason = "sidecar_already_exists"
	Unsupported         Reason = "unsupported_resource"
	EnableAbsent        Reason = "injection_enable_annotation_absent"
	DisablePresent      Reason = "injection_disable_annotation_present"
	InvalidAtWorkload   Reason = "invalid_inject_annotation_at_workload"
	InvalidAtNamespace  Reason = "invalid_inject_annotation_at_ns"
	ShareProcess        Reason = "share_process_namespace_enabled"
	ForeignSidecar      Reason = "linkerd_proxy_present"
	InvalidAnnotation   Reason = "invalid_config_annotation"
	ReservedPort        Reason = "reserved_port"
	linkerdProxy               = "linkerd-proxy"
	defaultImage               = "ghcr.io/tunmesh/mesh-proxy"
	tokenSeconds        int64  = 3600
	enabled, disabled          = "enabled", "disabled"
	adminPortName              = "mesh-admin"
	tokenMode           int32  = 0o444
	readinessPeriod     int32  = 2
	livenessPeriod      int32  = 10
	livenessTimeout     int32  = 10
	defaultCPURequest          = "10m"
	defaultMemRequest          = "20Mi"
	livePath, readyPath        = "/live", "/ready"
)

// Config says what to inject.
type Config struct {
	// Version is written into the annotation and is the image's tag.
	Version string
	// Image is the sidecar's repository, without tag; "" is the project's own.
	Image string
	// OptIn: inject only what asks for it by annotation, on the workload or its
	// namespace. Otherwise everything that does not forbid it.
	OptIn bool
	// NamespaceAnnotations are inherited by pods that do not set them.
	NamespaceAnnotations map[string]string
	// Defaults are configuration annotations of pods that neither set them nor
	// inherit them from their namespace.
	Defaults map[string]string
	// IgnoreLinkerd: Linkerd's annotations say nothing, as where its own injector
	// acts on them. Otherwise they stand for ours where ours are absent.
	IgnoreLinkerd bool
}

// Pod injects into a pod's annotations and spec and returns "", or changes
// nothing and returns the reason. err explains InvalidAnnotation.
func Pod(annotations map[string]string, spec *corev1.PodSpec, cfg Config) (map[string]string, Reason, error) {
	said := annotations
	if !cfg.IgnoreLinkerd {
		said, _ = fromLinkerd(annotations)
		cfg.NamespaceAnnotations, _ = fromLinkerd(cfg.NamespaceAnnotations)
	}
	if r := skip(said, spec, cfg); r != "" {
		return annotations, r, nil
	}
	effective := inherit(said, cfg.NamespaceAnnotations, cfg.Defaults)
	c, err := sidecar(effective, cfg)
	if err != nil {
		return annotations, InvalidAnnotation, err
	}
	spec.InitContainers = append([]corev1.Container{c}, spec.InitContainers...)
	spec.Volumes = append(spec.Volumes, tokenVolume())
	out := make(map[string]string, len(annotations)+1)
	for k, v := range annotations {
		out[k] = v
	}
	// What the namespace configures must reach the node's agent with the pod, and
	// so must what the pod says by Linkerd's names.
	var inherited []string
	for k, v := range effective {
		if _, own := out[k]; !own && annotation.IsConfig(k) {
			out[k] = v
			inherited = append(inherited, k)
		}
	}
	if len(inherited) > 0 {
		slices.Sort(inherited)
		out[annotation.Inherited] = strings.Join(inherited, ",")
	}
	out[annotation.Injected] = cfg.Version
	return out, "", nil
}

// Unpod takes everything away that Pod added and reports whether there was
// anything. The user's own configuration annotations stay.
func Unpod(annotations map[string]string, spec *corev1.PodSpec) (map[string]string, bool) {
	is := func(c corev1.Container) bool { return c.Name == annotation.SidecarContainer }
	_, marked := annotations[annotation.Injected]
	found := marked || slices.ContainsFunc(spec.InitContainers, is) || slices.ContainsFunc(spec.Containers, is)
	if !found {
		return annotations, false
	}
	spec.InitContainers = slices.DeleteFunc(spec.InitContainers, is)
	spec.Containers = slices.DeleteFunc(spec.Containers, is)
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == annotation.TokenVolume })
	if len(spec.InitContainers) == 0 {
		spec.InitContainers = nil
	}
	if len(spec.Volumes) == 0 {
		spec.Volumes = nil
	}
	out := maps.Clone(annotations)
	for _, k := range list(annotations[annotation.Inherited]) {
		delete(out, k)
	}
	delete(out, annotation.Inherited)
	delete(out, annotation.Injected)
	if len(out) == 0 {
		out = nil
	}
	return out, true
}

// skip decides without looking at configuration.
func skip(annotations map[string]string, spec *corev1.PodSpec, cfg Config) Reason {
	named := func(name string) bool {
		is := func(c corev1.Container) bool { return c.Name == name }
		return slices.ContainsFunc(spec.Containers, is) || slices.ContainsFunc(spec.InitContainers, is)
	}
	if named(annotation.SidecarContainer) {
		return SidecarExists
	}
	if named(linkerdProxy) {
		return ForeignSidecar
	}
	if r := forbidden(annotations, cfg); r != "" {
		return r
	}
	switch {
	case spec.HostNetwork:
		return HostNetwork
	case spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace:
		// Containers would see, and could trace, the sidecar.
		return ShareProcess
	}
	for _, c := range slices.Concat(spec.Containers, spec.InitContainers) {
		for _, p := range c.Ports {
			if p.ContainerPort == annotation.AdminPort {
				return ReservedPort
			}
		}
	}
	return ""
}

// forbidden is why the annotations keep a pod from having a sidecar.
func forbidden(annotations map[string]string, cfg Config) Reason {
	switch v, set := annotations[annotation.Inject]; {
	case set && v == disabled:
		return DisablePresent
	case set && v != enabled:
		return InvalidAtWorkload
	case !set:
		switch v, set := cfg.NamespaceAnnotations[annotation.Inject]; {
		case set && v == disabled:
			return DisablePresent
		case set && v != enabled:
			return InvalidAtNamespace
		case !set && cfg.OptIn:
			return EnableAbsent
		}
	}
	return ""
}

// Wanted reports whether the annotations of a pod and its namespace ask for a
// sidecar, whatever else keeps the pod from having one.
func Wanted(annotations map[string]string, cfg Config) bool {
	if !cfg.IgnoreLinkerd {
		annotations, _ = fromLinkerd(annotations)
		cfg.NamespaceAnnotations, _ = fromLinkerd(cfg.NamespaceAnnotations)
	}
	return forbidden(annotations, cfg) == ""
}

func inherit(pod, namespace, defaults map[string]string) map[string]string {
	out := maps.Clone(defaults)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range namespace {
		if annotation.IsConfig(k) {
			out[k] = v
		}
	}
	for k, v := range pod {
		out[k] = v
	}
	return out
}

// sidecar is the container; a is the pod's effective configuration.
func sidecar(a map[string]string, cfg Config) (corev1.Container, error) {
	if err := validate(a); err != nil {
		return corev1.Container{}, err
	}
	image := cfg.Image
	if image == "" {
		image = defaultImage
	}
	image += ":" + cfg.Version
	if v := a[annotation.ProxyImage]; v != "" {
		image = v
	}
	res, err := resources(a)
	if err != nil {
		return corev1.Container{}, err
	}
	always := corev1.ContainerRestartPolicyAlways
	uid := int64(annotation.ProxyUID)
	yes, no := true, false
	port := intstr.FromInt32(annotation.AdminPort)
	probe := func(path string, period, failures int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port}},
			PeriodSeconds:    period,
			FailureThreshold: failures,
		}
	}
	// Who is slow because the node is busy is not helped by starting again.
	live := probe(livePath, livenessPeriod, 6)
	live.TimeoutSeconds = livenessTimeout
	return corev1.Container{
		Name:            annotation.SidecarContainer,
		Image:           image,
		ImagePullPolicy: corev1.PullPolicy(a[annotation.ImagePullPolicy]),
		Command:         []string{"mesh-proxy"},
		RestartPolicy:   &always,
		Ports:           []corev1.ContainerPort{{Name: adminPortName, ContainerPort: annotation.AdminPort, Protocol: corev1.ProtocolTCP}},
		Resources:       res,
		// Not a startup probe: the kubelet asks those once a second, and each pod would
		// begin most of a second later.
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			Exec: &corev1.ExecAction{Command: []string{"mesh-proxy", "await"}},
		}},
		ReadinessProbe: probe(readyPath, readinessPeriod, 3),
		LivenessProbe:  live,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   &yes,
			RunAsNonRoot:             &yes,
			RunAsUser:                &uid,
			RunAsGroup:               &uid,
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		VolumeMounts:             []corev1.VolumeMount{{Name: annotation.TokenVolume, MountPath: annotation.TokenMountPath, ReadOnly: true}},
	}, nil
}

func resources(a map[string]string) (corev1.ResourceRequirements, error) {
	r := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse(defaultCPURequest),
			corev1.ResourceMemory: resource.MustParse(defaultMemRequest),
		},
	}
	for _, s := range []struct {
		key   string
		name  corev1.ResourceName
		limit bool
	}{
		{annotation.ProxyCPURequest, corev1.ResourceCPU, false},
		{annotation.ProxyMemoryRequest, corev1.ResourceMemory, false},
		{annotation.ProxyCPULimit, corev1.ResourceCPU, true},
		{annotation.ProxyMemoryLimit, corev1.ResourceMemory, true},
	} {
		v, set := a[s.key]
		if !set {
			continue
		}
		q, err := resource.ParseQuantity(v)
		if err != nil || q.Sign() < 0 {
			return r, fmt.Errorf("annotation %s: %q is no quantity such as 100m or 64Mi", s.key, v)
		}
		if !s.limit {
			r.Requests[s.name] = q
			continue
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[s.name] = q
		if req := r.Requests[s.name]; req.Cmp(q) > 0 {
			r.Requests[s.name] = q
		}
	}
	return r, nil
}

func tokenVolume() corev1.Volume {
	seconds, mode := tokenSeconds, tokenMode
	return corev1.Volume{
		Name: annotation.TokenVolume,
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: &mode,
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: annotation.TokenAudience, ExpirationSeconds: &seconds, Path: annotation.TokenFile,
			}}},
		}},
	}
}
