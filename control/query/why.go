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
