// Package sourcetest is what every source of the catalog must do, whichever it
// is: the same objects make the same targets. It owns the cases and what is
// expected of them, and refuses to know how objects reach a source. Only tests
// import it.
package sourcetest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Cluster is a running source and the means to change what it sees.
type Cluster interface {
	// Apply makes objects so, all of them: Namespaces, Services and Pods.
	Apply(t *testing.T, objects ...runtime.Object)
	// Delete removes objects.
	Delete(t *testing.T, objects ...runtime.Object)
	Catalog() *catalog.Catalog
}

// Config is what the suite wants of the catalog.
func Config(t *testing.T) catalog.Config {
	t.Helper()
	return catalog.Config{Networks: []netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:1::/64"),
	}}
}

// Pod makes a running, ready, meshed pod with label app=web and port http 8080.
func Pod(name, ips string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{annotation.Injected: "test"}, CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0)),
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default", NodeName: "n1",
			Containers: []corev1.Container{{Name: "app", Image: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}},
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for ip := range strings.SplitSeq(ips, ",") {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	p.Status.PodIP = p.Status.PodIPs[0].IP
	for _, f := range change {
		f(p)
	}
	return p
}

// Service makes a Service of app=web, port 80 to 8080; without addresses it is
// headless.
func Service(name, ips string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}},
		},
	}
	if ips == "" {
		ips = corev1.ClusterIPNone
	}
	s.Spec.ClusterIPs = strings.Split(ips, ",")
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	for _, ip := range s.Spec.ClusterIPs {
		f := corev1.IPv4Protocol
		if strings.Contains(ip, ":") {
			f = corev1.IPv6Protocol
		}
		if ip != corev1.ClusterIPNone {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, f)
		}
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// Namespace makes a namespace with one annotation, or none.
func Namespace(name, key, value string) *corev1.Namespace {
	n := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
	if key != "" {
		n.Annotations = map[string]string{key: value}
	}
	return n
}

// NotReady pods fail their readiness probe.
func NotReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

// Unmeshed pods have no sidecar.
func Unmeshed(p *corev1.Pod) { delete(p.Annotations, annotation.Injected) }

func ended(p *corev1.Pod) {
	p.Status.Phase = corev1.PodSucceeded
	NotReady(p)
}

func leaving(p *corev1.Pod) {
	at := metav1.NewTime(time.Unix(1800000000, 0))
	grace := int64(30)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	p.Finalizers = []string{"tunmesh.io/test"} // an API server takes no such pod without one
}

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }

func portAt(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
}

func app(protocol string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].AppProtocol = &protocol }
}

func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations = map[string]string{key: value} }
}

func named(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }

// Show prints a target in one line.
func Show(t *catalog.Target) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", t.Kind, t.Protocol)
	if t.Ref.Kind != "" {
		fmt.Fprintf(&b, " %s:%d", t.Ref.Key, t.Port)
	}
	if t.Authority != "" {
		fmt.Fprintf(&b, " (%s)", t.Authority)
	}
	for _, e := range t.Endpoints {
		id := e.Identity.String()
		if id == "" {
			id = "plain"
		}
		fmt.Fprintf(&b, " | %s %s %s", e.Addr, strings.TrimPrefix(id, "spiffe://cluster.local/"), e.Protocol)
	}
	return b.String()
}

// Becomes waits until an address is as wanted.
func Becomes(t *testing.T, c *catalog.Catalog, addr, want string) {
	t.Helper()
	a := netip.MustParseAddrPort(addr)
	eventually(t, c, want, func() string { return Show(c.Resolve(a)) })
}

// eventually waits until what is seen is as wanted.
func eventually(t *testing.T, c *catalog.Catalog, want string, see func() string) {
	t.Helper()
	seen := c.Observe()
	defer seen.Close()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for {
		got := see()
		if got == want {
			return
		}
		select {
		case <-seen.Changed():
		case <-late.C:
			t.Fatalf("is\n%s\nwant\n%s", got, want)
		}
	}
}

// Run runs the suite. start makes a source that sees an empty cluster.
func Run(t *testing.T, start func(*testing.T, catalog.Config) Cluster) {
	t.Run("resolve", func(t *testing.T) { resolve(t, start) })
	t.Run("follow", func(t *testing.T) { follow(t, start(t, Config(t))) })
	t.Run("names", func(t *testing.T) { names(t, start(t, Config(t))) })
}

