package query

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	policyapi "github.com/tunmesh/tunmesh/api/policy"
	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
)

// Told says what a pod's or Service's sidecars are told, as Policy does.
type Told func(ctx context.Context, req *api.PolicyRequest) (*api.PolicyResponse, error)

// Why implements the wire API.
func (s *Server) Why(ctx context.Context, req *api.WhyRequest) (*api.WhyResponse, error) {
	return s.WhyTold(ctx, req, s.Policy)
}

// WhyTold is Why where others know what sidecars are told. It walks the road of
// a connection: name, Service, endpoints, identities, policy, circuit breakers;
// and looks at what happened on it lately.
func (s *Server) WhyTold(ctx context.Context, req *api.WhyRequest, told Told) (*api.WhyResponse, error) {
	w := &why{s: s, told: told, resp: &api.WhyResponse{Verdict: api.WhyResponse_WORKS}, port: uint16(req.GetPort())}
	if req.GetPort() > 0xffff {
		return nil, status.Errorf(codes.InvalidArgument, "port %d: want 1 to 65535, or none", req.GetPort())
	}
	if err := w.client(req.GetFrom()); err != nil {
		return nil, err
	}
	if err := w.target(req); err != nil {
		return nil, err
	}
	if !w.stopped {
		if err := w.walk(ctx); err != nil {
			return nil, err
		}
	}
	w.sum()
	w.resp.Namespaces = w.namespaces()
	return w.resp, nil
}

// why is one explanation under way.
type why struct {
	s    *Server
	told Told
	resp *api.WhyResponse

	from    selection
	source  string       // as people say it
	pod     *catalog.Pod // the client that speaks for the others
	service *catalog.Service
	name    string // of the target, as people say it
	addr    netip.Addr
	port    uint16
	ends    []catalog.Endpoint
	stopped bool // nothing further on matters
	partly  bool // some of what is there does not work
}

func (w *why) say(m api.Reason_Mark, subject, format string, args ...any) {
	w.resp.Reasons = append(w.resp.Reasons, &api.Reason{Subject: subject, Mark: m, Text: fmt.Sprintf(format, args...)})
	if m == api.Reason_BAD {
		w.resp.Verdict = api.WhyResponse_FAILS
	}
}

func (w *why) ok(subject, format string, args ...any) { w.say(api.Reason_OK, subject, format, args...) }
func (w *why) note(subject, format string, args ...any) {
	w.say(api.Reason_NOTE, subject, format, args...)
}

// bad ends the walk: what comes after is never reached.
func (w *why) bad(subject, format string, args ...any) {
	w.say(api.Reason_BAD, subject, format, args...)
	w.stopped = true
}

// client looks up who connects.
func (w *why) client(sel *api.Selector) error {
	if sel.GetName() == "" {
		return status.Error(codes.InvalidArgument, "why: name who connects: a pod or a workload")
	}
	var err error
	if w.from, err = choose(w.s.catalog, sel); err != nil {
		return err
	}
	if w.from.kind == service || w.from.kind == namespace {
		return status.Errorf(codes.InvalidArgument, "why: a %s connects to nobody: name a pod or a workload", w.from.kind)
	}
	w.source = string(w.from.kind) + " " + w.from.resources[0].key.String()
	meshed, running := 0, 0
	for _, p := range w.from.pods(w.s.catalog) {
		if p.Finished() {
			continue
		}
		running++
		if p.Meshed {
			meshed++
		}
		if w.pod == nil || !w.pod.Meshed && p.Meshed || !w.pod.Ready && p.Ready && p.Meshed == w.pod.Meshed {
			w.pod = p
		}
	}
	switch {
	case w.pod == nil:
		w.bad("client", "%s has no pod that runs: nobody connects.", capital(w.source))
	case meshed == 0:
		w.note("client", "%s has no sidecar: it connects as if there were no mesh, without mTLS, and its requests are seen at the other end alone.", capital(w.source))
	case meshed < running:
		w.note("client", "%d of %d pods of %s have a sidecar; what follows is of those.", meshed, running, w.source)
	default:
		w.ok("client", "%s: %s.", capital(w.source), plural(running, "pod", "has a sidecar", "have a sidecar"))
	}
	return nil
}

