package discover_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	destapi "github.com/tunmesh/tunmesh/api/destination"
	identityapi "github.com/tunmesh/tunmesh/api/identity"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

const svc = "10.96.0.7:80"

func endpoint(addr string) *destapi.Endpoint {
	return &destapi.Endpoint{Address: addr, Weight: 10000, Identity: mtlstest.ID("api").String(), Labels: map[string]string{"pod": addr}}
}

func service(version uint64, addrs ...string) *destapi.Update {
	t := &destapi.Target{
		Kind: destapi.Kind_SERVICE, Protocol: destapi.Protocol_HTTP2, Authority: "api.prod.svc.cluster.local:80",
		Ref: &destapi.Ref{Kind: "Service", Namespace: "prod", Name: "api", Port: 80}, Labels: map[string]string{"service": "api"},
	}
	for _, a := range addrs {
		t.Endpoints = append(t.Endpoints, endpoint(a))
	}
	return &destapi.Update{Version: version, Change: &destapi.Update_Target{Target: t}}
}

func delta(version uint64, put []*destapi.Endpoint, remove ...string) *destapi.Update {
	return &destapi.Update{Version: version, Change: &destapi.Update_Delta{Delta: &destapi.EndpointDelta{Put: put, Remove: remove}}}
}

// addrs are a snapshot's endpoints, as text.
func addrs(s *discover.Snapshot) string {
	var all []string
	for i := range s.Endpoints {
		all = append(all, s.Endpoints[i].Addr.String())
	}
	return strings.Join(all, " ")
}

func TestBootstrap(t *testing.T) {
	p := newPlane(t)
	p.target(svc).say(service(1, "10.1.0.1:8080", "10.1.0.2:8080"))
	p.start()
	s := start(t, p, nil)
	s.ready()
	if id, ok := s.store.ID(); !ok || id != webID {
		t.Errorf("we are %s", id)
	}
	target, err := s.lookup(svc)
	if err != nil {
		t.Fatal(err)
	}
	n := target.Load()
	if n.Kind != discover.Service || n.Protocol != flow.HTTP2 || n.Ref != (discover.Ref{Kind: "Service", Namespace: "prod", Name: "api", Port: 80}) ||
		n.Authority != "api.prod.svc.cluster.local:80" || n.Labels["service"] != "api" || addrs(n) != "10.1.0.1:8080 10.1.0.2:8080" ||
		n.Endpoints[0].Identity != mtlstest.ID("api") || !n.Endpoints[0].Meshed() || n.Endpoints[0].Weight != 10000 || n.Endpoints[1].Labels["pod"] != "10.1.0.2:8080" {
		t.Errorf("snapshot %+v", n)
	}
	// The second time it is there at once.
	cached := false
	s.client.Lookup(s.loop, addrPort(svc), func(got *discover.Target, err error) { cached = got == target && err == nil })
	if !cached {
		t.Error("a cached answer did not come at once")
	}
	// An IPv4 address is one in both of its forms.
	s.client.Lookup(s.loop, addrPort("[::ffff:10.96.0.7]:80"), func(got *discover.Target, _ error) { cached = got == target })
	if !cached || p.begun(svc) != 1 {
		t.Error("one address is two targets")
	}
	pol := s.client.Policy()
	if d := pol.Authz().Connection(80, authz.Client{Addr: netip.MustParseAddr("10.0.0.9")}); !d.Allow {
		t.Errorf("policy: %+v", d)
	}
	var b strings.Builder
	if _, err := s.metrics.Registry.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`identity_cert_refreshes_total{result="ok"} 1`, "control_connected 1",
		`control_request_total{tls="true",server_id="mesh-control.tunmesh.sa.cluster.local",rpc="/tunmesh.identity.v1.Identity/Certify"} 1`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
	s.stop()
	if _, err := s.lookup(svc); err != nil {
		t.Errorf("what is known is lost at the end: %v", err)
	}
}

