package scale_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/test/cluster"
)

const (
	namespace = "scale"
	account   = "app"
	port      = 8080
	writers   = 32
)

// size is how large the cluster is.
type size struct {
	services, perService, proxies, targets int
}

// objects are the cluster's: Services without selectors, so that their slices are
// ours alone to change, and pods that nobody runs.
type objects struct {
	t      *testing.T
	client kubernetes.Interface
	size
	slices []*discoveryv1.EndpointSlice // of each Service, as it was read last
}

func connect(t *testing.T, c *cluster.Cluster) *kubernetes.Clientset {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = cfg.ContentType + ",application/json"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// podIP is an address of a simulated pod; they have a range of their own.
func podIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

// clusterIP is a Service's; the API server's own range is 10.96.0.0/16.
func clusterIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(64 + i>>8), byte(i)}) }

// parallel calls f for each number below n, from as many goroutines as write.
func parallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// create makes everything.
func (o *objects) create(ctx context.Context) error {
	core := o.client.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := parallel(ctx, o.services*o.perService, o.createPod); err != nil {
		return err
	}
	o.slices = make([]*discoveryv1.EndpointSlice, o.services)
	return parallel(ctx, o.services, o.createService)
}

func podName(i int) string     { return fmt.Sprintf("p%d", i) }
func serviceName(i int) string { return fmt.Sprintf("s%d", i) }

func (o *objects) createPod(ctx context.Context, i int) error {
	no, pods := int64(0), o.client.CoreV1().Pods(namespace)
	restart := corev1.ContainerRestartPolicyAlways
	p, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: podName(i), Annotations: map[string]string{annotation.Injected: "v1"},
			Labels: map[string]string{"app": serviceName(i / o.perService), "pod-template-hash": "5d8f6c9c7b", "version": "v1"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: serviceName(i/o.perService) + "-5d8f6c9c7b",
				UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i/o.perService)), Controller: new(bool),
			}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, NodeName: fmt.Sprintf("simulated-%d", i%100), TerminationGracePeriodSeconds: &no,
			InitContainers: []corev1.Container{{Name: annotation.SidecarContainer, Image: "mesh-proxy:v1", RestartPolicy: &restart}},
			Containers:     []corev1.Container{{Name: "app", Image: "app:v1", Ports: []corev1.ContainerPort{{ContainerPort: port}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ip := podIP(i).String()
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	_, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	return err
}

func (o *objects) createService(ctx context.Context, i int) error {
	_, err := o.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(i)},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP(i).String(), Ports: []corev1.ServicePort{{Port: port}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	p, ready, number := corev1.ProtocolTCP, true, int32(port)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName(i), Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Protocol: &p, Port: &number}},
	}
	for k := i * o.perService; k < (i+1)*o.perService; k++ {
		node := fmt.Sprintf("simulated-%d", k%100)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{podIP(k).String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: &node,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: podName(k)},
		})
	}
	o.slices[i], err = o.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, s, metav1.CreateOptions{})
	return err
}

// change takes the first endpoint of a Service away, or gives it back. It returns
// when the API server was asked and when it had answered.
func (o *objects) change(ctx context.Context, i int) (asked, answered time.Time, err error) {
	s := o.slices[i].DeepCopy()
	ready := !*s.Endpoints[0].Conditions.Ready
	s.Endpoints[0].Conditions.Ready = &ready
	asked = time.Now()
	s, err = o.client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err == nil {
		o.slices[i] = s
	}
	return asked, time.Now(), err
}
