package catalog_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

func newCatalog(t *testing.T, changes ...catalog.Change) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(catalog.Config{Networks: []netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:1::/64"),
	}, Hosts: []netip.Addr{netip.MustParseAddr("10.1.255.1")}})
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(changes...)
	return c
}

func key(s string) catalog.Key {
	ns, name, ok := strings.Cut(s, "/")
	if !ok {
		return catalog.Key{Namespace: "default", Name: s}
	}
	return catalog.Key{Namespace: ns, Name: name}
}

func pod(name, ip string, change ...func(*catalog.Pod)) catalog.Change {
	p := &catalog.Pod{
		Key: key(name), UID: "uid-" + name, Labels: map[string]string{"app": "web"}, ServiceAccount: "web",
		Owner: catalog.Ref{Kind: "Deployment", Key: key("web")},
		Phase: "Running", Ready: true, Meshed: true,
		Ports: []catalog.ContainerPort{{Name: "http", Port: 8080, Transport: "TCP"}},
	}
	for s := range strings.SplitSeq(ip, ",") {
		if s != "" {
			p.IPs = append(p.IPs, netip.MustParseAddr(s))
		}
	}
	for _, f := range change {
		f(p)
	}
	return catalog.Put(p)
}

func service(name, ip string, change ...func(*catalog.Service)) catalog.Change {
	s := &catalog.Service{
		Key: key(name), Selector: map[string]string{"app": "web"},
		Ports: []catalog.ServicePort{{Name: "http", Port: 80, Transport: "TCP", TargetPort: 8080}},
	}
	for a := range strings.SplitSeq(ip, ",") {
		if a != "" {
			s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(a))
		}
	}
	for _, f := range change {
		f(s)
	}
	return catalog.Put(s)
}

func headless(s *catalog.Service) { s.Headless = true }
func notReady(p *catalog.Pod)     { p.Ready = false }
func unmeshed(p *catalog.Pod)     { p.Meshed = false }

