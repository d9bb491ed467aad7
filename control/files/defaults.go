package files

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// setDefaults fills in what the API server would have, as far as anything here
// reads it. (k8s.io/kubernetes, which has them all, is no library.)
func setDefaults(s *Set) {
	for _, d := range s.Deployments {
		setPtr(&d.Spec.Replicas, 1)
		setPodDefaults(&d.Spec.Template.Spec)
	}
	for _, d := range s.StatefulSets {
		setPtr(&d.Spec.Replicas, 1)
		setPodDefaults(&d.Spec.Template.Spec)
	}
	for _, d := range s.DaemonSets {
		setPodDefaults(&d.Spec.Template.Spec)
	}
	for _, p := range s.Pods {
		setPodDefaults(&p.Spec)
	}
	for _, svc := range s.Services {
		setServiceDefaults(svc)
	}
	for _, sec := range s.Secrets {
		if len(sec.StringData) > 0 && sec.Data == nil {
			sec.Data = map[string][]byte{}
		}
		for k, v := range sec.StringData {
			sec.Data[k] = []byte(v)
		}
		sec.StringData = nil
	}
}

func setServiceDefaults(svc *corev1.Service) {
	set(&svc.Spec.Type, corev1.ServiceTypeClusterIP)
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		set(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

func setPodDefaults(spec *corev1.PodSpec) {
	set(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	set(&spec.ServiceAccountName, DefaultServiceAccount)
	set(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	setPtr(&spec.TerminationGracePeriodSeconds, 30)
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			c := &list[i]
			for j := range c.Ports {
				set(&c.Ports[j].Protocol, corev1.ProtocolTCP)
			}
			for j := range c.Env {
				if f := c.Env[j].ValueFrom; f != nil && f.FieldRef != nil {
					set(&f.FieldRef.APIVersion, "v1")
				}
			}
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
				setProbeDefaults(probe)
			}
		}
	}
}

func setProbeDefaults(p *corev1.Probe) {
	if p == nil {
		return
	}
	set(&p.PeriodSeconds, 10)
	set(&p.TimeoutSeconds, 1)
	set(&p.SuccessThreshold, 1)
	set(&p.FailureThreshold, 3)
	if h := p.HTTPGet; h != nil {
		set(&h.Path, "/")
		set(&h.Scheme, corev1.URISchemeHTTP)
	}
}

// set gives an empty field its default.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func setPtr[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
