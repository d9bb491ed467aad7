package files

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// meta checks what every object has.
func (c *checker) meta(kind string, o metav1.Object) {
	s := c.at(kind, o)
	switch kind {
	case "Namespace", "Service":
		s.each("metadata.name", validation.IsDNS1123Label(o.GetName()))
	default:
		s.each("metadata.name", validation.IsDNS1123Subdomain(o.GetName()))
	}
	s.labelMap("metadata.labels", o.GetLabels())
	s.annotations("metadata.annotations", o.GetAnnotations())
}

func (s spot) labelMap(path string, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s.each(path+"["+k+"]", validation.IsQualifiedName(k))
		s.each(path+"["+k+"]", validation.IsValidLabelValue(m[k]))
	}
}

// annotations checks those that the control plane reads.
func (s spot) annotations(path string, m map[string]string) {
	if v, ok := m[annotation.OpaquePorts]; ok {
		if _, err := catalog.ParsePortSet(v); err != nil {
			s.add(path+"["+annotation.OpaquePorts+"]", "%w", err)
		}
	}
}

// serviceSpec checks a Service by itself.
func (c *checker) serviceSpec(svc *corev1.Service, s spot) {
	spec := &svc.Spec
	for i, ip := range clusterIPs(spec) {
		if ip == corev1.ClusterIPNone {
			continue
		}
		if _, err := netip.ParseAddr(ip); err != nil {
			s.add(fmt.Sprintf("spec.clusterIPs[%d]", i), "%q is not an IP address (or None)", ip)
		}
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		s.each("spec.externalName", validation.IsDNS1123Subdomain(spec.ExternalName))
		return
	}
	headless := spec.ClusterIP == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless {
		s.add("spec.ports", "missing: a Service has at least one port")
	}
	s.labelMap("spec.selector", spec.Selector)
	names, numbers := map[string]bool{}, map[string]bool{}
	for i, p := range spec.Ports {
		at := s.in("spec.ports[%d]", i)
		at.port("port", p.Port)
		at.transport("protocol", p.Protocol)
		if p.TargetPort.Type == intstr.Int {
			at.port("targetPort", p.TargetPort.IntVal)
		} else {
			at.each("targetPort", validation.IsValidPortName(p.TargetPort.StrVal))
		}
		switch {
		case p.Name == "" && len(spec.Ports) > 1:
			at.add("name", "missing: with several ports each has a name")
		case p.Name != "" && names[p.Name]:
			at.add("name", "%q is another port's name too", p.Name)
		case p.Name != "":
			at.each("name", validation.IsDNS1123Label(p.Name))
		}
		names[p.Name] = true
		number := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if numbers[number] {
			at.add("port", "%s is written twice", number)
		}
		numbers[number] = true
	}
}

// clusterIPs lists a Service's cluster IPs once, whichever field says them.
func clusterIPs(spec *corev1.ServiceSpec) []string {
	if len(spec.ClusterIPs) > 0 {
		return spec.ClusterIPs
	}
	if spec.ClusterIP != "" {
		return []string{spec.ClusterIP}
	}
	return nil
}

func (s spot) port(path string, n int32) {
	if n < 1 || n > 65535 {
		s.add(path, "%d is not a port from 1 to 65535", n)
	}
}

func (s spot) transport(path string, p corev1.Protocol) {
	switch p {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		s.add(path, "%q is not TCP, UDP or SCTP", p)
	}
}