func opaque(t *testing.T, ports string) *catalog.PortSet {
	t.Helper()
	s, err := catalog.ParsePortSet(ports)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestResolve(t *testing.T) {
	const svc = "SERVICE DETECT default/web:80 (web.default.svc.cluster.local:80)"
	for _, tc := range []struct {
		name    string
		changes []catalog.Change
		addr    string
		want    string
	}{
		{"cluster IP", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1")}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080 ns/default/sa/web DETECT"},
		{"cluster IP written as IPv4 in IPv6", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1")}, "[::ffff:10.96.0.1]:80",
			svc + " | 10.1.0.1:8080 ns/default/sa/web DETECT"},
		{"sorted, ready ones only", []catalog.Change{pod("b", "10.1.0.2"), pod("a", "10.1.0.1"), pod("c", "10.1.0.3", notReady), service("web", "10.96.0.1")}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080 ns/default/sa/web DETECT | 10.1.0.2:8080 ns/default/sa/web DETECT"},
		{"a service without endpoints is a service", []catalog.Change{service("web", "10.96.0.1")}, "10.96.0.1:80", svc},
		{"publish not ready", []catalog.Change{pod("a", "10.1.0.1", notReady), service("web", "10.96.0.1", func(s *catalog.Service) { s.PublishNotReady = true })}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080 ns/default/sa/web DETECT"},
		{"terminating and finished pods are no endpoints", []catalog.Change{
			pod("a", "10.1.0.1", func(p *catalog.Pod) { p.Terminating = true }),
			pod("b", "10.1.0.2", func(p *catalog.Pod) { p.Phase = "Succeeded" }), service("web", "10.96.0.1")}, "10.96.0.1:80", svc},
		{"unmeshed is said", []catalog.Change{pod("a", "10.1.0.1", unmeshed), service("web", "10.96.0.1")}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080 plain DETECT"},
		{"another namespace's pods are not selected", []catalog.Change{pod("x/a", "10.1.0.1"), service("web", "10.96.0.1")}, "10.96.0.1:80", svc},
		{"no selector selects nothing", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1", func(s *catalog.Service) { s.Selector = nil })}, "10.96.0.1:80", svc},
		{"a port that the service lacks", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1")}, "10.96.0.1:81", "NONE DETECT"},
		{"a UDP port is not a TCP port", []catalog.Change{service("web", "10.96.0.1", func(s *catalog.Service) { s.Ports[0].Transport = "UDP" })}, "10.96.0.1:80", "NONE DETECT"},
		{"named target port, by pod", []catalog.Change{
			pod("a", "10.1.0.1"), pod("b", "10.1.0.2", func(p *catalog.Pod) { p.Ports[0].Port = 9090 }),
			pod("c", "10.1.0.3", func(p *catalog.Pod) { p.Ports = nil }),
			service("web", "10.96.0.1", func(s *catalog.Service) { s.Ports[0].TargetPort, s.Ports[0].TargetName = 0, "http" })}, "10.96.0.1:80",
			svc + " | 10.1.0.1:8080 ns/default/sa/web DETECT | 10.1.0.2:9090 ns/default/sa/web DETECT"},
		{"dual stack keeps families apart", []catalog.Change{pod("a", "10.1.0.1,fd00:1::1"), pod("b", "10.1.0.2"), service("web", "10.96.0.1,fd00:1::9")}, "[fd00:1::9]:80",
			svc + " | [fd00:1::1]:8080 ns/default/sa/web DETECT"},
		{"pod by its address, any port, ready or not", []catalog.Change{pod("a", "10.1.0.1", notReady)}, "10.1.0.1:9999",
			"POD DETECT default/a:9999 | 10.1.0.1:9999 ns/default/sa/web DETECT"},
		{"pod of a headless service", []catalog.Change{pod("a", "10.1.0.1"), service("db", "", headless)}, "10.1.0.1:8080",
			"POD DETECT default/a:8080 (db.default.svc.cluster.local:80) | 10.1.0.1:8080 ns/default/sa/web DETECT"},
		{"another port of that pod", []catalog.Change{pod("a", "10.1.0.1"), service("db", "", headless)}, "10.1.0.1:1",
			"POD DETECT default/a:1 | 10.1.0.1:1 ns/default/sa/web DETECT"},
		{"a finished pod's address is nobody's", []catalog.Change{pod("a", "10.1.0.1", func(p *catalog.Pod) { p.Phase = "Failed" })}, "10.1.0.1:80", "NONE DETECT"},
		{"an address of the mesh that is nobody's", nil, "10.1.7.7:80", "NONE DETECT"},
		{"a node's own address among the mesh's", nil, "10.1.255.1:53", "EXTERNAL DETECT | 10.1.255.1:53 plain DETECT"},
		{"a node's own address, known by a pod", []catalog.Change{pod("a", "10.1.0.9", func(p *catalog.Pod) { p.HostNetwork = true })}, "10.1.0.9:1", "EXTERNAL DETECT | 10.1.0.9:1 plain DETECT"},
		{"an address elsewhere", nil, "192.0.2.1:443", "EXTERNAL DETECT | 192.0.2.1:443 plain DETECT"},
		{"an external port where servers speak first", nil, "192.0.2.1:25", "EXTERNAL OPAQUE | 192.0.2.1:25 plain OPAQUE"},
		{"a pod on the host's network is not behind the host's address", []catalog.Change{
			pod("a", "192.0.2.5", func(p *catalog.Pod) { p.HostNetwork = true })}, "192.0.2.5:80", "EXTERNAL DETECT | 192.0.2.5:80 plain DETECT"},
		{"but a service leads to it, plain", []catalog.Change{
			pod("a", "192.0.2.5", func(p *catalog.Pod) { p.HostNetwork = true }), service("web", "10.96.0.1")}, "10.96.0.1:80",
			svc + " | 192.0.2.5:8080 plain DETECT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCatalog(t, tc.changes...)
			if got := sourcetest.Show(c.Resolve(netip.MustParseAddrPort(tc.addr))); got != tc.want {
				t.Errorf("%s is\n%s\nwant\n%s", tc.addr, got, tc.want)
			}
		})
	}
}

func TestProtocolHints(t *testing.T) {
	port := func(n uint16, app string) func(*catalog.Service) {
		return func(s *catalog.Service) { s.Ports[0].Port, s.Ports[0].AppProtocol = n, app }
	}
	for _, tc := range []struct {
		name     string
		port     uint16
		svc      []func(*catalog.Service)
		pod      []func(*catalog.Pod)
		space    *catalog.Namespace
		want     catalog.Protocol
		endpoint catalog.Protocol
	}{
		{name: "nothing said", port: 80},
		{name: "appProtocol http", port: 80, svc: []func(*catalog.Service){port(80, "http")}, want: catalog.HTTP1},
		{name: "appProtocol h2c", port: 80, svc: []func(*catalog.Service){port(80, "kubernetes.io/h2c")}, want: catalog.HTTP2},
		{name: "appProtocol grpc", port: 80, svc: []func(*catalog.Service){port(80, "grpc")}, want: catalog.HTTP2},
		{name: "appProtocol https", port: 80, svc: []func(*catalog.Service){port(80, "https")}, want: catalog.TLS},
		{name: "appProtocol tcp", port: 80, svc: []func(*catalog.Service){port(80, "tcp")}, want: catalog.Opaque},
		{name: "appProtocol by Linkerd's name", port: 80, svc: []func(*catalog.Service){port(80, "linkerd.io/opaque")}, want: catalog.Opaque},
		{name: "appProtocol of somebody's own", port: 80, svc: []func(*catalog.Service){port(80, "example.com/x")}},
		{name: "a default opaque port", port: 3306, svc: []func(*catalog.Service){port(3306, "")}, want: catalog.Opaque},
		{name: "appProtocol before the defaults", port: 3306, svc: []func(*catalog.Service){port(3306, "http")}, want: catalog.HTTP1},
		{name: "annotation before appProtocol", port: 80, svc: []func(*catalog.Service){port(80, "http"), func(s *catalog.Service) { s.Opaque = opaque(t, "80") }}, want: catalog.Opaque},
		{name: "an empty annotation voids the defaults", port: 3306, svc: []func(*catalog.Service){port(3306, ""), func(s *catalog.Service) { s.Opaque = opaque(t, "") }}},
		{name: "the namespace's annotation", port: 80, space: &catalog.Namespace{Name: "default", Opaque: opaque(t, "70-90")}, want: catalog.Opaque},
		{name: "the service's before the namespace's", port: 80, space: &catalog.Namespace{Name: "default", Opaque: opaque(t, "80")}, svc: []func(*catalog.Service){func(s *catalog.Service) { s.Opaque = opaque(t, "1") }}},
		{name: "the pod's is about its own port", port: 80, pod: []func(*catalog.Pod){func(p *catalog.Pod) { p.Opaque = opaque(t, "8080") }}, endpoint: catalog.Opaque},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCatalog(t, pod("a", "10.1.0.1", tc.pod...), service("web", "10.96.0.1", tc.svc...))
			if tc.space != nil {
				c.Apply(catalog.Put(tc.space))
			}
			got := c.Resolve(netip.AddrPortFrom(netip.MustParseAddr("10.96.0.1"), tc.port))
			if got.Kind != catalog.TargetService || got.Protocol != tc.want || got.Endpoints[0].Protocol != tc.endpoint {
				t.Errorf("got %s, want protocol %s and endpoint %s", sourcetest.Show(got), tc.want, tc.endpoint)
			}
		})
	}
}

func TestLabels(t *testing.T) {
	c := newCatalog(t, pod("x/a", "10.1.0.1", func(p *catalog.Pod) { p.Owner.Kind = "StatefulSet" }), service("x/web", "10.96.0.1"))
	got := c.Resolve(netip.MustParseAddrPort("10.96.0.1:80"))
	if diff := cmp.Diff(map[string]string{"service": "web", "namespace": "x"}, got.Labels); diff != "" {
		t.Error("target:", diff)
	}
	want := map[string]string{"namespace": "x", "pod": "a", "serviceaccount": "web", "statefulset": "web"}
	if diff := cmp.Diff(want, got.Endpoints[0].Labels); diff != "" {
		t.Error("endpoint:", diff)
	}
	// The revisions of a Deployment are told apart by those who call them.
	c.Apply(pod("x/a", "10.1.0.1", func(p *catalog.Pod) {
		p.Owner.Kind = "StatefulSet"
		p.Labels = map[string]string{"app": "web", "pod-template-hash": "5d8c"}
	}))
	want["pod_template_hash"] = "5d8c"
	if diff := cmp.Diff(want, c.Resolve(netip.MustParseAddrPort("10.96.0.1:80")).Endpoints[0].Labels); diff != "" {
		t.Error("endpoint of a Deployment:", diff)
	}
}

// TestCronJobs: the pods of a Job that a CronJob made have the labels of both, whichever
// is heard of first; those who watch are told.
func TestCronJobs(t *testing.T) {
	ofJob := func(p *catalog.Pod) { p.Owner = catalog.Ref{Kind: catalog.KindJob, Key: key("x/backup-29")} }
	job := catalog.Put(&catalog.Job{Key: key("x/backup-29"), CronJob: "backup"})
	other := catalog.Put(&catalog.Job{Key: key("y/backup-29"), CronJob: "other"})
	c := newCatalog(t, pod("x/a", "10.1.0.1", ofJob), pod("x/b", "10.1.0.2"), service("x/web", "10.96.0.1"), other)
	w := c.Watch(netip.MustParseAddrPort("10.96.0.1:80"))
	defer w.Close()
	alone, _ := c.Pod(key("x/b"))
	is := func(want string) {
		t.Helper()
		p, _ := c.Pod(key("x/a"))
		k, ok := c.CronJob(p)
		if ok != (want != "") || ok && k != key("x/"+want) {
			t.Errorf("CronJob %v, %v; want %q", k, ok, want)
		}
		for what, l := range map[string]map[string]string{"its own": c.PodLabels(p), "its callers'": w.Load().Endpoints[0].Labels} {
			if l["cronjob"] != want || l["job"] != "backup-29" {
				t.Errorf("%s labels: %v, want CronJob %q", what, l, want)
			}
		}
		if k, ok := c.CronJob(alone); ok || w.Load().Endpoints[1].Labels["cronjob"] != "" {
			t.Errorf("another pod is of CronJob %v", k)
		}
	}
	is("")
	c.Apply(job)
	select {
	case <-w.Changed():
	default:
		t.Error("nobody is told of the Job")
	}
	is("backup")
	c.Apply(pod("x/a", "10.1.0.1", ofJob)) // once more, after its Job
	is("backup")
	c.Apply(catalog.Delete(job.Ref))
	is("")
}

// TestAddressMovesOn: an address goes from a pod that has ended, or is about to,
// to a new one, before the old one's object is gone; each order of events.
func TestAddressMovesOn(t *testing.T) {
	done := pod("old", "10.1.0.1", func(p *catalog.Pod) { p.Phase = "Succeeded"; p.Created = 1 })
	dying := pod("old", "10.1.0.1", func(p *catalog.Pod) { p.Terminating = true; p.Created = 3 })
	running := pod("old", "10.1.0.1", func(p *catalog.Pod) { p.Created = 1 })
	fresh := pod("new", "10.1.0.1", func(p *catalog.Pod) { p.Created = 2 })
	for name, order := range map[string][]catalog.Change{
		"ended, then new": {done, fresh}, "new, then ended": {fresh, done},
		"dying, then new": {dying, fresh}, "new, then dying": {fresh, dying},
		"not heard of its end": {running, fresh}, "heard of late": {fresh, running},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCatalog(t, service("web", "10.96.0.1"))
			direct, through := watch(t, c, "10.1.0.1:8080"), watch(t, c, "10.96.0.1:80")
			for _, ch := range order {
				c.Apply(ch)
			}
			if got := direct.Load().Ref.Name; got != "new" {
				t.Errorf("by address: %q", got)
			}
			if e := through.Load().Endpoints; len(e) != 1 || e[0].Pod.Name != "new" {
				t.Errorf("through the service: %s", sourcetest.Show(through.Load()))
			}
			c.Apply(catalog.Delete(order[0].Ref), catalog.Delete(order[1].Ref))
			if got := direct.Load().Kind; got != catalog.TargetNone {
				t.Errorf("after both are gone: %s", got)
			}
		})
	}
}

func watch(t *testing.T, c *catalog.Catalog, addr string) *catalog.Watch {
	t.Helper()
	w := c.Watch(netip.MustParseAddrPort(addr))
	t.Cleanup(w.Close)
	return w
}

func nudged(w interface{ Changed() <-chan struct{} }) bool {
	select {
	case <-w.Changed():
		return true
	default:
		return false
	}
}

func TestWatchersHearOfTheirTargetAlone(t *testing.T) {
	c := newCatalog(t, pod("a", "10.1.0.1"), service("web", "10.96.0.1"), service("other", "10.96.0.2", func(s *catalog.Service) { s.Selector = map[string]string{"app": "other"} }))
	web, other := watch(t, c, "10.96.0.1:80"), watch(t, c, "10.96.0.2:80")
	first := web.Load()
	c.Apply(pod("b", "10.1.0.2"))
	c.Apply(pod("c", "10.1.0.3"))
	if !nudged(web) || nudged(web) {
		t.Error("two changes that nobody looked at should make one nudge")
	}
	if got := web.Load(); len(got.Endpoints) != 3 || got.Version != first.Version+2 {
		t.Errorf("latest snapshot: %s, version %d after %d", sourcetest.Show(got), got.Version, first.Version)
	}
	if len(first.Endpoints) != 1 {
		t.Error("an old snapshot changed")
	}
	if nudged(other) {
		t.Error("a target that is as it was was nudged")
	}
	c.Apply(pod("b", "10.1.0.2")) // the same again
	if nudged(web) {
		t.Error("a change that changes nothing was told of")
	}
	c.Apply(catalog.Delete(catalog.Ref{Kind: catalog.KindService, Key: key("web")}))
	if !nudged(web) || web.Load().Kind != catalog.TargetNone {
		t.Errorf("service gone: %s", sourcetest.Show(web.Load()))
	}
	c.Apply(service("web", "10.96.0.9"), service("moved", "10.96.0.1"))
	if !nudged(web) || web.Load().Ref.Name != "moved" || len(web.Load().Endpoints) != 3 {
		t.Errorf("address of another service: %s", sourcetest.Show(web.Load()))
	}
	web.Close()
	web.Close()
	c.Apply(catalog.Delete(catalog.Ref{Kind: catalog.KindPod, Key: key("a")}))
	if nudged(web) {
		t.Error("a closed watch was nudged")
	}
}

func TestPodWatch(t *testing.T) {
	c := newCatalog(t)
	w := c.WatchPod(key("a"))
	defer w.Close()
	if p, n := w.Load(); p != nil || n != nil {
		t.Error("something where nothing is")
	}
	c.Apply(pod("b", "10.1.0.2"))
	if nudged(w) {
		t.Error("nudged by another pod")
	}
	for what, ch := range map[string]catalog.Change{
		"the pod": pod("a", "10.1.0.1"), "its namespace": catalog.Put(&catalog.Namespace{Name: "default"}),
	} {
		c.Apply(ch)
		if !nudged(w) {
			t.Error("not nudged by", what)
		}
	}
	if p, n := w.Load(); p == nil || n == nil {
		t.Error("nothing where something is")
	}
}

func TestSyncIsOnce(t *testing.T) {
	c := newCatalog(t)
	select {
	case <-c.Synced():
		t.Fatal("synced at the start")
	default:
	}
	c.Sync()
	c.Sync()
	<-c.Synced()
}

// TestIncrementalIsWhole applies random changes to a catalog whose targets are
// watched, and compares each snapshot with what a new catalog that has only the
// end state makes of it.
func TestIncrementalIsWhole(t *testing.T) {
	incremental(t, func() *catalog.Catalog { return newCatalog(t) }, false)
}

func incremental(t *testing.T, empty func() *catalog.Catalog, sliced bool) {
	t.Helper()
	var addrs []netip.AddrPort
	for i := range 4 {
		for _, port := range []uint16{80, 8080, 3306} {
			addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), port),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), port))
		}
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := empty()
		state := map[catalog.Ref]catalog.Object{}
		watches := map[netip.AddrPort]*catalog.Watch{}
		for range 60 {
			var batch []catalog.Change
			for range 1 + r.IntN(3) {
				ch := randomChange(t, r)
				if sliced && r.IntN(2) == 0 {
					ch = randomSlice(r)
				}
				batch = append(batch, ch)
				if delete(state, ch.Ref); ch.Object != nil {
					state[ch.Ref] = ch.Object
				}
			}
			c.Apply(batch...)
			if a := addrs[r.IntN(len(addrs))]; watches[a] == nil {
				watches[a] = c.Watch(a)
			} else if r.IntN(4) == 0 {
				watches[a].Close()
				delete(watches, a)
			}
			whole := empty()
			whole.Apply(catalog.Diff(nil, state)...)
			for a, w := range watches {
				if diff := cmp.Diff(whole.Resolve(a), w.Load(), cmpopts.IgnoreFields(catalog.Target{}, "Version"), cmpopts.EquateEmpty(), cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
					t.Fatalf("seed %d: %s: incremental differs from whole (-whole +incremental):\n%s", seed, a, diff)
				}
			}
		}
	}
}