// target finds what the name or selector leads to.
func (w *why) target(req *api.WhyRequest) error {
	if sel := req.GetTo(); sel != nil {
		if sel.GetName() == "" || req.GetToHost() != "" {
			return status.Error(codes.InvalidArgument, "why: name one thing to connect to: a Service, a workload, a pod, or a host")
		}
		to, err := choose(w.s.catalog, sel)
		if status.Code(err) == codes.NotFound {
			w.name = sel.GetKind() + " " + sel.GetNamespace() + "/" + sel.GetName()
			w.bad("name", "%s.", capital(status.Convert(err).Message()))
			return nil
		}
		if err != nil {
			return err
		}
		if to.kind == namespace {
			return status.Error(codes.InvalidArgument, "why: nobody connects to a namespace: name a Service, a workload, a pod, or a host")
		}
		if to.kind == service {
			svc, _ := w.s.catalog.Service(to.resources[0].key)
			return w.found(svc)
		}
		return w.pods(string(to.kind)+" "+to.resources[0].key.String(), to.pods(w.s.catalog))
	}
	host := req.GetToHost()
	if host == "" {
		return status.Error(codes.InvalidArgument, "why: name what to connect to: a Service, a workload, a pod, or a host")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return w.address(ip)
	}
	return w.host(host)
}

// host looks a name up as the client's resolver would, with its search path.
func (w *why) host(host string) error {
	w.name = host
	if w.stopped {
		return nil
	}
	c := w.s.catalog
	domain := c.ClusterDomain()
	for _, suffix := range []string{"", "." + w.pod.Namespace + ".svc." + domain, ".svc." + domain, "." + domain} {
		full := strings.TrimSuffix(host, ".") + suffix
		n := c.Lookup(full)
		if !n.Ours || !n.Exists {
			continue
		}
		if key, ok := serviceIn(full, domain); ok {
			if svc, ok := c.Service(key); ok {
				w.ok("name", "%q is %s in the cluster's DNS.", host, full)
				return w.found(svc)
			}
		}
		if len(n.Addrs) > 0 {
			w.ok("name", "%q is %s in the cluster's DNS, at %s.", host, full, n.Addrs[0])
			return w.address(n.Addrs[0])
		}
	}
	if strings.Contains(strings.TrimSuffix(host, "."), ".") && !c.Lookup(host).Ours {
		w.note("name", "%q is no name of this cluster: whatever DNS says, traffic to it leaves the mesh as the app sends it, without mTLS.", host)
		w.stopped = true
		return nil
	}
	w.bad("name", "%q is nobody's name in this cluster (asked for from namespace %s): DNS answers NXDOMAIN.", host, w.pod.Namespace)
	return nil
}

// serviceIn is the Service that a full name is one of.
func serviceIn(full, domain string) (catalog.Key, bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(full), ".svc."+domain)
	if !ok {
		return catalog.Key{}, false
	}
	labels := strings.Split(rest, ".")
	if len(labels) != 2 {
		return catalog.Key{}, false
	}
	return catalog.Key{Namespace: labels[1], Name: labels[0]}, true
}

// address finds out whose an address is.
func (w *why) address(ip netip.Addr) error {
	if w.stopped {
		return nil
	}
	if svc, ok := w.s.catalog.ServiceByIP(ip); ok {
		w.ok("name", "%s is the address of Service %s.", ip, svc.Key)
		return w.found(svc)
	}
	if p, ok := w.s.catalog.PodByIP(ip); ok {
		w.addr = ip
		w.ok("name", "%s is pod %s.", ip, p.Key)
		return w.pods("pod "+p.Key.String(), []*catalog.Pod{p})
	}
	w.name = ip.String()
	w.note("name", "%s is nobody's address in this cluster: traffic to it leaves the mesh as the app sends it, without mTLS.", ip)
	w.stopped = true
	return nil
}

