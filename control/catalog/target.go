package catalog

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Kind says what sort of thing is behind an address. The numbers are those of
// tunmesh.destination.v1.Kind.
type Kind uint8

// Kinds of targets.
const (
	// TargetService: balance over endpoints; none of them = refuse.
	TargetService Kind = iota + 1
	// TargetPod: one pod, by its own address.
	TargetPod
	// TargetExternal: no Service and no pod, and not of the mesh's ranges.
	TargetExternal
	// TargetNone: of the mesh's ranges, but nobody's.
	TargetNone
)

// String names the kind as the wire API does.
func (k Kind) String() string {
	switch k {
	case TargetService:
		return "SERVICE"
	case TargetPod:
		return "POD"
	case TargetExternal:
		return "EXTERNAL"
	case TargetNone:
		return "NONE"
	}
	return "UNSPECIFIED"
}

// DefaultWeight is the weight of an endpoint that nothing says otherwise of.
const DefaultWeight = 10000

// Target is a snapshot of what is behind one address. Immutable.
type Target struct {
	// Version grows with each snapshot of the address, from 1.
	Version   uint64
	Addr      netip.AddrPort
	Kind      Kind
	Ref       Ref    // zero for TargetExternal and TargetNone
	Port      uint16 // of Ref
	Protocol  Protocol
	Authority string // host:port, "" when there is no name
	// Labels are metric labels of the target ("namespace", "service"), without
	// the "dst_" that a client's metrics put before them.
	Labels map[string]string
	// Endpoints are sorted by address, each address once.
	Endpoints []Endpoint
	// Traffic is what the Service asks of its callers; nil: nothing.
	Traffic *Traffic
	// Local: a client gets endpoints of its own node only.
	Local bool
}

// Endpoint is one place that a target's connections go.
type Endpoint struct {
	Addr   netip.AddrPort
	Weight uint32
	Zone   string
	// Identity is the only peer that may answer; zero is the explicit statement
	// "not meshed".
	Identity spiffe.ID
	// Protocol is what the pod says of its own port.
	Protocol Protocol
	Labels   map[string]string
	Pod      Key // zero when no pod is behind it
	Ready    bool
	Node     string
	Hints    *Hints // nil: it is for clients everywhere
}

// Equal compares endpoints whole.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Addr == o.Addr && e.Weight == o.Weight && e.Zone == o.Zone && e.Identity == o.Identity &&
		e.Protocol == o.Protocol && e.Pod == o.Pod && e.Ready == o.Ready && e.Node == o.Node &&
		e.Hints.Equal(o.Hints) && maps.Equal(e.Labels, o.Labels)
}

// SameBut reports whether two snapshots differ in their endpoints at most.
func (t *Target) SameBut(o *Target) bool {
	return t.Addr == o.Addr && t.Kind == o.Kind && t.Local == o.Local && t.Ref == o.Ref && t.Port == o.Port &&
		t.Protocol == o.Protocol && t.Authority == o.Authority && maps.Equal(t.Labels, o.Labels) && t.Traffic.Equal(o.Traffic)
}

// same compares snapshots in everything but the version.
func (t *Target) same(o *Target) bool {
	return t.SameBut(o) && slices.EqualFunc(t.Endpoints, o.Endpoints, Endpoint.Equal)
}

// EndpointsDiff says how to get from one list of endpoints to another: both are
// sorted by address, as those of a Target are.
func EndpointsDiff(from, to []Endpoint) (put []Endpoint, remove []netip.AddrPort) {
	for len(from) > 0 || len(to) > 0 {
		switch {
		case len(to) == 0 || len(from) > 0 && from[0].Addr.Compare(to[0].Addr) < 0:
			remove = append(remove, from[0].Addr)
			from = from[1:]
		case len(from) == 0 || to[0].Addr.Compare(from[0].Addr) < 0:
			put = append(put, to[0])
			to = to[1:]
		default:
			if !from[0].Equal(to[0]) {
				put = append(put, to[0])
			}
			from, to = from[1:], to[1:]
		}
	}
	return put, remove
}