func TestDeltas(t *testing.T) {
	p := newPlane(t)
	f := p.target(svc)
	f.say(service(1, "10.1.0.1:80", "10.1.0.2:80"))
	p.start()
	s := start(t, p, nil)
	target, err := s.lookup(svc)
	if err != nil {
		t.Fatal(err)
	}
	first := target.Load()
	calls := 0
	cancel := target.Subscribe(s.loop, func() { calls++ })
	s.loop.Run(t)
	if calls != 1 {
		t.Errorf("%d calls after Subscribe, want one", calls)
	}
	light := endpoint("10.1.0.2:80")
	light.Weight = 1
	f.say(delta(2, []*destapi.Endpoint{endpoint("10.1.0.3:80"), light}, "10.1.0.1:80"))
	s.loop.RunUntil(t, 10*time.Second, func() bool { return calls > 1 })
	n := target.Load()
	if addrs(n) != "10.1.0.2:80 10.1.0.3:80" || n.Endpoints[0].Weight != 1 || n.Kind != discover.Service || n.Version <= first.Version {
		t.Errorf("after the delta: %+v", n)
	}
	if addrs(first) != "10.1.0.1:80 10.1.0.2:80" || first.Endpoints[1].Weight != 10000 {
		t.Error("the delta changed the snapshot before it")
	}
	f.say(delta(3, nil, "10.1.0.2:80", "10.1.0.3:80")) // none left is a statement
	eventually(t, "no endpoints", func() bool { return len(target.Load().Endpoints) == 0 })
	f.say(service(4, "10.1.0.9:80"))
	eventually(t, "a whole state", func() bool { return addrs(target.Load()) == "10.1.0.9:80" })
	s.loop.Run(t)
	before := calls
	cancel()
	f.say(delta(5, []*destapi.Endpoint{endpoint("10.1.0.8:80")}))
	eventually(t, "the last delta", func() bool { return len(target.Load().Endpoints) == 2 })
	s.loop.Run(t)
	if calls != before {
		t.Error("called after cancel")
	}
	if p.begun(svc) != 1 || s.client.Refused() != 0 {
		t.Errorf("%d streams, %d updates refused", p.begun(svc), s.client.Refused())
	}
}