// found goes on with a Service.
func (w *why) found(svc *catalog.Service) error {
	w.service, w.name = svc, "Service "+svc.Key.String()
	var ports []uint16
	for _, p := range svc.Ports {
		if p.Transport == "TCP" {
			ports = append(ports, p.Port)
		}
	}
	switch {
	case svc.ExternalName != "":
		w.note("service", "%s is another name for %s: traffic to it leaves the mesh as the app sends it, unless that is a name of the cluster.", w.name, svc.ExternalName)
		w.stopped = true
		return nil
	case w.port == 0 && len(ports) == 1:
		w.port = ports[0]
	case w.port == 0:
		return status.Errorf(codes.InvalidArgument, "why: %s has TCP ports %v: say which", w.name, ports)
	}
	if !slices.Contains(ports, w.port) {
		w.bad("service", "%s has no TCP port %d (it has %v): the connection is refused.", w.name, w.port, ports)
		return nil
	}
	at := "headless, its name leads to the pods"
	if len(svc.ClusterIPs) > 0 {
		at = svc.ClusterIPs[0].String()
	}
	w.ok("service", "%s (%s) has TCP port %d.", w.name, at, w.port)
	list, _ := w.s.catalog.ServiceEndpoints(svc.Key, w.port)
	ready := 0
	for _, e := range list {
		if e.Ready {
			ready++
			w.ends = append(w.ends, e)
		}
	}
	selected := len(w.s.catalog.Selected(svc.Key))
	switch {
	case len(list) == 0 && len(svc.Selector) > 0 && selected == 0:
		w.bad("endpoints", "No pod has the labels that %s selects (%s): the connection is refused.", w.name, pairs(svc.Selector))
	case len(list) == 0:
		w.bad("endpoints", "%s has no endpoint: the connection is refused.", w.name)
	case ready == 0:
		w.bad("endpoints", "None of %s is ready: %s. The connection is refused, or waits for one.", plural(len(list), "endpoint", "", ""), w.unready(list))
	case ready < len(list):
		w.note("endpoints", "%d of %d endpoints are ready; left out: %s.", ready, len(list), w.unready(list))
	default:
		w.ok("endpoints", "%s: %s.", plural(ready, "endpoint", "is ready", "are ready"), endpointNames(w.ends))
	}
	if svc.Local {
		w.note("endpoints", "Clients get endpoints of their own node alone (internalTrafficPolicy: Local).")
	}
	return nil
}

// pods goes on with pods that are connected to by their own addresses.
func (w *why) pods(name string, list []*catalog.Pod) error {
	w.name = name
	if w.stopped {
		return nil
	}
	if w.port == 0 {
		ports := map[uint16]bool{}
		for _, p := range list {
			for _, c := range p.Ports {
				if c.Transport == "" || c.Transport == "TCP" {
					ports[c.Port] = true
					w.port = c.Port
				}
			}
		}
		if len(ports) != 1 {
			return status.Errorf(codes.InvalidArgument, "why: the containers of %s declare %d TCP ports: say which is meant", name, len(ports))
		}
	}
	ready := 0
	for _, p := range list {
		if p.Finished() || len(p.IPs) == 0 {
			continue
		}
		ip := p.IPs[0]
		if w.addr.IsValid() {
			ip = w.addr
		}
		e := catalog.Endpoint{Addr: netip.AddrPortFrom(ip, w.port), Pod: p.Key, Ready: p.Ready}
		if p.Meshed {
			e.Identity = p.Identity(w.s.catalog.TrustDomain())
		}
		w.ends = append(w.ends, e)
		if p.Ready {
			ready++
		}
	}
	switch {
	case len(w.ends) == 0:
		w.bad("endpoints", "%s has no pod that runs: nobody answers.", capital(name))
	case ready < len(w.ends):
		w.note("endpoints", "%d of %d pods are ready: %s. To a pod's own address traffic goes all the same.", ready, len(w.ends), w.unready(w.ends))
	default:
		w.ok("endpoints", "%s: %s.", plural(ready, "pod", "is ready", "are ready"), endpointNames(w.ends))
	}
	return nil
}

