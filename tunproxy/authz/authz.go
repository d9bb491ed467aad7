// Package authz says who may talk to the pod: decisions about inbound connections
// and requests, each with its reason and the names it has in metrics. It owns the
// six default policies (Linkerd's) and the rule for probes; it refuses to know
// connections, certificates, where policy comes from, and what is done about a
// refusal.
//
// A decision is asked for at three moments, each of which knows more:
//
//	Admit       at the SYN:          port and address; no only if nobody could be allowed
//	Connection  first bytes, opaque: + the identity that was proved, if any
//	Request     each HTTP request:   + method and path
//
// A Policy never changes; a new one replaces it, and what is long-lived asks again.
// The nil Policy is "not known yet" and denies everything.
package authz

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Default is what holds where no rule says otherwise. The numbers are those of
// tunmesh.policy.v1.Default.
type Default uint8

// The six values; the zero value is none of them.
const (
	// AllUnauthenticated: everybody.
	AllUnauthenticated Default = iota + 1
	// AllAuthenticated: every workload of the mesh, wherever it is.
	AllAuthenticated
	// ClusterUnauthenticated: every address of the cluster's networks.
	ClusterUnauthenticated
	// ClusterAuthenticated: every workload of the mesh in the cluster's networks.
	ClusterAuthenticated
	// Deny: nobody.
	Deny
	// Audit: everybody, and it is noted who.
	Audit
)

// names are in the order of the constants; a constant.
var names = [...]string{
	"", "all-unauthenticated", "all-authenticated", "cluster-unauthenticated", "cluster-authenticated", "deny", "audit",
}

func (d Default) String() string {
	if d == 0 || int(d) >= len(names) {
		return fmt.Sprintf("default(%d)", uint8(d))
	}
	return names[d]
}

// ParseDefault reads the annotation's value.
func ParseDefault(s string) (Default, error) {
	if i := slices.Index(names[:], s); i > 0 {
		return Default(i), nil
	}
	return 0, fmt.Errorf("parse default inbound policy %q: want one of %v", s, names[1:])
}

// Probe is a probe of the pod's own specification.
type Probe struct {
	Port uint16
	// Method is "" for a TCP probe, which connects and says nothing.
	Method string
	// Path with its query, exactly as the kubelet sends it.
	Path string
}

// Config is a policy as the control plane states it.
type Config struct {
	Default Default
	// Networks are the cluster's, for the two cluster policies. Empty: no address
	// is in the cluster.
	Networks []netip.Prefix
	Probes   []Probe
}

// Client is who wants in.
type Client struct {
	// Addr is the true source.
	Addr netip.Addr
	// ID was proved by a certificate; zero when nothing was.
	ID spiffe.ID
}

// Policy is a compiled Config.
type Policy struct {
	def      Default
	networks []netip.Prefix
	probes   []Probe
	verdicts [reasons]Decision
}

// New checks a Config and compiles it. A Config that is not understood whole is an
// error, so that the caller keeps the policy it has.
func New(cfg Config) (*Policy, error) {
	if cfg.Default < AllUnauthenticated || cfg.Default > Audit {
		return nil, fmt.Errorf("compile inbound policy: unknown default %d", uint8(cfg.Default))
	}
	p := &Policy{def: cfg.Default}
	for _, n := range cfg.Networks {
		if !n.IsValid() {
			return nil, fmt.Errorf("compile inbound policy: invalid cluster network")
		}
		p.networks = append(p.networks, n.Masked())
	}
	for i, probe := range cfg.Probes {
		if probe.Port == 0 || probe.Method != "" && (probe.Path == "" || probe.Path[0] != '/') {
			return nil, fmt.Errorf("compile inbound policy: probe %d (%+v) needs a port, and a path that begins with / if it has a method", i, probe)
		}
		p.probes = append(p.probes, probe)
	}
	for r := range reasons {
		p.verdicts[r] = p.decision(r)
	}
	return p, nil
}

// Default is the policy's default.
func (p *Policy) Default() Default {
	if p == nil {
		return 0
	}
	return p.def
}

// Admit says whether a SYN may be answered: whether somebody at addr could be
// allowed on port, given a proof or the right request.
func (p *Policy) Admit(port uint16, addr netip.Addr) *Decision {
	if p == nil {
		return &unknown
	}
	r := p.judge(Client{Addr: addr, ID: somebody})
	if r.denies() && p.probed(port) {
		r = ByProbe // the request, or its absence, will tell
	}
	return &p.verdicts[r]
}

// Connection says whether a client may exchange bytes on port. A probe gives no
// right to that: a TCP probe has what it wants when it is connected.
func (p *Policy) Connection(_ uint16, c Client) *Decision {
	if p == nil {
		return &unknown
	}
	return &p.verdicts[p.judge(c)]
}

// Request says whether a client may have a request served. path is the request
// target's, with its query.
func (p *Policy) Request(port uint16, c Client, method, path string) *Decision {
	if p == nil {
		return &unknown
	}
	r := p.judge(c)
	if r.denies() && p.isProbe(port, method, path) {
		r = ByProbe
	}
	return &p.verdicts[r]
}

// somebody stands for any proved identity.
var somebody = spiffe.ID{TrustDomain: "*", Namespace: "*", ServiceAccount: "*"}

func (p *Policy) judge(c Client) Reason {
	switch p.def {
	case AllUnauthenticated:
		return ByDefault
	case Audit:
		return ByAudit
	case AllAuthenticated:
		if c.ID.IsZero() {
			return NoIdentity
		}
		return ByDefault
	case ClusterUnauthenticated:
		if !p.inCluster(c.Addr) {
			return OutsideCluster
		}
		return ByDefault
	case ClusterAuthenticated:
		switch {
		case !p.inCluster(c.Addr):
			return OutsideCluster
		case c.ID.IsZero():
			return NoIdentity
		}
		return ByDefault
	}
	return Denied
}

func (p *Policy) inCluster(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, n := range p.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (p *Policy) probed(port uint16) bool {
	for i := range p.probes {
		if p.probes[i].Port == port {
			return true
		}
	}
	return false
}

// IsProbe reports whether a request looks like one of the pod's probes, which
// are not counted as traffic, whatever the policy says.
func (p *Policy) IsProbe(port uint16, method, path string) bool {
	return p != nil && p.isProbe(port, method, path)
}

// IsConnectProbe reports whether one of the pod's probes connects to port and
// says nothing.
func (p *Policy) IsConnectProbe(port uint16) bool {
	return p != nil && slices.ContainsFunc(p.probes, func(q Probe) bool { return q.Port == port && q.Method == "" })
}

func (p *Policy) isProbe(port uint16, method, path string) bool {
	for i := range p.probes {
		q := &p.probes[i]
		if q.Method != "" && q.Port == port && q.Method == method && q.Path == path {
			return true
		}
	}
	return false
}