// What is not right in an update leaves the last good state, ends the stream,
// and the next stream brings the whole state.
func TestMalformedUpdates(t *testing.T) {
	bad := func(change func(*destapi.Target)) *destapi.Update {
		u := service(2, "10.1.0.5:80")
		change(u.GetTarget())
		return u
	}
	for name, u := range map[string]*destapi.Update{
		"empty":                    {},
		"version alone":            {Version: 2},
		"no kind":                  bad(func(t *destapi.Target) { t.Kind = 0 }),
		"unknown kind":             bad(func(t *destapi.Target) { t.Kind = 9 }),
		"unknown protocol":         bad(func(t *destapi.Target) { t.Protocol = 9 }),
		"weight 0":                 bad(func(t *destapi.Target) { t.Endpoints[0].Weight = 0 }),
		"no address":               bad(func(t *destapi.Target) { t.Endpoints[0].Address = "" }),
		"a name for an address":    bad(func(t *destapi.Target) { t.Endpoints[0].Address = "api:80" }),
		"port 0":                   bad(func(t *destapi.Target) { t.Endpoints[0].Address = "10.1.0.5:0" }),
		"identity that is none":    bad(func(t *destapi.Target) { t.Endpoints[0].Identity = "api" }),
		"identity of blanks":       bad(func(t *destapi.Target) { t.Endpoints[0].Identity = " " }),
		"twice the same":           bad(func(t *destapi.Target) { t.Endpoints = append(t.Endpoints, t.Endpoints[0]) }),
		"a pod of none":            bad(func(t *destapi.Target) { t.Kind, t.Endpoints = destapi.Kind_POD, nil }),
		"nobody's, with endpoints": bad(func(t *destapi.Target) { t.Kind = destapi.Kind_NONE }),
		"external, elsewhere": bad(func(t *destapi.Target) {
			t.Kind = destapi.Kind_EXTERNAL
			t.Endpoints[0].Identity = ""
		}),
		"external with identity": bad(func(t *destapi.Target) { t.Kind, t.Endpoints[0].Address = destapi.Kind_EXTERNAL, svc }),
		"an old version":         service(1, "10.1.0.5:80"),
		"a gap":                  delta(3, nil, "10.1.0.1:80"),
		"a delta again":          delta(1, nil, "10.1.0.1:80"),
		"removes what is not":    delta(2, nil, "10.1.0.77:80"),
		"removes garbage":        delta(2, nil, "x"),
		"puts garbage":           delta(2, []*destapi.Endpoint{{Address: "10.1.0.5:80"}}),
		"puts and removes":       delta(2, []*destapi.Endpoint{endpoint("10.1.0.1:80")}, "10.1.0.1:80"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			f := p.target(svc)
			f.say(service(1, "10.1.0.1:80"))
			p.start()
			s := start(t, p, nil)
			target, err := s.lookup(svc)
			if err != nil {
				t.Fatal(err)
			}
			good := target.Load()
			f.say(u)
			eventually(t, "refused", func() bool { return s.client.Refused() > 0 })
			if target.Load() != good {
				t.Errorf("the state is now %+v", target.Load())
			}
			f.set(service(1, "10.1.0.6:80")) // what a new stream hears
			eventually(t, "recovered", func() bool { return addrs(target.Load()) == "10.1.0.6:80" })
			if s.client.Ready() != nil {
				t.Error("not ready any more")
			}
		})
	}
}

// A first answer that is malformed is no answer; a delta cannot be the first.
func TestMalformedFirst(t *testing.T) {
	p := newPlane(t)
	p.target(svc).say(delta(1, []*destapi.Endpoint{endpoint("10.1.0.1:80")}))
	p.start()
	s := start(t, p, nil)
	s.ready()
	var got error
	s.client.Lookup(s.loop, addrPort(svc), func(_ *discover.Target, err error) { got = err })
	eventually(t, "refused", func() bool { return s.client.Refused() > 0 })
	s.loop.Advance(t, 21*time.Second)
	if !errors.Is(got, discover.ErrNoAnswer) {
		t.Errorf("%v, want no answer", got)
	}
}

// A control plane that says nothing about a target: the caller is told so in
// time, and the answer serves the next one when it comes.
func TestStall(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	var errs []error
	for range 3 {
		s.client.Lookup(s.loop, addrPort(svc), func(tg *discover.Target, err error) {
			if tg != nil {
				t.Error("a target without an answer")
			}
			errs = append(errs, err)
		})
	}
	canceled := false
	s.client.Lookup(s.loop, addrPort(svc), func(*discover.Target, error) { canceled = true })()
	s.loop.Advance(t, 19*time.Second)
	if len(errs) != 0 {
		t.Fatalf("%v before the time", errs)
	}
	s.loop.Advance(t, 2*time.Second)
	if len(errs) != 3 || !errors.Is(errs[0], discover.ErrNoAnswer) || !strings.Contains(errs[0].Error(), svc) || canceled {
		t.Errorf("%v, canceled one called: %v", errs, canceled)
	}
	p.target(svc).say(service(1, "10.1.0.1:80"))
	if target, err := s.lookup(svc); err != nil || addrs(target.Load()) != "10.1.0.1:80" {
		t.Errorf("%v", err)
	}
	if p.begun(svc) != 1 {
		t.Errorf("%d streams for one target", p.begun(svc))
	}
}

