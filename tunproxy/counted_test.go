package tunproxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
)

func TestCountsOfSeveralNames(t *testing.T) {
	p := newPair(t, nil)
	var c counts
	f := new(flow.Secured)
	f.Direction, f.OrigDst = flow.Inbound, behind
	decide := func(method string) *authz.Decision {
		return p.b.p.policy().Authz().Request(80, authz.Client{Addr: netip.MustParseAddr("10.0.0.9")}, method, "/ready")
	}
	probe, denied := decide("GET"), decide("POST")
	if !probe.Allow || denied.Allow {
		t.Fatal("the policy is not what this test is about")
	}
	find := func(d *authz.Decision, name string) {
		k := c.find(p.b, f, d, name)
		k.judged.Inc()
		k.requests.Request()
	}
	for range 10 {
		find(probe, "a")
		find(probe, "b")
		find(denied, "a")
	}
	if len(c.all) != 3 {
		t.Errorf("%d handles for three kinds of requests", len(c.all))
	}
	if n := testing.AllocsPerRun(100, func() { find(probe, "b"); find(denied, "a") }); n != 0 {
		t.Errorf("%v allocations to find what is known", n)
	}
	for i := range 10 * maxCounted {
		find(probe, fmt.Sprint("invented-", i))
	}
	if len(c.all) != maxCounted {
		t.Errorf("%d handles are held", len(c.all))
	}
	find(denied, "a") // had to give way, and counts on
	c.release()
	text := string(p.b.p.cfg.Metrics.Registry.Text())
	for _, want := range []string{
		`request_total{direction="inbound",authority="a",target_addr="10.0.0.2:80"`,
		`request_total{direction="inbound",authority="b",`,
		`inbound_http_authz_deny_total{`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, `inbound_http_authz_deny_total{`) && !strings.HasSuffix(line, " 112\n") { // 10 + 101 + 1
			t.Errorf("denied: %s", line)
		}
	}
}
