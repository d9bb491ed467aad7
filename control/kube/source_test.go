package kube_test

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

const svc = "SERVICE DETECT default/web:80 (web.default.svc.cluster.local:80)"

// TestWithoutSelector: endpoints that somebody wrote by hand.
func TestWithoutSelector(t *testing.T) {
	cl := start(t, sourcetest.Config(t), fake.NewClientset())
	name, port, tcp := "http", int32(9000), corev1.ProtocolTCP
	hand := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "by-hand", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"192.0.2.7"}}, {Addresses: []string{"10.1.0.1"}}, {Addresses: []string{"10.1.0.77"}}, {Addresses: []string{"::1"}}, {},
		},
	}
	names := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "names", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeFQDN,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"example.com"}}},
	}
	cl.Apply(t, sourcetest.Pod("a", "10.1.0.1"), hand, names,
		sourcetest.Service("web", "10.96.0.1", func(s *corev1.Service) { s.Spec.Selector = nil }))
	sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc+" | 10.1.0.1:9000 ns/default/sa/default DETECT | 192.0.2.7:9000 plain DETECT")
}

// TestJobs: of Jobs, those that a CronJob made are kept, and of these whose they are.
func TestJobs(t *testing.T) {
	cl := start(t, sourcetest.Config(t), fake.NewClientset())
	job := func(name string, owners ...metav1.OwnerReference) *batchv1.Job {
		return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: owners}}
	}
	cron := metav1.OwnerReference{APIVersion: "batch/v1", Kind: "CronJob", Name: "backup", Controller: new(bool)}
	of := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: name}}
		}
	}
	cl.Apply(t, job("by-hand"), job("backup-29", cron), sourcetest.Pod("a", "10.1.0.1", of("backup-29")), sourcetest.Pod("b", "10.1.0.2", of("by-hand")))
	label := func(pod string) string {
		p, ok := cl.c.Pod(catalog.Key{Namespace: "default", Name: pod})
		if !ok {
			return "no pod"
		}
		return cl.c.PodLabels(p)["job"] + " of " + cl.c.PodLabels(p)["cronjob"]
	}
	wait(t, "the CronJob", func() bool { return label("a") == "backup-29 of backup" && label("b") == "by-hand of " })
	if n := cl.source.Size(catalog.KindJob); n != 1 {
		t.Errorf("%d Jobs are kept", n)
	}
	cl.Delete(t, job("backup-29"))
	wait(t, "no Job", func() bool { return label("a") == "backup-29 of " })
}

// TestPlaces: what clients on a node get follows the node's zone, the slices'
// hints and the Service's policy.
func TestPlaces(t *testing.T) {
	cl := start(t, sourcetest.Config(t), fake.NewClientset())
	node := func(name, zone string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
	}
	on := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
	cl.Apply(t, node("n1", "a"), node("n2", "b"), sourcetest.Pod("a", "10.1.0.1", on("n1")), sourcetest.Pod("b", "10.1.0.2", on("n2")),
		sourcetest.Service("web", "10.96.0.1", func(s *corev1.Service) {
			local := corev1.ServiceInternalTrafficPolicyLocal
			s.Spec.InternalTrafficPolicy = &local
		}))
	sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc+" | 10.1.0.1:8080 ns/default/sa/default DETECT | 10.1.0.2:8080 ns/default/sa/default DETECT")
	w := cl.c.WatchFrom(netip.MustParseAddrPort("10.96.0.1:80"), "n2")
	defer w.Close()
	if e := w.Load().Endpoints; len(e) != 1 || e[0].Pod.Name != "b" || e[0].Zone != "b" {
		t.Errorf("on n2: %s", sourcetest.Show(w.Load()))
	}
}

// TestServerAway: while the API server answers nothing, everything stays; when it
// is back, what has happened meanwhile is told, what is gone with it.
func TestServerAway(t *testing.T) {
	client := fake.NewClientset()
	var away atomic.Bool
	down := error(&url.Error{Op: "Get", URL: "http://10.96.0.1/api/v1/pods?watch=true&timeoutSeconds=430", Err: errors.New("connection refused")})
	client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return away.Load(), nil, down })
	cl := start(t, sourcetest.Config(t), client)
	client.PrependWatchReactor("*", func(clienttesting.Action) (bool, watch.Interface, error) { return away.Load(), nil, down })
	cl.Apply(t, sourcetest.Pod("a", "10.1.0.1"), sourcetest.Service("web", "10.96.0.1"))
	const one = svc + " | 10.1.0.1:8080 ns/default/sa/default DETECT"
	sourcetest.Becomes(t, cl.c, "10.96.0.1:80", one)
	if err := cl.source.Problem(); err != nil {
		t.Error("a problem while there is none:", err)
	}

	away.Store(true)
	cl.hangUp()
	wait(t, "a problem", func() bool {
		p := cl.source.Problem()
		return p != nil && strings.Contains(p.Error(), "watch Pods: connection refused")
	})
	if got := sourcetest.Show(cl.c.Resolve(netip.MustParseAddrPort("10.96.0.1:80"))); got != one {
		t.Errorf("while the server is away: %s", got)
	}
	if cl.source.Connected(catalog.KindPod) || cl.source.Failures() == 0 {
		t.Error("nobody is told of it")
	}
	cl.Apply(t, sourcetest.Pod("b", "10.1.0.2"))
	cl.Delete(t, sourcetest.Pod("a", "10.1.0.1"))
	away.Store(false)
	sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc+" | 10.1.0.2:8080 ns/default/sa/default DETECT")
	sourcetest.Becomes(t, cl.c, "10.1.0.1:80", "NONE DETECT")
	wait(t, "no problem", func() bool { return cl.source.Problem() == nil })
}

// TestNotSyncedUntilAllIsRead: one kind that may not be listed, and nothing is
// said of the cluster at all.
func TestNotSyncedUntilAllIsRead(t *testing.T) {
	client := fake.NewClientset(sourcetest.Pod("a", "10.1.0.1"))
	client.PrependReactor("list", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New(`services is forbidden`)
	})
	cl := begin(t, sourcetest.Config(t), client)
	wait(t, "a problem", func() bool {
		p := cl.source.Problem()
		return p != nil && strings.Contains(p.Error(), "watch Services: services is forbidden")
	})
	wait(t, "pods", func() bool { return cl.source.Size(catalog.KindPod) == 1 })
	select {
	case <-cl.c.Synced():
		t.Error("synced without the Services")
	default:
	}
}

// TestSameAgain: an update that changes nothing that anybody reads is none.
func TestSameAgain(t *testing.T) {
	cl := start(t, sourcetest.Config(t), fake.NewClientset())
	cl.Apply(t, sourcetest.Pod("a", "10.1.0.1"))
	wait(t, "the pod", func() bool { return cl.source.Changes(catalog.KindPod) == 1 })
	cl.Apply(t, sourcetest.Pod("a", "10.1.0.1", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }))
	cl.Apply(t, sourcetest.Pod("b", "10.1.0.2"))
	wait(t, "the next pod", func() bool { return cl.source.Size(catalog.KindPod) == 2 })
	if n := cl.source.Changes(catalog.KindPod); n != 2 {
		t.Errorf("%d changes of two pods", n)
	}
}