// Absent at the start, then there; killed, and everything stays as it was; back,
// with news.
func TestOutage(t *testing.T) {
	p := newPlane(t)
	f := p.target(svc)
	f.say(service(1, "10.1.0.1:80"))
	s := start(t, p, nil)
	waited := make(chan error, 1)
	s.client.Lookup(s.loop, addrPort(svc), func(_ *discover.Target, err error) { waited <- err })
	time.Sleep(100 * time.Millisecond)
	if err := s.client.Ready(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("ready without a control plane: %v", err)
	}
	p.start()
	s.ready()
	target, err := s.lookup(svc)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("the one who waited through the start: %v", err)
	}
	p.kill()
	eventually(t, "disconnected", func() bool { return !s.client.Connected() })
	time.Sleep(100 * time.Millisecond)
	if s.client.Ready() != nil || addrs(target.Load()) != "10.1.0.1:80" || s.client.Policy() == nil {
		t.Error("the last good state is lost")
	}
	if got, err := s.lookup(svc); got != target || err != nil {
		t.Errorf("lookup during the outage: %v", err)
	}
	version := target.Load().Version
	f.set(service(1, "10.1.0.1:80"))
	p.start()
	eventually(t, "watched again", func() bool { return p.begun(svc) >= 2 })
	time.Sleep(50 * time.Millisecond)
	if target.Load().Version != version {
		t.Error("the same state was taken for a change")
	}
	f.say(delta(2, []*destapi.Endpoint{endpoint("10.1.0.2:80")}))
	eventually(t, "news", func() bool { return addrs(target.Load()) == "10.1.0.1:80 10.1.0.2:80" })
	if target.Load().Version <= version {
		t.Error("versions went back")
	}
	if len(p.tokens) != 1 {
		t.Errorf("%d certificates for one start", len(p.tokens))
	}
}

// Somebody else at the control plane's address learns nothing from us.
func TestImpostor(t *testing.T) {
	p := newPlane(t)
	p.self = mtlstest.ID("evil")
	p.start()
	s := start(t, p, nil)
	time.Sleep(300 * time.Millisecond)
	if len(p.tokens) != 0 || s.client.Ready() == nil || s.client.Connected() {
		t.Error("the token was shown to somebody else")
	}
	p.kill()
	p.self = controlID
	p.start()
	s.ready()
}

// The server's certificate may also be of an anchor that we do not know.
func TestForeignAnchor(t *testing.T) {
	p := newPlane(t)
	good := p.ca
	p.ca = mtlstest.NewCA(t)
	p.start()
	s := start(t, &plane{t: t, ca: good, addr: p.addr}, nil)
	time.Sleep(200 * time.Millisecond)
	if len(p.tokens) != 0 || s.client.Ready() == nil {
		t.Error("we spoke to a control plane that we cannot trust")
	}
}

// A certificate is renewed in time, with the token as it is then, and the new
// one is used: the connection is made anew.
func TestRenewal(t *testing.T) {
	p := newPlane(t)
	p.life = 3 * time.Second
	f := p.target(svc)
	f.say(service(1, "10.1.0.1:80"))
	p.start()
	s := start(t, p, nil)
	s.ready()
	if _, err := s.lookup(svc); err != nil {
		t.Fatal(err)
	}
	first, began := s.store.NotAfter(), time.Now()
	s.writeToken("second")
	eventually(t, "renewed", func() bool { return s.store.NotAfter().After(first) })
	if took := time.Since(began); took > 2900*time.Millisecond || took < 1200*time.Millisecond {
		t.Errorf("renewed after %v of 3 s", took)
	}
	p.mu.Lock()
	tokens := append([]string{}, p.tokens...)
	p.mu.Unlock()
	if len(tokens) != 2 || tokens[0] != jwt("system:serviceaccount:prod:web", "first") || tokens[1] != jwt("system:serviceaccount:prod:web", "second") {
		t.Errorf("tokens %q", tokens)
	}
	eventually(t, "the new certificate is in use", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.serials) >= 2
	})
	eventually(t, "watched again", func() bool { return p.begun(svc) >= 2 })
	if s.client.Ready() != nil {
		t.Error("not ready after a renewal")
	}
}

