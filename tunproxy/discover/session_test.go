package discover_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	destapi "github.com/tunmesh/tunmesh/api/destination"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

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
		eventually(t, fmt.Sprintf("refused %d", i), func() bool { return s.refused() > uint64(i) })
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