func randomSlice(r *rand.Rand) catalog.Change {
	name := fmt.Sprintf("slice%d", r.IntN(5))
	if r.IntN(5) == 0 {
		return catalog.Delete(catalog.Ref{Kind: catalog.KindEndpointSlice, Key: key(name)})
	}
	var endpoints []string
	for range r.IntN(4) {
		e := fmt.Sprintf("10.1.0.%d", r.IntN(4))
		if r.IntN(4) > 0 {
			e += fmt.Sprintf("=p%d", r.IntN(6))
		}
		endpoints = append(endpoints, e+[]string{"", " notready", " zone:a", " for:a"}[r.IntN(4)])
	}
	ch := slice(name, endpoints...)
	ch.Object.(*catalog.EndpointSlice).Service = fmt.Sprintf("s%d", r.IntN(4))
	return ch
}

func randomChange(t *testing.T, r *rand.Rand) catalog.Change {
	apps := []string{"web", "db"}
	switch r.IntN(8) {
	case 0:
		var set *catalog.PortSet
		if r.IntN(2) == 0 {
			set = opaque(t, "80,8080")
		}
		return catalog.Put(&catalog.Namespace{Name: "default", Opaque: set})
	case 1:
		return catalog.Delete(catalog.Ref{Kind: catalog.KindPod, Key: key(fmt.Sprintf("p%d", r.IntN(6)))})
	case 2:
		return catalog.Delete(catalog.Ref{Kind: catalog.KindService, Key: key(fmt.Sprintf("s%d", r.IntN(4)))})
	case 3, 4:
		n := r.IntN(4)
		return service(fmt.Sprintf("s%d", n), "", func(s *catalog.Service) {
			s.Selector = map[string]string{"app": apps[r.IntN(2)]}
			if s.Headless = r.IntN(3) == 0; !s.Headless {
				s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(n)})} // as allocated: one service each
			}
			s.PublishNotReady = r.IntN(4) == 0
			s.Ports = append(s.Ports, catalog.ServicePort{Name: "db", Port: 3306, Transport: "TCP", TargetName: "http"})
		})
	}
	name := fmt.Sprintf("p%d", r.IntN(6))
	return pod(name, fmt.Sprintf("10.1.0.%d", r.IntN(4)), func(p *catalog.Pod) {
		p.Labels = map[string]string{"app": apps[r.IntN(2)]}
		p.Ready, p.Meshed, p.Terminating = r.IntN(3) > 0, r.IntN(2) == 0, r.IntN(5) == 0
		p.Phase = []string{"Running", "Running", "Succeeded"}[r.IntN(3)]
		p.Created = int64(slices.Index([]string{"p0", "p1", "p2", "p3", "p4", "p5"}, name)) // distinct, so owners are decided
	})
}