// A new generation makes us renew; the bundle is in force at once.
func TestTrustRotation(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	next := mtlstest.NewCA(t)
	both := append(p.ca.Anchors(), next.Anchors()...)
	p.mu.Lock()
	p.certify = func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
		r.Generation, r.Anchors = 2, both
		return r, nil
	}
	p.mu.Unlock()
	before := s.store.Changed()
	p.trust.say(&identityapi.TrustBundle{Anchors: both, Generation: 2})
	<-before
	eventually(t, "renewed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.tokens) == 2
	})
	eventually(t, "connected again", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.serials) == 2
	})
	time.Sleep(100 * time.Millisecond)
	if n := len(p.tokens); n != 2 {
		t.Errorf("%d renewals for one generation", n-1)
	}
}

// An empty or unreadable bundle does not touch the anchors.
func TestMalformedTrust(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	eventually(t, "the first bundle", func() bool { return s.client.Connected() })
	changed := s.store.Changed()
	for i, b := range []*identityapi.TrustBundle{{Generation: 9}, {Anchors: [][]byte{{1, 2, 3}}}, {}} {
		p.trust.say(b)
		eventually(t, "refused", func() bool { return s.client.Refused() > uint64(i) })
		p.trust.set(&identityapi.TrustBundle{Anchors: p.ca.Anchors(), Generation: 1})
	}
	select {
	case <-changed:
		t.Error("the anchors changed")
	default:
	}
}

// What Certify answers is checked before it is used; the next try may be better.
func TestMalformedCertificate(t *testing.T) {
	other := mtlstest.NewCA(t)
	for name, f := range map[string]func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error){
		"no anchors": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Anchors = nil
			return r, nil
		},
		"no chain": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Chain = nil
			return r, nil
		},
		"garbage": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Chain[0] = []byte{1}
			return r, nil
		},
		"foreign anchors": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Anchors = other.Anchors()
			return r, nil
		},
		"another's": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Chain[0] = other.Issue(t, mtlstest.Leaf{URIs: []string{webID.String()}}).Chain[0]
			return r, nil
		},
		"unavailable": func(*identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			return nil, status.Error(codes.Unavailable, "issuer not ready")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			tries := 0
			p.certify = func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
				if tries++; tries <= 2 {
					return f(r)
				}
				return r, nil
			}
			p.start()
			s := start(t, p, nil)
			s.ready()
			if tries != 3 {
				t.Errorf("%d tries", tries)
			}
		})
	}
}

func TestToken(t *testing.T) {
	p := newPlane(t)
	p.start()
	for name, token := range map[string]string{
		"empty": "", "no jwt": "hello", "odd payload": "a.!.c", "no json": "a.aGVsbG8.c",
		"no service account": jwt("alice", ""), "odd account": jwt("system:serviceaccount:prod:Web", ""),
	} {
		t.Run(name, func(t *testing.T) {
			var s *sidecar
			s = start(t, p, func(c *discover.Config) {
				if err := os.WriteFile(c.TokenPath, []byte(token), 0o600); err != nil {
					t.Fatal(err)
				}
			})
			time.Sleep(50 * time.Millisecond)
			if s.client.Ready() == nil {
				t.Fatal("ready with a bad token")
			}
			s.writeToken("good") // it comes in time for the next try
			s.ready()
		})
	}
	for _, tok := range p.tokens {
		if tok != jwt("system:serviceaccount:prod:web", "good") {
			t.Errorf("the token %q was sent", tok)
		}
	}
}

