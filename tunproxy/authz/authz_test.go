package authz

import (
	"net/netip"
	"testing"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

var (
	id      = spiffe.ID{TrustDomain: "cluster.local", Namespace: "prod", ServiceAccount: "web"}
	inside  = netip.MustParseAddr("10.1.2.3")
	inside6 = netip.MustParseAddr("fd00::7")
	outside = netip.MustParseAddr("192.0.2.1")
)

func policy(t testing.TB, d Default, probes ...Probe) *Policy {
	t.Helper()
	p, err := New(Config{
		Default:  d,
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Probes:   probes,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaults(t *testing.T) {
	for _, tt := range []struct {
		def                     Default
		name                    string
		in, inID, out, outID    bool // of Connection and Request
		admitInside, admitOther bool
	}{
		{AllUnauthenticated, "all-unauthenticated", true, true, true, true, true, true},
		{AllAuthenticated, "all-authenticated", false, true, false, true, true, true},
		{ClusterUnauthenticated, "cluster-unauthenticated", true, true, false, false, true, false},
		{ClusterAuthenticated, "cluster-authenticated", false, true, false, false, true, false},
		{Deny, "deny", false, false, false, false, false, false},
		{Audit, "audit", true, true, true, true, true, true},
	} {
		p := policy(t, tt.def)
		if d, err := ParseDefault(tt.name); err != nil || d != tt.def || d.String() != tt.name {
			t.Errorf("ParseDefault(%q) = %v, %v", tt.name, d, err)
		}
		for _, c := range []struct {
			client Client
			want   bool
		}{
			{Client{Addr: inside}, tt.in},
			{Client{Addr: inside6}, tt.in},
			{Client{Addr: netip.MustParseAddr("::ffff:10.1.2.3")}, tt.in},
			{Client{Addr: netip.MustParseAddr("fd00::7%eth0")}, tt.in},
			{Client{Addr: inside, ID: id}, tt.inID},
			{Client{Addr: outside}, tt.out},
			{Client{Addr: outside, ID: id}, tt.outID},
			{Client{}, tt.out},
		} {
			con, req := p.Connection(80, c.client), p.Request(80, c.client, "GET", "/")
			if con.Allow != c.want || req.Allow != c.want {
				t.Errorf("%v, %+v: connection %v, request %v, want %v", tt.def, c.client, con.Allow, req.Allow, c.want)
			}
			if con.Allow != (con.Authz.Name != "") || con.Server.Name != tt.name || con.Server.Kind != "default" || con.Reason.denies() == con.Allow {
				t.Errorf("%v, %+v: labels %+v", tt.def, c.client, con)
			}
			if con.Audit != (tt.def == Audit) {
				t.Errorf("%v: audit %v", tt.def, con.Audit)
			}
		}
		if got := p.Admit(80, inside).Allow; got != tt.admitInside {
			t.Errorf("%v: admit inside %v", tt.def, got)
		}
		if got := p.Admit(80, outside).Allow; got != tt.admitOther {
			t.Errorf("%v: admit outside %v", tt.def, got)
		}
	}
}

func TestUnknownDenies(t *testing.T) {
	var p *Policy
	for _, d := range []*Decision{p.Admit(80, inside), p.Connection(80, Client{inside, id}), p.Request(80, Client{inside, id}, "GET", "/")} {
		if d.Allow || d.Reason != PolicyUnknown {
			t.Errorf("%+v", d)
		}
	}
	if p.Default() != 0 {
		t.Error("the unknown policy has a default")
	}
}

func TestProbes(t *testing.T) {
	for _, def := range []Default{Deny, AllAuthenticated, ClusterUnauthenticated, ClusterAuthenticated} {
		p := policy(t, def, Probe{8080, "GET", "/live?full=1"}, Probe{9090, "POST", "/grpc.health.v1.Health/Check"}, Probe{5432, "", ""})
		for _, tt := range []struct {
			port         uint16
			method, path string
			want         bool
		}{
			{8080, "GET", "/live?full=1", true},
			{8080, "GET", "/live", false},
			{8080, "GET", "/live?full=1&x", false},
			{8080, "GET", "/live?full=1/../admin", false},
			{8080, "POST", "/live?full=1", false},
			{8080, "HEAD", "/live?full=1", false},
			{8081, "GET", "/live?full=1", false},
			{9090, "POST", "/grpc.health.v1.Health/Check", true},
			{9090, "POST", "/grpc.health.v1.Health/Watch", false},
			{5432, "", "", false},
			{5432, "GET", "/", false},
		} {
			d := p.Request(tt.port, Client{Addr: outside}, tt.method, tt.path)
			if d.Allow != tt.want || tt.want && (d.Reason != ByProbe || d.Authz.Name != "probe") {
				t.Errorf("%v: %s %d%s: %+v", def, tt.method, tt.port, tt.path, d)
			}
		}
		// The handshake is admitted on probed ports only, and bytes on none.
		for port, want := range map[uint16]bool{8080: true, 9090: true, 5432: true, 8081: false} {
			want = want || def == AllAuthenticated // anybody might prove an identity
			if got := p.Admit(port, outside).Allow; got != want {
				t.Errorf("%v: admit on %d: %v", def, port, got)
			}
			if p.Connection(port, Client{Addr: outside}).Allow {
				t.Errorf("%v: bytes on %d are allowed", def, port)
			}
		}
	}
	// Where the default allows, it is the default that allows.
	p := policy(t, AllUnauthenticated, Probe{8080, "GET", "/live"})
	if d := p.Request(8080, Client{Addr: outside}, "GET", "/live"); d.Reason != ByDefault {
		t.Errorf("%+v", d)
	}
}

func TestNoNetworks(t *testing.T) {
	p, err := New(Config{Default: ClusterUnauthenticated})
	if err != nil {
		t.Fatal(err)
	}
	if p.Connection(80, Client{Addr: inside}).Allow {
		t.Error("without networks nobody is in the cluster")
	}
}

func TestMalformed(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no default":       {},
		"unknown default":  {Default: 7},
		"invalid network":  {Default: Deny, Networks: []netip.Prefix{{}}},
		"probe, no port":   {Default: Deny, Probes: []Probe{{Method: "GET", Path: "/"}}},
		"probe, no path":   {Default: Deny, Probes: []Probe{{Port: 1, Method: "GET"}}},
		"probe, bad path":  {Default: Deny, Probes: []Probe{{Port: 1, Method: "GET", Path: "live"}}},
		"default too high": {Default: 255},
	} {
		if p, err := New(cfg); err == nil || p != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, s := range []string{"", "Deny", "allow", "all"} {
		if _, err := ParseDefault(s); err == nil {
			t.Errorf("ParseDefault(%q) accepted", s)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	p := policy(t, ClusterAuthenticated, Probe{8080, "GET", "/live"})
	var p0 *Policy
	if n := testing.AllocsPerRun(100, func() {
		p.Admit(80, inside)
		p.Connection(80, Client{inside, id})
		p.Request(8080, Client{Addr: outside}, "GET", "/live")
		p0.Request(8080, Client{Addr: outside}, "GET", "/live")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
