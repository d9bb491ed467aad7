package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// A cluster of 1,000 Services with 10 pods each.
const (
	benchServices = 1000
	benchPods     = 10
)

func benchSlice(s int) *discoveryv1.EndpointSlice {
	name, port, tcp, ready := "http", int32(8080), corev1.ProtocolTCP, true
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("ns-%d", s%20), Name: fmt.Sprintf("svc-%d-abcde", s),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("svc-%d", s), discoveryv1.LabelManagedBy: managedBy},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
	}
	for i := range benchPods {
		p := benchPod(s, i)
		sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: &p.Spec.NodeName,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	return sl
}

// benchPod is a pod of the size that real ones have.
func benchPod(s, i int) *corev1.Pod {
	n := s*benchPods + i
	name := fmt.Sprintf("svc-%d-5d4f8c7b9-%05d", s, i)
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("ns-%d", s%20), Name: name, GenerateName: fmt.Sprintf("svc-%d-5d4f8c7b9-", s), UID: types.UID(fmt.Sprintf("0b7e4a7e-0000-4000-8000-%012d", n)),
			Labels:          map[string]string{"app.kubernetes.io/name": fmt.Sprintf("svc-%d", s), "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5d4f8c7b9"},
			Annotations:     map[string]string{annotation.Injected: "v1", "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: fmt.Sprintf("svc-%d-5d4f8c7b9", s), Controller: &yes}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: &metav1.FieldsV1{Raw: make([]byte, 3000)}}},
		},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", n%100), ServiceAccountName: fmt.Sprintf("svc-%d", s)},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.%d", 1+n>>16, n>>8&255, n&255),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for c := range 2 {
		ct := corev1.Container{Name: fmt.Sprintf("c%d", c), Image: "registry.example.com/team/app:v1.2.3", Ports: []corev1.ContainerPort{{Name: fmt.Sprintf("http%d", c), ContainerPort: 8080}}}
		for e := range 20 {
			ct.Env = append(ct.Env, corev1.EnvVar{Name: fmt.Sprintf("ENV_%d", e), Value: "some value of some length"})
		}
		p.Spec.Containers = append(p.Spec.Containers, ct)
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: ct.Name, Image: ct.Image, ImageID: ct.Image + "@sha256:0123456789abcdef", Ready: true})
	}
	return p
}

// BenchmarkFirstList: a cluster of 1,000 Services and 10,000 pods is read; what
// stays in memory of it, and how long it takes.
func BenchmarkFirstList(b *testing.B) {
	client := fake.NewClientset()
	tracker := client.Tracker()
	for s := range benchServices {
		objects := []kruntime.Object{benchSlice(s), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", s%20), Name: fmt.Sprintf("svc-%d", s)},
			Spec: corev1.ServiceSpec{
				ClusterIP: fmt.Sprintf("10.96.%d.%d", s>>8, s&255), Selector: map[string]string{"app.kubernetes.io/name": fmt.Sprintf("svc-%d", s)},
				Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
			},
		}}
		for i := range benchPods {
			objects = append(objects, benchPod(s, i))
		}
		for _, o := range objects {
			if err := tracker.Add(o); err != nil {
				b.Fatal(err)
			}
		}
	}
	before := live()
	b.ResetTimer()
	for range b.N {
		c, err := catalog.New(catalog.Config{EndpointSlices: true})
		if err != nil {
			b.Fatal(err)
		}
		src, err := kube.NewSource(kube.SourceConfig{Client: client, Catalog: c})
		if err != nil {
			b.Fatal(err)
		}
		stop := background(b, src)
		<-c.Synced()
		b.StopTimer()
		b.ReportMetric(float64(live()-before)/1e6, "MB-kept")
		w := c.Watch(netip.MustParseAddrPort("10.96.3.231:80"))
		if n := len(w.Load().Endpoints); n != benchPods {
			b.Fatalf("%d endpoints", n)
		}
		w.Close()
		stop()
		b.StartTimer()
	}
}

// BenchmarkChange: from the change of one EndpointSlice at the API server to a
// watcher of its Service, among 1,000 watched Services.
func BenchmarkChange(b *testing.B) {
	client := fake.NewClientset()
	for i := range benchPods {
		if err := client.Tracker().Add(benchPod(0, i)); err != nil {
			b.Fatal(err)
		}
	}
	c, err := catalog.New(catalog.Config{EndpointSlices: true})
	if err != nil {
		b.Fatal(err)
	}
	src, err := kube.NewSource(kube.SourceConfig{Client: client, Catalog: c})
	if err != nil {
		b.Fatal(err)
	}
	opened := watches(client)
	defer background(b, src)()
	for range src.Kinds() {
		<-opened
	}
	if err := client.Tracker().Add(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns-0", Name: "svc-0"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}); err != nil {
		b.Fatal(err)
	}
	w := c.Watch(netip.MustParseAddrPort("10.96.0.1:80"))
	defer w.Close()
	for b.Loop() {
		sl := benchSlice(0)
		sl.Endpoints = sl.Endpoints[:1+len(w.Load().Endpoints)%(benchPods-1)]
		if err := put(client.Tracker(), sl); err != nil {
			b.Fatal(err)
		}
		<-w.Changed()
	}
}

func background(tb testing.TB, src *kube.Source) (stop func()) {
	tb.Helper()
	var stopped atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	return func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	}
}

// live is what is in memory after two collections.
func live() uint64 {
	runtime.GC()
	time.Sleep(10 * time.Millisecond)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