// resolve: the cases share one cluster, which is emptied between them.
func resolve(t *testing.T, start func(*testing.T, catalog.Config) Cluster) {
	const svc = "SERVICE DETECT default/web:80 (web.default.svc.cluster.local:80)"
	const web = " ns/default/sa/default DETECT"
	c := start(t, Config(t))
	type objects = []runtime.Object
	for _, tc := range []struct {
		name    string
		objects objects
		addr    string
		want    string
	}{
		{"cluster IP", objects{Pod("a", "10.1.0.1"), Service("web", "10.96.0.1")}, "10.96.0.1:80", svc + " | 10.1.0.1:8080" + web},
		{"sorted, ready ones only", objects{Pod("b", "10.1.0.2"), Pod("a", "10.1.0.1"), Pod("c", "10.1.0.3", NotReady), Service("web", "10.96.0.1")}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080" + web + " | 10.1.0.2:8080" + web},
		{"a service without endpoints is a service", objects{Service("web", "10.96.0.1")}, "10.96.0.1:80", svc},
		{"publish not ready", objects{Pod("a", "10.1.0.1", NotReady), Service("web", "10.96.0.1", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true })}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080" + web},
		{"a pod that leaves is no endpoint", objects{Pod("a", "10.1.0.1", leaving), Pod("b", "10.1.0.2"), Service("web", "10.96.0.1")}, "10.96.0.1:80", svc + " | 10.1.0.2:8080" + web},
		{"a pod that has ended is no endpoint", objects{Pod("a", "10.1.0.1", ended), Pod("b", "10.1.0.2"), Service("web", "10.96.0.1")}, "10.96.0.1:80", svc + " | 10.1.0.2:8080" + web},
		{"unmeshed is said", objects{Pod("a", "10.1.0.1", Unmeshed), Service("web", "10.96.0.1")}, "10.96.0.1:80", svc + " | 10.1.0.1:8080 plain DETECT"},
		{"a port that the service lacks", objects{Pod("a", "10.1.0.1"), Service("web", "10.96.0.1")}, "10.96.0.1:81", "NONE DETECT"},
		{"a UDP port is not a TCP port", objects{Service("web", "10.96.0.1", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })}, "10.96.0.1:80", "NONE DETECT"},
		{"named target port, by pod", objects{Pod("a", "10.1.0.1"), Pod("b", "10.1.0.2", portAt(9090)), Service("web", "10.96.0.1", named)}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080" + web + " | 10.1.0.2:9090" + web},
		{"dual stack keeps families apart", objects{Pod("a", "10.1.0.1,fd00:1::1"), Pod("b", "10.1.0.2"), Service("web", "10.96.0.1,fd00:1::9")}, "[fd00:1::9]:80",
			svc + " | [fd00:1::1]:8080" + web},
		{"the other family", objects{Pod("a", "10.1.0.1,fd00:1::1"), Pod("b", "10.1.0.2"), Service("web", "10.96.0.1,fd00:1::9")}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080" + web + " | 10.1.0.2:8080" + web},
		{"appProtocol", objects{Pod("a", "10.1.0.1"), Service("web", "10.96.0.1", app("kubernetes.io/h2c"))}, "10.96.0.1:80",
			strings.Replace(svc, "DETECT", "HTTP2", 1) + " | 10.1.0.1:8080" + web},
		{"opaque ports of a Service", objects{Pod("a", "10.1.0.1"), Service("web", "10.96.0.1", annotated(annotation.OpaquePorts, "80"))}, "10.96.0.1:80",
			strings.Replace(svc, "DETECT", "OPAQUE", 1) + " | 10.1.0.1:8080" + web},
		{"opaque ports by Linkerd's name", objects{Pod("a", "10.1.0.1"), Service("web", "10.96.0.1", annotated("config.linkerd.io/opaque-ports", "80"))}, "10.96.0.1:80",
			strings.Replace(svc, "DETECT", "OPAQUE", 1) + " | 10.1.0.1:8080" + web},
		{"opaque ports of a namespace", objects{Namespace("default", annotation.OpaquePorts, "80,8080"), Pod("a", "10.1.0.1"), Service("web", "10.96.0.1")}, "10.96.0.1:80",
			strings.Replace(svc, "DETECT", "OPAQUE", 1) + " | 10.1.0.1:8080 ns/default/sa/default OPAQUE"},
		{"pod by its address, any port, ready or not", objects{Pod("a", "10.1.0.1", NotReady)}, "10.1.0.1:9999", "POD DETECT default/a:9999 | 10.1.0.1:9999" + web},
		{"pod of a headless service", objects{Pod("a", "10.1.0.1"), Service("db", "")}, "10.1.0.1:8080",
			"POD DETECT default/a:8080 (db.default.svc.cluster.local:80) | 10.1.0.1:8080" + web},
		{"an address of the mesh that is nobody's", objects{Pod("a", "10.1.0.1")}, "10.1.7.7:80", "NONE DETECT"},
		{"an address elsewhere", objects{Pod("a", "10.1.0.1")}, "192.0.2.1:443", "EXTERNAL DETECT | 192.0.2.1:443 plain DETECT"},
		{"a service leads to a pod on the host's network, plain", objects{Pod("a", "192.0.2.5", hostNetwork), Service("web", "10.96.0.1")}, "10.96.0.1:80",
			svc + " | 192.0.2.5:8080 plain DETECT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects := tc.objects
			if _, ok := objects[0].(*corev1.Namespace); !ok {
				objects = slices.Insert(slices.Clone(objects), 0, runtime.Object(Namespace("default", "", "")))
			}
			c.Apply(t, objects...)
			Becomes(t, c.Catalog(), tc.addr, tc.want)
			c.Delete(t, objects...)
			Becomes(t, c.Catalog(), "10.96.0.1:80", "NONE DETECT")
			Becomes(t, c.Catalog(), "10.1.0.1:80", "NONE DETECT")
			Becomes(t, c.Catalog(), "192.0.2.5:80", "EXTERNAL DETECT | 192.0.2.5:80 plain DETECT")
		})
	}
}

// follow: changes reach a watch, one after the other.
func follow(t *testing.T, c Cluster) {
	const svc = "SERVICE DETECT default/web:80 (web.default.svc.cluster.local:80)"
	const web = " ns/default/sa/default DETECT"
	c.Apply(t, Namespace("default", "", ""), Service("web", "10.96.0.1"))
	Becomes(t, c.Catalog(), "10.96.0.1:80", svc)
	w := c.Catalog().Watch(netip.MustParseAddrPort("10.96.0.1:80"))
	defer w.Close()
	sees := func(want string) {
		t.Helper()
		eventually(t, c.Catalog(), want, func() string { return Show(w.Load()) })
	}
	c.Apply(t, Pod("a", "10.1.0.1", NotReady))
	Becomes(t, c.Catalog(), "10.1.0.1:1", "POD DETECT default/a:1 | 10.1.0.1:1"+web)
	sees(svc)
	c.Apply(t, Pod("a", "10.1.0.1"))
	sees(svc + " | 10.1.0.1:8080" + web)
	c.Apply(t, Pod("b", "10.1.0.2"), Pod("c", "10.1.0.3"))
	sees(svc + " | 10.1.0.1:8080" + web + " | 10.1.0.2:8080" + web + " | 10.1.0.3:8080" + web)
	c.Delete(t, Pod("a", "10.1.0.1"), Pod("b", "10.1.0.2"))
	sees(svc + " | 10.1.0.3:8080" + web)
	c.Apply(t, Service("web", "10.96.0.1", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(9) }))
	sees(svc + " | 10.1.0.3:9" + web)
	c.Apply(t, Namespace("default", annotation.OpaquePorts, "9"))
	sees(svc + " | 10.1.0.3:9 ns/default/sa/default OPAQUE")
	// An address goes to another pod: it is the younger one's at once.
	c.Apply(t, Pod("d", "10.1.0.3", func(p *corev1.Pod) {
		p.CreationTimestamp = metav1.NewTime(time.Unix(1700000001, 0))
		p.Spec.ServiceAccountName, p.Labels = "other", map[string]string{"app": "other"}
	}))
	sees(svc)
	Becomes(t, c.Catalog(), "10.1.0.3:1", "POD DETECT default/d:1 | 10.1.0.3:1 ns/default/sa/other DETECT")
	c.Delete(t, Service("web", "10.96.0.1"))
	sees("NONE DETECT")
}

