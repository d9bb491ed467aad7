package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/topology"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/tap"
	"github.com/tunmesh/tunmesh/control/token"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

const (
	// serviceAddr is the cluster address of the measured Service.
	serviceAddr = "10.96.0.1"
	services    = "10.96.0.0/24"
	trustDomain = "cluster.local"
	meshNS      = "bench"
)

// mesh is a control plane with its folders.
type mesh struct {
	e       *Env
	dir     string
	space   *nettest.Space
	addr    netip.Addr
	control *proc.Process
	policy  string // of what comes in
	opaque  string // ports that are declared opaque
	// pod has annotations for the sidecars, flags what they are started with.
	pod   map[string]string
	flags []string
	// hosts are others that sidecars talk to, and watcher is who looks on; nil: nobody.
	hosts   []*nettest.Space
	watcher *proc.Process
}

// mesh runs the programs as they are shipped: two pods without another road than
// their TUNs, mesh-proxy in each without privileges, and mesh-control. What the
// node's agent does, handing queues over, is done here.
func (e *Env) mesh(name, proxy string, f feature) (*Peer, error) {
	proxy, err := e.readable(proxy)
	if err != nil {
		return nil, err
	}
	m, err := e.startControl(f)
	if err != nil {
		return nil, err
	}
	client, server := e.Bridge.Pod(), e.Bridge.Pod()
	for _, p := range []*topology.Pod{client, server} {
		for _, s := range append(m.hosts, m.space) {
			e.Bridge.Meet(s, p)
		}
	}
	e.Bridge.Meet(client.Uplink, server)
	e.Bridge.Meet(server.Uplink, client)

	q := &Peer{
		Name: name, Version: version(`mesh-proxy (\S+)`, proxy, "-version"), MTLS: !f.plain, Feature: f.about,
		Setup: f.setup(),
		From:  client.Space, Target: netip.MustParseAddr(serviceAddr), Server: server.Space, ServerAddr: server.Addr,
		Meet: func(s *nettest.Space) {
			e.Bridge.Meet(s, server)
		},
	}
	if f.about != "" {
		q.Beside = Tunmesh
	}
	q.Aside = []*proc.Process{m.control}
	if q.App, err = e.startApp(server.Space); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		side string
		pod  *topology.Pod
	}{{"client", client}, {"server", server}} {
		p, err := m.sidecar(proxy, s.side, s.pod, !f.plain || s.side == "client")
		if err != nil {
			return nil, fmt.Errorf("%s side: %w", s.side, err)
		}
		q.Pair = append(q.Pair, Sidecar{Side: s.side, Process: p, Tells: says(s.pod.Space)})
	}
	if f.tapped > 0 {
		if err := m.tap(f.tapped); err != nil {
			return nil, err
		}
	}
	if m.watcher != nil {
		q.Aside = append(q.Aside, m.watcher)
		q.Seen = func() map[string]uint64 { return seen(m.watcher) }
	}
	q.ALPN = hop.ALPNUpgrade // bytes are framed between sidecars, one request is not
	q.Cert, q.Key, err = m.certificate("client")
	return q, err
}

// setup says how a pair is configured.
func (f feature) setup() string {
	var s string
	for _, a := range []map[string]string{f.annotations, f.pod} {
		for _, k := range slices.Sorted(maps.Keys(a)) {
			s += fmt.Sprintf("%s=%s, ", k, a[k])
		}
	}
	for _, flag := range f.flags {
		s += flag + ", "
	}
	s += "TUNs, one queue and loop each; a Service with one endpoint; "
	if f.plain {
		s += "the server's pod not known as meshed, no TLS; inbound policy all-unauthenticated; "
	} else {
		s += "TLS 1.3, client certificates; inbound policy all-authenticated; "
	}
	if f.tapped > 0 {
		s += fmt.Sprintf("a tap of everything at the server's pod, at most %d requests a second; ", f.tapped)
	}
	if f.traced {
		s += "spans go to a collector that throws them away; "
	}
	return s + "detection, metrics and balancing on unless said otherwise"
}

// manifests of what is meshed. Ports that carry bytes are declared so, as for a
// database; the others are detected.
const manifests = `
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: bench}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: server, namespace: bench}
---
apiVersion: v1
kind: Service
metadata:
  name: server
  namespace: bench
  annotations: %s
spec:
  clusterIP: 10.96.0.1
  selector: {app: server}
  ports: [{name: echo, port: 7001}, {name: sink, port: 7002}, {name: http1, port: 8001}, {name: http2, port: 8002}]
`