// walk is the part of the road behind the choice of an endpoint.
func (w *why) walk(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	w.identities()
	if err := w.policies(ctx); err != nil {
		return err
	}
	if w.s.metrics == nil {
		return nil
	}
	for _, step := range []func(context.Context) error{w.certificates, w.circuits, w.failures} {
		if err := step(ctx); err != nil {
			return status.Errorf(codes.Internal, "why: %v", err)
		}
	}
	return nil
}

// identities says who proves what to whom.
func (w *why) identities() {
	meshed := 0
	var id string
	for _, e := range w.ends {
		if !e.Identity.IsZero() {
			meshed++
			id = e.Identity.String()
		}
	}
	own := w.pod.Identity(w.s.catalog.TrustDomain()).String()
	switch {
	case w.pod.Meshed && meshed == len(w.ends):
		w.ok("identity", "mTLS: the client proves %s, and takes an answer from %s alone.", own, id)
	case w.pod.Meshed && meshed > 0:
		w.note("identity", "mTLS with %d of %d endpoints (as %s, with %s); the others have no sidecar and get plain text.", meshed, len(w.ends), own, id)
	case w.pod.Meshed:
		w.note("identity", "No mTLS: the other end has no sidecar, and gets what the app sends, as it is.")
	default:
		w.note("identity", "No mTLS: the client has no sidecar, and proves no identity.")
	}
}

// policies asks, for each endpoint, whether it lets the client in.
func (w *why) policies(ctx context.Context) error {
	verdicts := map[string][]string{}
	denied, judged := 0, 0
	pods := map[catalog.Key]bool{} // one may have addresses of both families
	for _, e := range w.ends {
		if pods[e.Pod] {
			continue
		}
		pods[e.Pod] = true
		if e.Identity.IsZero() {
			continue
		}
		resp, err := w.told(ctx, &api.PolicyRequest{Resource: &api.Selector{Kind: string(pod), Namespace: e.Pod.Namespace, Name: e.Pod.Name}, Port: uint32(e.Addr.Port())})
		switch status.Code(err) {
		case codes.OK:
		case codes.NotFound, codes.FailedPrecondition:
			continue // it has just gone
		default:
			return err
		}
		allowed, text := w.judge(resp.GetInbound(), e.Pod)
		judged++
		if !allowed {
			denied++
		}
		verdicts[text] = append(verdicts[text], e.Pod.String())
	}
	if judged == 0 {
		w.note("policy", "No policy: the other end has no sidecar that would refuse anybody.")
		return nil
	}
	mark := api.Reason_OK
	switch {
	case denied == judged && denied == len(pods):
		mark = api.Reason_BAD
	case denied > 0:
		mark, w.partly = api.Reason_NOTE, true
	}
	for _, text := range sortedKeys(verdicts) {
		pods := verdicts[text]
		slices.Sort(pods)
		who := "Pod " + pods[0]
		if len(pods) > 1 {
			who = fmt.Sprintf("Pods %s", strings.Join(pods, ", "))
		}
		w.say(mark, "policy", "%s, port %d: %s", who, w.ends[0].Addr.Port(), text)
	}
	return nil
}

