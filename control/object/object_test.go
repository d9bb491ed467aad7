package object

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"net/netip"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

func TestPod(t *testing.T) {
	now := metav1.NewTime(time.Unix(1700000000, 0))
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-abc-1", UID: "u1", Labels: map[string]string{"app": "web", podTemplateHash: "abc"}, CreationTimestamp: now, DeletionTimestamp: &now,
			Annotations:     map[string]string{annotation.Injected: "v1", annotation.OpaquePorts: "9000", "kubectl.kubernetes.io/last-applied-configuration": "long"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-abc"}},
		},
		Spec: corev1.PodSpec{
			Hostname: "h", Subdomain: "s", NodeName: "n",
			InitContainers: []corev1.Container{{
				Name: annotation.SidecarContainer, Ports: []corev1.ContainerPort{{Name: "mesh-admin", ContainerPort: 4191}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(4191)}}},
			}},
			Containers: []corev1.Container{{
				Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: "UDP"}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "ready", Port: intstr.FromString("http")}}},
				LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/live", Port: intstr.FromInt32(8443), Scheme: corev1.URISchemeHTTPS}}},
				StartupProbe:   &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}},
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.1.0.1", PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}, {IP: "fd00::1"}, {IP: "junk"}},
			Conditions:            []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			InitContainerStatuses: []corev1.ContainerStatus{{Name: annotation.SidecarContainer, Ready: true}},
		},
	}
	got, err := Pod(p)
	if err != nil {
		t.Fatal(err)
	}
	want := &catalog.Pod{
		Key: catalog.Key{Namespace: "shop", Name: "web-abc-1"}, UID: "u1", Labels: p.Labels,
		Annotations: map[string]string{annotation.Injected: "v1", annotation.OpaquePorts: "9000"},
		Opaque:      &catalog.PortSet{Ranges: []catalog.PortRange{{First: 9000, Last: 9000}}}, ServiceAccount: "default",
		Owner: catalog.Ref{Kind: "Deployment", Key: catalog.Key{Namespace: "shop", Name: "web"}}, Node: "n",
		IPs: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")}, Hostname: "h", Subdomain: "s",
		Phase: "Running", Ready: true, Terminating: true, EndsBy: 1700000000, Meshed: true, Created: 1700000000e9,
		Ports:  []catalog.ContainerPort{{Name: "http", Port: 8080, Transport: "TCP"}, {Name: "dns", Port: 53, Transport: "UDP"}},
		Probes: []catalog.Probe{{Port: 8080, Method: "GET", Path: "/ready"}, {Port: 8443}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	// A pod whose sidecar is not ready is not ready, whatever its condition says.
	p.Status.InitContainerStatuses[0].Ready = false
	if got, _ := Pod(p); got.Ready {
		t.Error("ready without its sidecar")
	}
	p.Annotations[annotation.OpaquePorts] = "x"
	if got, err := Pod(p); err == nil || !strings.Contains(err.Error(), "Pod shop/web-abc-1: annotation") || got.Opaque != nil {
		t.Errorf("a malformed annotation: %v, %v", got.Opaque, err)
	}
}

func TestOwners(t *testing.T) {
	yes := true
	for _, tc := range []struct {
		labels map[string]string
		refs   []metav1.OwnerReference
		want   string
	}{
		{nil, nil, " "},
		{nil, []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db"}}, "StatefulSet db"},
		{nil, []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "own"}}, "ReplicaSet own"},
		{map[string]string{podTemplateHash: "x"}, []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "other-y"}}, "ReplicaSet other-y"},
		{map[string]string{podTemplateHash: "x"}, []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "a-b-x"}}, "Deployment a-b"},
		{nil, []metav1.OwnerReference{{Kind: "Thing", Name: "t"}, {Kind: "DaemonSet", Name: "d", Controller: &yes}}, "DaemonSet d"},
		{nil, []metav1.OwnerReference{{Kind: "A", Name: "a"}, {Kind: "B", Name: "b"}}, " "},
	} {
		got := owner(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels, OwnerReferences: tc.refs}})
		if s := got.Kind + " " + got.Name; s != tc.want {
			t.Errorf("%v %v: %q, want %q", tc.labels, tc.refs, s, tc.want)
		}
	}
}

// A Job is known where a CronJob made it, be it by hand.
func TestJobs(t *testing.T) {
	yes := true
	for _, tc := range []struct {
		refs []metav1.OwnerReference
		want string
	}{
		{nil, ""},
		{[]metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "backup", Controller: &yes}}, "backup"},
		{[]metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "backup"}}, "backup"},
		{[]metav1.OwnerReference{{APIVersion: "x/v1", Kind: "Workflow", Name: "w", Controller: &yes}}, ""},
		{[]metav1.OwnerReference{{APIVersion: "x/v1", Kind: "CronJob", Name: "theirs", Controller: &yes}}, ""},
	} {
		got := Job(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "backup-29", OwnerReferences: tc.refs}})
		if tc.want == "" {
			if got != nil {
				t.Errorf("%v: %v", tc.refs, got)
			}
			continue
		}
		if want := (catalog.Job{Key: catalog.Key{Namespace: "shop", Name: "backup-29"}, CronJob: tc.want}); got == nil || *got != want {
			t.Errorf("%v: %v, want %v", tc.refs, got, want)
		}
	}
}

func TestService(t *testing.T) {
	app := "grpc"
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", Selector: map[string]string{"a": "b"}, PublishNotReadyAddresses: true,
			Ports: []corev1.ServicePort{{Port: 80, AppProtocol: &app}, {Name: "n", Port: 81, Protocol: "UDP", TargetPort: intstr.FromString("dns")}, {Port: 82, TargetPort: intstr.FromInt32(9)}},
		},
	}
	got, err := Service(s)
	if err != nil {
		t.Fatal(err)
	}
	want := &catalog.Service{
		Key: catalog.Key{Namespace: "shop", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Selector: s.Spec.Selector, PublishNotReady: true,
		Ports: []catalog.ServicePort{
			{Port: 80, Transport: "TCP", TargetPort: 80, AppProtocol: "grpc"}, {Name: "n", Port: 81, Transport: "UDP", TargetName: "dns"}, {Port: 82, Transport: "TCP", TargetPort: 9},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	s.Spec.ClusterIP = corev1.ClusterIPNone
	if got, _ := Service(s); !got.Headless || len(got.ClusterIPs) != 0 {
		t.Errorf("headless: %+v", got)
	}
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	if got, _ := Service(s); got.ExternalName != "example.com" || got.Headless || len(got.Ports) != 0 {
		t.Errorf("external: %+v", got)
	}
}

// The sidecar compares requests with what a kubelet sends, query and all.
func TestProbesKeepTheirQuery(t *testing.T) {
	for path, want := range map[string]string{"": "/", "live": "/live", "/live?full=1&x=2": "/live?full=1&x=2", "/a b#c": "/a%20b", "/%zz": "/%25zz"} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(80)}}},
		}}}}
		got, _ := Pod(pod)
		if len(got.Probes) != 1 || got.Probes[0].Path != want {
			t.Errorf("probe of %q became %+v, want %q", path, got.Probes, want)
		}
	}
}
