package files

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kind is one kind that is read, and where its objects go.
type kind struct {
	apiVersion string
	namespaced bool
	make       func() metav1.Object
	put        func(*Set, metav1.Object)
}

func kindOf[T any, P interface {
	*T
	metav1.Object
}](apiVersion string, namespaced bool, list func(*Set) *[]P) kind {
	return kind{
		apiVersion: apiVersion,
		namespaced: namespaced,
		make:       func() metav1.Object { return P(new(T)) },
		put: func(s *Set, o metav1.Object) {
			l := list(s)
			*l = append(*l, o.(P))
		},
	}
}

// readKinds are the kinds that are read, by name.
func readKinds() map[string]kind {
	return map[string]kind{
		"Namespace":      kindOf("v1", false, func(s *Set) *[]*corev1.Namespace { return &s.Namespaces }),
		"ServiceAccount": kindOf("v1", true, func(s *Set) *[]*corev1.ServiceAccount { return &s.ServiceAccounts }),
		"Service":        kindOf("v1", true, func(s *Set) *[]*corev1.Service { return &s.Services }),
		"Pod":            kindOf("v1", true, func(s *Set) *[]*corev1.Pod { return &s.Pods }),
		"ConfigMap":      kindOf("v1", true, func(s *Set) *[]*corev1.ConfigMap { return &s.ConfigMaps }),
		"Secret":         kindOf("v1", true, func(s *Set) *[]*corev1.Secret { return &s.Secrets }),
		"Deployment":     kindOf("apps/v1", true, func(s *Set) *[]*appsv1.Deployment { return &s.Deployments }),
		"StatefulSet":    kindOf("apps/v1", true, func(s *Set) *[]*appsv1.StatefulSet { return &s.StatefulSets }),
		"DaemonSet":      kindOf("apps/v1", true, func(s *Set) *[]*appsv1.DaemonSet { return &s.DaemonSets }),
	}
}

// wellKnown reports a kind that is left out without harm, in any version of its
// API group: what the API server knows, Gateway API, and what people commonly
// put beside their workloads.
func wellKnown(apiVersion, kind string) bool {
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group = "" // "v1" is the core group
	}
	kinds, ok := skippedKinds()[group]
	return ok && slices.Contains(kinds, kind)
}

func skippedKinds() map[string][]string {
	return map[string][]string{
		"": {"Endpoints", "Event", "LimitRange", "Node", "PersistentVolume", "PersistentVolumeClaim", "PodTemplate",
			"ReplicationController", "ResourceQuota"},
		"apps":                         {"ReplicaSet", "ControllerRevision"},
		"batch":                        {"Job", "CronJob"},
		"autoscaling":                  {"HorizontalPodAutoscaler"},
		"policy":                       {"PodDisruptionBudget"},
		"networking.k8s.io":            {"Ingress", "IngressClass", "NetworkPolicy", "IPAddress", "ServiceCIDR"},
		"discovery.k8s.io":             {"EndpointSlice"},
		"rbac.authorization.k8s.io":    {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"},
		"scheduling.k8s.io":            {"PriorityClass"},
		"storage.k8s.io":               {"StorageClass", "CSIDriver", "VolumeAttachment"},
		"coordination.k8s.io":          {"Lease"},
		"events.k8s.io":                {"Event"},
		"node.k8s.io":                  {"RuntimeClass"},
		"apiextensions.k8s.io":         {"CustomResourceDefinition"},
		"apiregistration.k8s.io":       {"APIService"},
		"certificates.k8s.io":          {"CertificateSigningRequest"},
		"admissionregistration.k8s.io": {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"},
		"gateway.networking.k8s.io":    {"GatewayClass", "Gateway", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "ReferenceGrant", "BackendTLSPolicy"},
		"monitoring.coreos.com":        {"ServiceMonitor", "PodMonitor", "PrometheusRule"},
		"cert-manager.io":              {"Certificate", "Issuer", "ClusterIssuer"},
		"policy.linkerd.io":            {"Server", "ServerAuthorization", "AuthorizationPolicy", "MeshTLSAuthentication", "NetworkAuthentication", "HTTPRoute"},
		"linkerd.io":                   {"ServiceProfile"},
		"split.smi-spec.io":            {"TrafficSplit"},
	}
}
