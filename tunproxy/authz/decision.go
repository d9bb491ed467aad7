package authz

// Reason is why somebody was allowed or denied.
type Reason uint8

// The reasons.
const (
	// PolicyUnknown: the control plane has not said what holds.
	PolicyUnknown Reason = iota
	// Denied: the default is deny.
	Denied
	// NoIdentity: the policy wants a proved identity.
	NoIdentity
	// OutsideCluster: the policy wants an address of the cluster's networks.
	OutsideCluster
	// ByDefault: the default allows it.
	ByDefault
	// ByProbe: it is, or may become, a probe of the pod's specification.
	ByProbe
	// ByAudit: everything is allowed and noted.
	ByAudit

	reasons
)

// Reasons is the number of reasons, for tables of figures.
const Reasons = int(reasons)

func (r Reason) denies() bool { return r < ByDefault }

// Allows reports whether decisions for this reason allow.
func (r Reason) Allows() bool { return !r.denies() }

func (r Reason) String() string {
	switch r {
	case PolicyUnknown:
		return "inbound policy not known yet"
	case Denied:
		return "denied by default"
	case NoIdentity:
		return "client has no mesh identity"
	case OutsideCluster:
		return "client is outside the cluster networks"
	case ByDefault:
		return "allowed by default"
	case ByProbe:
		return "allowed as probe"
	case ByAudit:
		return "allowed by audit"
	}
	return "unknown"
}

// Decision is an answer. It is shared and not to be changed.
type Decision struct {
	Allow bool
	// Audit: the decision is to be noted, one by one.
	Audit  bool
	Reason Reason
	// Server and Authz name, in metrics, the policy that applied (srv_kind,
	// srv_name) and what in it allowed (authz_kind, authz_name; "" when nothing did).
	Server, Authz Name
}

// Name is a group, kind and name of labels.
type Name struct{ Group, Kind, Name string }

// unknown is the nil policy's answer; a constant.
var unknown = Decision{Reason: PolicyUnknown, Server: Name{Kind: "default", Name: "unknown"}}

func (p *Policy) decision(r Reason) Decision {
	d := Decision{
		Allow:  !r.denies(),
		Audit:  r == ByAudit,
		Reason: r,
		Server: Name{Kind: "default", Name: p.def.String()},
	}
	switch r {
	case ByDefault, ByAudit:
		d.Authz = Name{Kind: "default", Name: p.def.String()}
	case ByProbe:
		d.Authz = Name{Kind: "default", Name: "probe"}
	}
	return d
}
