package discover_test

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	destapi "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

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
		n.Endpoints[0].Identity() != mtlstest.ID("api") || !n.Endpoints[0].Meshed() || n.Endpoints[0].Weight != 10000 || n.Endpoints[1].Labels()["pod"] != "10.1.0.2:8080" {
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
		`control_request_total{addr="10.0.0.9:8086",tls="true",server_id="mesh-control.tunmesh.sa.cluster.local",rpc="/tunmesh.identity.v1.Identity/Certify"} 1`,
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
	if p.begun(svc) != 1 || s.refused() != 0 {
		t.Errorf("%d streams, %d updates refused", p.begun(svc), s.refused())
	}
}

// What a Service asks of its callers is a change like others.
func TestTraffic(t *testing.T) {
	p := newPlane(t)
	f := p.target(svc)
	f.say(service(1, "10.1.0.1:80"))
	p.start()
	s := start(t, p, nil)
	target, err := s.lookup(svc)
	if err != nil {
		t.Fatal(err)
	}
	if target.Load().Traffic != nil {
		t.Errorf("nothing was asked for, and there is %+v", target.Load().Traffic)
	}
	u := service(2, "10.1.0.1:80")
	u.GetTarget().Traffic = &destapi.Traffic{
		Timeouts: &destapi.Timeouts{RequestMs: 1000, ResponseMs: 20, IdleMs: 3},
		Retry: &destapi.Retry{
			Statuses: []*destapi.StatusRange{{First: 500, Last: 599}}, Codes: []uint32{1, 14}, Limit: 2, TimeoutMs: 400,
			Backoff: &destapi.Backoff{MinMs: 25, MaxMs: 250, Jitter: 1}, Budget: &destapi.RetryBudget{Percent: 20, PerSecond: 10, WindowMs: 10_000},
		},
		Accrual: &destapi.Accrual{
			Consecutive: 7, Backoff: &destapi.Backoff{MinMs: 1000, MaxMs: 60_000, Jitter: 0.5}, RetryAfter: true,
			Rate: &destapi.SuccessRate{Threshold: 0.8, WindowMs: 10_000, MinRequests: 5},
		},
		Penalty: &destapi.Penalty{TimeMs: 5000, MaxRetryAfterMs: 300_000},
	}
	f.say(u)
	const ms = time.Millisecond
	want := &resilience.Policy{
		Timeouts: resilience.Timeouts{Request: time.Second, Response: 20 * ms, Idle: 3 * ms},
		Retry: &resilience.Retry{
			Statuses: []resilience.StatusRange{{First: 500, Last: 599}}, Codes: 1<<1 | 1<<14, Limit: 2, Timeout: 400 * ms,
			Backoff: resilience.Backoff{Min: 25 * ms, Max: 250 * ms, Jitter: 1}, Budget: resilience.BudgetPolicy{Ratio: 0.2, PerSecond: 10, Window: 10 * time.Second},
		},
		Accrual: &resilience.Accrual{
			Consecutive: 7, Backoff: resilience.Backoff{Min: time.Second, Max: time.Minute, Jitter: 0.5}, HonorRetryAfter: true,
			Rate: resilience.RatePolicy{Threshold: 0.8, Window: 10 * time.Second, MinRequests: 5},
		},
		Penalty: &resilience.Penalty{Time: 5 * time.Second, MaxRetryAfter: 5 * time.Minute},
	}
	eventually(t, "the policy", func() bool { return target.Load().Traffic.Equal(want) })
	f.say(delta(3, []*destapi.Endpoint{endpoint("10.1.0.2:80")}))
	eventually(t, "a delta", func() bool { return len(target.Load().Endpoints) == 2 })
	if !target.Load().Traffic.Equal(want) {
		t.Errorf("after a change of endpoints %+v", target.Load().Traffic)
	}
	f.say(service(4, "10.1.0.1:80"))
	eventually(t, "no policy", func() bool { return target.Load().Traffic == nil })
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
		"retries without end": bad(func(t *destapi.Target) {
			t.Traffic = &destapi.Traffic{Retry: &destapi.Retry{Limit: 1 << 31}}
		}),
		"a jitter that is no number": bad(func(t *destapi.Target) {
			t.Traffic = &destapi.Traffic{Retry: &destapi.Retry{Limit: 1, Backoff: &destapi.Backoff{Jitter: math.NaN()}}}
		}),
		"a status of its own": bad(func(t *destapi.Target) {
			t.Traffic = &destapi.Traffic{Retry: &destapi.Retry{Limit: 1, Statuses: []*destapi.StatusRange{{First: 500, Last: 999}}}}
		}),
		"a breaker without rest": bad(func(t *destapi.Target) { t.Traffic = &destapi.Traffic{Accrual: &destapi.Accrual{Consecutive: 1}} }),
		"a rate of nothing": bad(func(t *destapi.Target) {
			t.Traffic = &destapi.Traffic{Accrual: &destapi.Accrual{Backoff: &destapi.Backoff{MaxMs: 1}, Rate: &destapi.SuccessRate{Threshold: 0.5}}}
		}),
		"a timeout of ages": bad(func(t *destapi.Target) {
			t.Traffic = &destapi.Traffic{Timeouts: &destapi.Timeouts{RequestMs: 1 << 63}}
		}),
		"an old version":      service(1, "10.1.0.5:80"),
		"a gap":               delta(3, nil, "10.1.0.1:80"),
		"a delta again":       delta(1, nil, "10.1.0.1:80"),
		"removes what is not": delta(2, nil, "10.1.0.77:80"),
		"removes garbage":     delta(2, nil, "x"),
		"puts garbage":        delta(2, []*destapi.Endpoint{{Address: "10.1.0.5:80"}}),
		"puts and removes":    delta(2, []*destapi.Endpoint{endpoint("10.1.0.1:80")}, "10.1.0.1:80"),
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
			eventually(t, "refused", func() bool { return s.refused() > 0 })
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
	eventually(t, "refused", func() bool { return s.refused() > 0 })
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