// feature is something of tunmesh that can be switched on or off alone.
type feature struct {
	name, about string
	annotations map[string]string // of the Service
	pod         map[string]string // of the pods, for their sidecars
	flags       []string          // of the sidecars
	// tapped is how many requests a second somebody sees of the server's pod; 0:
	// nobody looks on. traced: there is a collector of spans.
	tapped int
	traced bool
	// plain: the server's pod is not known as meshed, so that nothing is encrypted
	// on the way to its sidecar.
	plain bool
}

// features of which the cost is measured, beside tunmesh with none of them.
var features = []feature{ //nolint:gochecknoglobals // a table
	{name: "plain", about: "no TLS between the sidecars, as to a pod that is not meshed", plain: true},
	{name: "bytes", about: "every port declared opaque: no detection, no HTTP", annotations: map[string]string{annotation.OpaquePorts: "7001,7002,8001,8002"}},
	{name: "detected", about: "the ports of bytes not declared opaque: detection", annotations: map[string]string{annotation.OpaquePorts: ""}},
	{name: "retries", about: "retries armed", annotations: map[string]string{"retry.tunmesh.io/http": "5xx", "retry.tunmesh.io/grpc": "unavailable"}},
	{name: "timeouts", about: "request, response and idle timeouts", annotations: map[string]string{"timeout.tunmesh.io/request": "10s", "timeout.tunmesh.io/response": "10s", "timeout.tunmesh.io/idle": "10s"}},
	{name: "breakers", about: "circuit breakers", annotations: map[string]string{"balancer.tunmesh.io/failure-accrual": "unified"}},
	{name: "uncounted", about: "metrics off", flags: []string{"-no-metrics"}},
	{name: "tapped", about: fmt.Sprintf("a tap of everything at the server's pod, %d requests a second", tap.DefaultRPS), tapped: tap.DefaultRPS},
	{name: "tapped-10000", about: fmt.Sprintf("the same, asking for %d a second", maxTapped), tapped: maxTapped},
	{name: "traced-1", about: "spans of 1 % of all requests", traced: true, pod: map[string]string{annotation.TraceSampling: "1%"}},
	{name: "traced-100", about: "spans of all requests", traced: true, pod: map[string]string{annotation.TraceSampling: "100%"}},
	{name: "access-log", about: "an access log in JSON", pod: map[string]string{annotation.AccessLog: "json"}},
}

// Features are the names of the peers that tell what features cost: tunmesh
// itself is the first.
func Features() []string {
	names := []string{Tunmesh}
	for _, f := range features {
		names = append(names, Tunmesh+"-"+f.name)
	}
	return append(names, Tunmesh+"-1-endpoints", Tunmesh+"-10000-endpoints")
}

func withOpaque(annotations map[string]string) map[string]string {
	all := map[string]string{annotation.OpaquePorts: "7001,7002"}
	maps.Copy(all, annotations)
	return all
}

func (m *mesh) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

func (e *Env) startControl(f feature) (*mesh, error) {
	m := &mesh{e: e, dir: e.Scope.TempDir(), pod: f.pod, flags: f.flags, opaque: withOpaque(f.annotations)[annotation.OpaquePorts]}
	m.policy = "all-authenticated"
	if f.plain {
		m.policy = "all-unauthenticated"
	}
	m.space, m.addr = e.Bridge.Host()
	for _, d := range []string{"manifests", "pods"} {
		if err := os.Mkdir(m.path(d), 0o700); err != nil {
			return nil, err
		}
	}
	all, err := json.Marshal(withOpaque(f.annotations)) // JSON is YAML
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.path("manifests", "bench.yaml"), fmt.Appendf(nil, manifests, all), 0o600); err != nil {
		return nil, err
	}
	m.control, err = e.start(proc.Spec{Path: filepath.Join(e.Bin, "mesh-control"), Space: m.space, Silent: true, Args: []string{
		"--dir", m.path("manifests"), "--dir", m.path("pods"), "--state-dir", m.path("state"), "--listen", fmt.Sprintf("0.0.0.0:%d", control.Port),
		"--mesh-networks", topology.Networks().String() + "," + services + "," + manyNetwork, "--default-inbound-policy", m.policy,
		// As often as Prometheus would by default.
		"--scrape-interval", "15s", "--query-socket", m.path("query.sock"), "--log-level", "warn", "--trust-domain", trustDomain,
	}})
	if err != nil {
		return nil, err
	}
	if err := listening(m.control, control.Port); err != nil {
		return nil, fmt.Errorf("mesh-control: %w", err)
	}
	if f.traced {
		at, err := m.collector()
		if err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		m.pod = maps.Clone(f.pod)
		m.pod[annotation.TraceCollector] = at
	}
	return m, nil
}