func TestPolicy(t *testing.T) {
	p := newPlane(t)
	p.policies.set(&policyapi.InboundPolicy{
		Version: 1, Default: policyapi.Default_DENY, Probes: []*policyapi.Probe{{Port: 8080, Method: "GET", Path: "/ready"}},
		Ports: []*policyapi.PortProtocol{{First: 25, Last: 26, Protocol: 1}}, Labels: map[string]string{"deployment": "web"},
	})
	p.start()
	s := start(t, p, nil)
	if pol := s.client.Policy(); pol != nil {
		t.Error("a policy from nowhere")
	}
	var unknown *discover.Policy
	if d := unknown.Authz().Connection(80, authz.Client{Addr: netip.MustParseAddr("10.0.0.1")}); d.Allow || unknown.Protocol(25) != flow.Detect || unknown.Labels() != nil {
		t.Error("an unknown policy allows something")
	}
	s.ready()
	pol := s.client.Policy()
	who := authz.Client{Addr: netip.MustParseAddr("10.0.0.1"), ID: webID}
	if pol.Authz().Connection(80, who).Allow || !pol.Authz().Request(8080, who, "GET", "/ready").Allow || pol.Authz().Request(8080, who, "GET", "/else").Allow {
		t.Error("not what was said")
	}
	if pol.Protocol(26) != flow.Opaque || pol.Protocol(27) != flow.Detect || pol.Labels()["deployment"] != "web" {
		t.Errorf("%+v", pol)
	}
	for i, bad := range []*policyapi.InboundPolicy{{}, {Default: policyapi.Default_ALL_UNAUTHENTICATED, ClusterNetworks: []string{"everything"}}} {
		p.policies.say(bad)
		eventually(t, fmt.Sprintf("refused %d", i), func() bool { return s.client.Refused() > uint64(i) })
		if now := s.client.Policy(); now.Authz().Connection(80, who).Allow {
			t.Fatalf("policy %d was taken", i)
		}
		p.policies.set(&policyapi.InboundPolicy{Version: 1, Default: policyapi.Default_DENY})
	}
	changed := s.client.PolicyChanged()
	p.policies.set(&policyapi.InboundPolicy{Version: 2, Default: policyapi.Default_AUDIT})
	p.policies.say(&policyapi.InboundPolicy{Version: 3, Default: policyapi.Default_ALL_AUTHENTICATED})
	<-changed
	eventually(t, "the new policy", func() bool { return s.client.Policy().Version == 3 })
}

// A control plane that does not take our certificate any more gets to see the
// token again.
func TestCertificateNotTaken(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	p.mu.Lock()
	p.deny = status.Error(codes.Unauthenticated, "who was that")
	p.mu.Unlock()
	p.kill()
	p.start()
	eventually(t, "asked for another certificate", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.tokens) >= 2
	})
	p.mu.Lock()
	p.deny = nil
	p.mu.Unlock()
	eventually(t, "connected", s.client.Connected)
	if s.client.Ready() != nil {
		t.Error("not ready")
	}
}

// Targets are few: those that nobody uses leave, and who comes when all are in
// use is told so.
func TestTargetsAreBounded(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, func(c *discover.Config) { c.MaxTargets = 4; c.IdleTarget = 200 * time.Millisecond })
	s.ready()
	var targets []*discover.Target
	for i := range 4 {
		a := fmt.Sprintf("10.96.0.%d:80", i)
		p.target(a).say(service(1, "10.1.0.1:80"))
		tg, err := s.lookup(a)
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, tg)
	}
	cancels := make([]func(), 4)
	for i, tg := range targets {
		cancels[i] = tg.Subscribe(s.loop, func() {})
	}
	if _, err := s.lookup("10.96.1.1:80"); !errors.Is(err, discover.ErrTooMany) {
		t.Errorf("a fifth: %v", err)
	}
	time.Sleep(400 * time.Millisecond) // idle, but subscribed to
	if s.client.Targets() != 4 || targets[0].Dropped() {
		t.Error("a target in use was dropped")
	}
	cancels[2]()
	cancels[2]()
	p.target("10.96.1.1:80").say(service(1, "10.1.0.2:80"))
	if _, err := s.lookup("10.96.1.1:80"); err != nil { // the unused one makes room
		t.Errorf("after one left: %v", err)
	}
	if !targets[2].Dropped() || targets[2].Load() == nil {
		t.Error("the wrong one left, or took its snapshot along")
	}
	for _, c := range cancels {
		c()
	}
	eventually(t, "all idle ones left", func() bool { return s.client.Targets() == 0 })
	if tg, err := s.lookup("10.96.0.2:80"); err != nil || tg == targets[2] {
		t.Errorf("asked again: %v", err)
	}
	if p.begun("10.96.0.2:80") != 2 {
		t.Errorf("%d streams", p.begun("10.96.0.2:80"))
	}
}

