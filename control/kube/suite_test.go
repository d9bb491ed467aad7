package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a clientset that only remembers, with a controller that makes
// EndpointSlices as Kubernetes does.
type cluster struct {
	client *fake.Clientset
	c      *catalog.Catalog
	source *kube.Source
	opened <-chan watch.Interface

	mu   sync.Mutex
	open []watch.Interface
}

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, cfg catalog.Config) sourcetest.Cluster {
		t.Helper()
		return start(t, cfg, fake.NewClientset())
	})
}

// start runs a source until the test ends, and waits until it sees changes: the
// fake loses what happens between a list and its watch.
func start(t *testing.T, cfg catalog.Config, client *fake.Clientset) *cluster {
	t.Helper()
	cl := begin(t, cfg, client)
	for range cl.source.Kinds() {
		cl.next(t)
	}
	return cl
}

// next waits for one more watch.
func (cl *cluster) next(t *testing.T) {
	t.Helper()
	select {
	case w := <-cl.opened:
		cl.mu.Lock()
		defer cl.mu.Unlock()
		cl.open = append(cl.open, w)
	case <-time.After(30 * time.Second):
		t.Fatal("not every kind is watched within 30 s")
	}
}

// hangUp ends all watches, as a server does that goes away.
func (cl *cluster) hangUp() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for _, w := range cl.open {
		w.Stop()
	}
	cl.open = nil
}

// begin runs a source until the test ends.
func begin(t *testing.T, cfg catalog.Config, client *fake.Clientset) *cluster {
	t.Helper()
	opened := watches(client)
	cl := run(t, cfg, client)
	cl.client, cl.opened = client, opened
	return cl
}

// run runs a source with any client until the test ends.
func run(t *testing.T, cfg catalog.Config, client kube.Client) *cluster {
	t.Helper()
	cfg.EndpointSlices = true
	c, err := catalog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cl := &cluster{c: c}
	if cl.source, err = kube.NewSource(kube.SourceConfig{Client: client, Catalog: c}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cl.source.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return cl
}

// wait waits until a condition holds.
func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// watches receives each watch that is opened.
func watches(client *fake.Clientset) <-chan watch.Interface {
	opened := make(chan watch.Interface, 1000)
	client.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		if err == nil {
			opened <- w
		}
		return true, w, err
	})
	return opened
}

func (cl *cluster) Catalog() *catalog.Catalog { return cl.c }

func (cl *cluster) Apply(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	for _, o := range objects {
		if err := put(cl.client.Tracker(), o); err != nil {
			t.Fatal(err)
		}
	}
	cl.reconcile(t)
}

// put creates or replaces an object.
func put(tracker clienttesting.ObjectTracker, o runtime.Object) error {
	err := tracker.Add(o)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	return tracker.Update(resource(o), o, m.GetNamespace())
}

func (cl *cluster) Delete(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	for _, o := range objects {
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.client.Tracker().Delete(resource(o), m.GetNamespace(), m.GetName()); err != nil {
			t.Fatal(err)
		}
	}
	cl.reconcile(t)
}

func resource(o runtime.Object) schema.GroupVersionResource {
	switch o.(type) {
	case *corev1.Pod:
		return corev1.SchemeGroupVersion.WithResource("pods")
	case *corev1.Service:
		return corev1.SchemeGroupVersion.WithResource("services")
	case *corev1.Secret:
		return corev1.SchemeGroupVersion.WithResource("secrets")
	case *batchv1.Job:
		return batchv1.SchemeGroupVersion.WithResource("jobs")
	case *discoveryv1.EndpointSlice:
		return discoveryv1.SchemeGroupVersion.WithResource("endpointslices")
	}
	return corev1.SchemeGroupVersion.WithResource("namespaces")
}

// all lists the objects of a kind, whatever the client says to others.
func all[L runtime.Object](t *testing.T, cl *cluster, o runtime.Object, kind string) L {
	t.Helper()
	gvr := resource(o)
	list, err := cl.client.Tracker().List(gvr, gvr.GroupVersion().WithKind(kind), "")
	if err != nil {
		t.Fatal(err)
	}
	return list.(L)
}

// reconcile makes the EndpointSlices what Services and pods ask for.
func (cl *cluster) reconcile(t *testing.T) {
	t.Helper()
	services := all[*corev1.ServiceList](t, cl, &corev1.Service{}, "Service")
	pods := all[*corev1.PodList](t, cl, &corev1.Pod{}, "Pod")
	have := all[*discoveryv1.EndpointSliceList](t, cl, &discoveryv1.EndpointSlice{}, "EndpointSlice")
	want := map[string]*discoveryv1.EndpointSlice{}
	for i := range services.Items {
		for _, s := range slicesOf(&services.Items[i], pods.Items) {
			want[s.Namespace+"/"+s.Name] = s
		}
	}
	for _, s := range have.Items {
		if want[s.Namespace+"/"+s.Name] == nil && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			if err := cl.client.Tracker().Delete(resource(&s), s.Namespace, s.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if err := put(cl.client.Tracker(), want[k]); err != nil {
			t.Fatal(err)
		}
	}
}

const managedBy = "endpointslice-controller.k8s.io"

// slicesOf makes a Service's EndpointSlices as the controller of Kubernetes does:
// one for each family and each set of numbers that its ports have on pods.
func slicesOf(svc *corev1.Service, pods []corev1.Pod) []*discoveryv1.EndpointSlice {
	byName := map[string]*discoveryv1.EndpointSlice{}
	for i := range pods {
		p := &pods[i]
		if len(svc.Spec.Selector) == 0 || p.Namespace != svc.Namespace || !labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
			continue
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ports := portsOn(svc, p)
		ready := p.Status.Conditions[0].Status == corev1.ConditionTrue
		leaving := p.DeletionTimestamp != nil
		counts := svc.Spec.PublishNotReadyAddresses || ready && !leaving
		for _, ip := range p.Status.PodIPs {
			family := discoveryv1.AddressTypeIPv4
			if netip.MustParseAddr(ip.IP).Is6() {
				family = discoveryv1.AddressTypeIPv6
			}
			name := svc.Name + "-" + string(family)
			for _, port := range ports {
				name += fmt.Sprintf("-%d", *port.Port)
			}
			s := byName[name]
			if s == nil {
				s = &discoveryv1.EndpointSlice{
					ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: name, Labels: map[string]string{
						discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: managedBy,
					}},
					AddressType: family, Ports: ports,
				}
				byName[name] = s
			}
			e := discoveryv1.Endpoint{
				Addresses: []string{ip.IP}, NodeName: &p.Spec.NodeName,
				Conditions: discoveryv1.EndpointConditions{Ready: &counts, Serving: &ready, Terminating: &leaving},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			}
			if p.Spec.Subdomain == svc.Name && p.Spec.Hostname != "" {
				e.Hostname = &p.Spec.Hostname
			}
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	return slices.Collect(maps.Values(byName))
}

func portsOn(svc *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, sp := range svc.Spec.Ports {
		n := sp.TargetPort.IntVal
		if sp.TargetPort.StrVal != "" {
			for _, cp := range p.Spec.Containers[0].Ports {
				if cp.Name == sp.TargetPort.StrVal {
					n = cp.ContainerPort
				}
			}
		}
		if n != 0 {
			ports = append(ports, discoveryv1.EndpointPort{Name: &sp.Name, Port: &n, Protocol: &sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return ports
}