// sidecar declares a pod to the control plane, as meshed if that is to be known,
// and starts its mesh-proxy.
func (m *mesh) sidecar(proxy, side string, pod *topology.Pod, known bool) (*proc.Process, error) {
	uid := "uid-" + side
	if err := m.declare(side, m.object(side, side, uid, pod.Addr, known)); err != nil {
		return nil, err
	}
	tokenFile, err := m.token(side, uid)
	if err != nil {
		return nil, err
	}
	if err := m.handOver(side, uid, pod); err != nil {
		return nil, err
	}
	p, err := m.e.start(proc.Spec{
		Path: proxy, Args: append([]string{"-token", tokenFile, "-log-level", "warn"}, m.flags...),
		Space: pod.Space, UID: annotation.ProxyUID, Silent: true,
	})
	if err != nil {
		return nil, err
	}
	return p, await(p, func() error { return ready(pod.Space) })
}

// object is a pod that runs and is ready.
func (m *mesh) object(app, name, uid string, addr netip.Addr, meshed bool) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: meshNS, Name: name, UID: types.UID(uid), Labels: map[string]string{"app": app},
			Annotations: map[string]string{annotation.OpaquePorts: m.opaque},
		},
		Spec: corev1.PodSpec{ServiceAccountName: app, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: addr.String(), PodIPs: []corev1.PodIP{{IP: addr.String()}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if meshed {
		p.Annotations[annotation.Injected] = "bench"
	}
	return p
}

func (m *mesh) token(side, uid string) (string, error) {
	key, err := token.Open(m.path("state", control.TokenDir))
	if err != nil {
		return "", err
	}
	text, err := key.Mint(token.Claims{Namespace: meshNS, ServiceAccount: side, Pod: side, PodUID: uid}, annotation.TokenAudience, time.Hour)
	if err != nil {
		return "", err
	}
	path := m.path("token-" + side)
	return path, errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, annotation.ProxyUID, annotation.ProxyUID))
}

// handOver offers a pod's queues at the address where its sidecar asks.
func (m *mesh) handOver(side, uid string, pod *topology.Pod) error {
	var anchors []byte
	err := await(m.control, func() (err error) {
		anchors, err = os.ReadFile(m.path("state", control.AuthorityDir, identity.AnchorsFile))
		return err
	})
	if err != nil {
		return err
	}
	msg := &handover.Message{
		Version: handover.Version, Pod: handover.Pod{Namespace: meshNS, Name: side, UID: uid}, Addrs: []netip.Addr{pod.Addr},
		MTU: topology.MTU, Queues: 1, Node: "bench", TrustAnchors: string(anchors), Annotations: m.pod,
		Control: netip.AddrPortFrom(m.addr, control.Port), ControlID: controlID(),
		Networks: []netip.Prefix{topology.Networks(), netip.MustParsePrefix(services), netip.MustParsePrefix(manyNetwork)},
	}
	var l *net.UnixListener
	err = pod.Space.Do(func() (err error) {
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: handover.Address, Net: "unixpacket"})
		return err
	})
	if err != nil {
		return fmt.Errorf("offer the queues: %w", err)
	}
	m.e.Scope.Cleanup(func() { _ = l.Close() })
	go serveQueues(l, msg, pod)
	return nil
}

func controlID() spiffe.ID { return control.ID(trustDomain) }

// serveQueues answers until l is closed. A claim is the connection: it stays.
func serveQueues(l *net.UnixListener, msg *handover.Message, pod *topology.Pod) {
	var claims []*seqpacket.Conn
	defer func() {
		for _, c := range claims {
			_ = c.Close()
		}
	}()
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			return
		}
		c := seqpacket.New(uc)
		claims = append(claims, c)
		_ = c.SetDeadline(time.Now().Add(patience))
		var ask handover.Ask
		fds, err := c.Recv(&ask)
		seqpacket.CloseAll(fds)
		if err != nil {
			continue
		}
		if ask.Resume {
			_ = c.Send(handover.Answer{})
		} else {
			_ = c.Send(handover.Answer{Message: msg}, pod.AppFD, pod.WireFD)
		}
	}
}

// ready asks a sidecar whether it is.
func ready(s *nettest.Space) error {
	resp, err := admin(s, "/ready")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the sidecar is not ready: %s", strings.ToLower(resp.Status))
	}
	return nil
}

// says asks a sidecar what it allocated, and how many series it has; older builds
// do not say.
func says(s *nettest.Space) func() (Said, bool) {
	return func() (said Said, ok bool) {
		resp, err := admin(s, "/metrics")
		if err != nil {
			return said, false
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "#") {
				continue
			}
			said.Series++
			if v, found := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); found {
				n, err := strconv.ParseFloat(v, 64)
				said.Allocs, ok = uint64(n), err == nil
			}
		}
		return said, ok
	}
}

// admin gets a page of a sidecar's, in its pod.
func admin(s *nettest.Space, path string) (*http.Response, error) {
	dial := func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = s.Do(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}
	c := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: time.Second}
	return c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", annotation.AdminPort, path))
}