// Too many callers that wait for one answer.
func TestWaitersAreBounded(t *testing.T) {
	p := newPlane(t)
	s := start(t, p, nil) // no control plane at all
	full := 0
	for range 1100 {
		s.client.Lookup(s.loop, addrPort(svc), func(_ *discover.Target, err error) {
			if errors.Is(err, discover.ErrTooMany) {
				full++
			}
		})
	}
	if full != 1100-1024 {
		t.Errorf("%d were refused at once", full)
	}
}

// A stream of another's, such as tap's, is opened on each connection, and again
// after it fails.
func TestAttach(t *testing.T) {
	p := newPlane(t)
	p.start()
	calls := make(chan *rpc.Conn, 100)
	failed := false
	s := start(t, p, func(c *discover.Config) {
		c.Attach = append(c.Attach, func(ctx context.Context, k *rpc.Conn) error {
			calls <- k
			if !failed {
				failed = true
				return errors.New("once")
			}
			<-ctx.Done()
			return ctx.Err()
		})
	})
	a, b := <-calls, <-calls
	if a != b {
		t.Error("not tried again on the same connection")
	}
	s.ready()
	p.kill()
	p.start()
	if c := <-calls; c == b {
		t.Error("not on the new connection")
	}
}

func TestConfig(t *testing.T) {
	if _, err := discover.New(discover.Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
}

// A hundred sidecars that lose their control plane at once do not come back at
// once.
func TestJitter(t *testing.T) {
	p := newPlane(t)
	var pauses []time.Duration
	last := time.Time{}
	start(t, p, func(c *discover.Config) {
		c.Dial = func(context.Context) (net.Conn, error) {
			if !last.IsZero() {
				pauses = append(pauses, time.Since(last))
			}
			last = time.Now()
			return nil, errors.New("no route")
		}
	}).waitStop(1500 * time.Millisecond)
	if len(pauses) < 2 || len(pauses) > 12 {
		t.Fatalf("%d tries in 1.5 s", len(pauses))
	}
	for i, d := range pauses {
		if lo := min(50*time.Millisecond<<i, 2500*time.Millisecond); d < lo {
			t.Errorf("pause %d was %v, at least %v is good", i, d, lo)
		}
	}
}

func (s *sidecar) waitStop(d time.Duration) {
	time.Sleep(d)
	s.stop()
}

// Lookups from several loops at once.
func TestManyLoops(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	const loops, each = 4, 50
	for i := range each {
		p.target(fmt.Sprintf("10.96.9.%d:80", i)).say(service(1, "10.1.0.1:80"))
	}
	done := make(chan int, loops)
	for range loops {
		go func() {
			l := aiotest.NewLoop()
			n := 0
			for i := range each {
				s.client.Lookup(l, addrPort(fmt.Sprintf("10.96.9.%d:80", i)), func(tg *discover.Target, err error) {
					if err == nil && tg.Load() != nil {
						n++
					}
				})
			}
			l.RunUntil(t, 10*time.Second, func() bool { return n == each })
			done <- n
		}()
	}
	for range loops {
		if n := <-done; n != each {
			t.Errorf("%d answers of %d", n, each)
		}
	}
}