// names: what the cluster's DNS says of StatefulSets' pods and ExternalName.
func names(t *testing.T, c Cluster) {
	stateful := func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = p.Name, "db" }
	c.Apply(t, Namespace("default", "", ""),
		Service("db", ""), Pod("db-0", "10.1.0.1", stateful), Pod("db-1", "10.1.0.2", stateful), Pod("db-2", "10.1.0.3", stateful, NotReady),
		Service("out", "", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
		}))
	for name, want := range map[string]string{
		"db.default.svc.cluster.local":      "[10.1.0.1 10.1.0.2]",
		"db-1.db.default.svc.cluster.local": "[10.1.0.2]",
		"db-2.db.default.svc.cluster.local": "[]",
		"out.default.svc.cluster.local":     "example.com",
	} {
		eventually(t, c.Catalog(), want, func() string {
			n := c.Catalog().Lookup(name)
			if n.CNAME != "" {
				return n.CNAME
			}
			return fmt.Sprint(n.Addrs)
		})
	}
	// Who follows the name arrives at the pod's address, under the Service's name.
	Becomes(t, c.Catalog(), "10.1.0.2:8080", "POD DETECT default/db-1:8080 (db.default.svc.cluster.local:80) | 10.1.0.2:8080 ns/default/sa/default DETECT")
}