// judge is what a sidecar would decide, and the rule that it goes by.
func (w *why) judge(p *policyapi.InboundPolicy, k catalog.Key) (allowed bool, text string) {
	name := strings.ReplaceAll(strings.ToLower(p.GetDefault().String()), "_", "-")
	rule := fmt.Sprintf("default inbound policy %s (%s)", name, w.ruled(k))
	inside := slices.ContainsFunc(p.GetClusterNetworks(), func(n string) bool {
		prefix, err := netip.ParsePrefix(n)
		return err == nil && len(w.pod.IPs) > 0 && prefix.Contains(w.pod.IPs[0].Unmap())
	})
	switch p.GetDefault() {
	case policyapi.Default_ALL_UNAUTHENTICATED:
		return true, "lets everybody in, by " + rule + "."
	case policyapi.Default_AUDIT:
		return true, "lets everybody in and notes who, by " + rule + "."
	case policyapi.Default_ALL_AUTHENTICATED, policyapi.Default_CLUSTER_AUTHENTICATED:
		switch {
		case p.GetDefault() == policyapi.Default_CLUSTER_AUTHENTICATED && !inside:
			return false, fmt.Sprintf("refuses the client, whose address is in none of the cluster's networks %v, by %s.", p.GetClusterNetworks(), rule)
		case w.pod.Meshed:
			return true, "lets the client in, which proves its identity, by " + rule + "."
		}
		return false, "refuses the client, which proves no identity, by " + rule + "."
	case policyapi.Default_CLUSTER_UNAUTHENTICATED:
		if inside {
			return true, "lets the client in, whose address is in the cluster's networks, by " + rule + "."
		}
		return false, fmt.Sprintf("refuses the client, whose address is in none of the cluster's networks %v, by %s.", p.GetClusterNetworks(), rule)
	case policyapi.Default_DENY:
		return false, "refuses everybody, by " + rule + "."
	}
	return false, "refuses everybody: its policy is malformed, see kubectl describe of the pod."
}

// certificates looks at what both sides prove themselves with.
func (w *why) certificates(ctx context.Context) error {
	_, notAfter, err := w.s.reported(ctx)
	if err != nil {
		return err
	}
	keys := []catalog.Key{w.pod.Key}
	for _, e := range w.ends {
		keys = append(keys, e.Pod)
	}
	for i, k := range keys {
		at, known := notAfter[rowKey{k.Namespace, k.Name}]
		if !known || at > time.Now().Unix() {
			continue
		}
		when := "has no certificate yet"
		if at > 0 {
			when = "has a certificate that expired on " + time.Unix(at, 0).UTC().Format(time.RFC3339)
		}
		if i == 0 || len(w.ends) == 1 {
			w.say(api.Reason_BAD, "identity", "The sidecar of pod %s %s: handshakes fail. See meshctl check --proxy.", k, when)
		} else {
			w.partly = true
			w.note("identity", "The sidecar of pod %s %s: handshakes with it fail. See meshctl check --proxy.", k, when)
		}
	}
	return nil
}

// circuits says which endpoints the client's sidecars keep away from.
func (w *why) circuits(ctx context.Context) error {
	if w.service == nil || !w.pod.Meshed {
		return nil
	}
	match := append(w.from.match(""), metrics.Is("parent_namespace", w.service.Namespace), metrics.Is("parent_name", w.service.Name), metrics.Is("parent_port", fmt.Sprint(w.port)))
	list, err := w.s.metrics.Sum(ctx, metrics.BalancerEndpoints, match, []string{"endpoint_state"})
	if err != nil {
		return err
	}
	state := map[string]float64{}
	for _, x := range list {
		state[x.Labels["endpoint_state"]] = x.Value
	}
	shut, err := w.s.metrics.Increase(ctx, metrics.BreakerShut, match, nil, defaultWindow)
	if err != nil {
		return err
	}
	trips := 0.0
	for _, x := range shut {
		trips += x.Value
	}
	switch {
	case state["pending"] > 0 && state["ready"] == 0:
		w.say(api.Reason_BAD, "circuit", "The client's sidecars take no endpoint for usable now: requests wait, then fail with 503.")
	case state["pending"] > 0:
		w.note("circuit", "The client's sidecars keep requests from %.0f of %.0f endpoints for now.", state["pending"], state["pending"]+state["ready"])
	case trips > 0:
		w.note("circuit", "All endpoints are usable; circuit breakers tripped %.0f times in the last minute.", trips)
	case state["ready"] > 0:
		w.ok("circuit", "All endpoints are usable; no circuit breaker tripped in the last minute.")
	}
	return nil
}
