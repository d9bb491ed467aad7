package discover

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Kind says what is behind an address.
type Kind uint8

// The kinds; the numbers are those of tunmesh.destination.v1.Kind.
const (
	// Service: balance over endpoints. No endpoint: refuse.
	Service Kind = iota + 1
	// Pod: a pod of the mesh's network by its own address: one endpoint.
	Pod
	// External: no Service and no pod: one plain endpoint, the address itself.
	External
	// None: of the mesh's address ranges, but nobody's: refuse.
	None
)

func (k Kind) String() string {
	switch k {
	case Service:
		return "service"
	case Pod:
		return "pod"
	case External:
		return "external"
	case None:
		return "none"
	}
	return "unknown"
}

// Ref names the resource behind a target; zero for External and None.
type Ref struct {
	Kind, Namespace, Name string
	Port                  uint16
}

// A Snapshot is what is behind one address. It is immutable.
type Snapshot struct {
	// Version grows with each change of this target, over reconnects too.
	Version   uint64
	Kind      Kind
	Protocol  flow.Protocol
	Ref       Ref
	Authority string
	// Labels of the target in metrics.
	Labels map[string]string
	// Endpoints, each address once.
	Endpoints []Endpoint
	// Traffic is what the Service asks of its callers; nil: nothing.
	Traffic *resilience.Policy
}

// Endpoint is a place that a target's connections go. It is comparable.
type Endpoint struct {
	Addr     netip.AddrPort
	Weight   uint32 // at least 1; 10000 is the default
	Protocol flow.Protocol
	Workload Workload
	// Own are the labels that the rest of the workload does not have.
	Own Labels
}

// Identity is the only one accepted from this endpoint. The zero ID is the
// explicit statement that it speaks plain text.
func (e *Endpoint) Identity() spiffe.ID { return e.Workload.Identity() }

// Meshed reports whether the endpoint has a sidecar.
func (e *Endpoint) Meshed() bool { return !e.Identity().IsZero() }

// Labels of the endpoint in metrics, without "dst_", its zone among them where one is
// known; they are the caller's.
func (e *Endpoint) Labels() map[string]string {
	m := map[string]string{}
	if z := e.Workload.Zone(); z != "" {
		m["zone"] = z
	}
	e.Workload.Labels().into(m)
	e.Own.into(m)
	return m
}

var errNoKind = errors.New("the target has no kind")

// maxEndpoints bounds one target, against a control plane gone wrong.
const maxEndpoints = 100_000

// snapshot checks a whole state and makes it a Snapshot. m may be borrowed.
func (r *reader) snapshot(addr netip.AddrPort, m *wire.Target) (*Snapshot, error) {
	if m.Kind == wire.KindUnspecified {
		return nil, errNoKind
	}
	if m.Kind > wire.KindNone {
		return nil, fmt.Errorf("kind %d is not known", m.Kind)
	}
	if m.Ref.Port > math.MaxUint16 {
		return nil, fmt.Errorf("ref: port %d", m.Ref.Port)
	}
	p, err := protocol(m.Protocol)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{
		Kind: Kind(m.Kind), Protocol: p, Authority: m.Authority, Labels: m.Labels,
		Ref: Ref{m.Ref.Kind, m.Ref.Namespace, m.Ref.Name, uint16(m.Ref.Port)},
	}
	if s.Endpoints, err = r.endpoints(nil, m.Endpoints, nil); err != nil {
		return nil, err
	}
	if s.Traffic, err = trafficOf(m.Traffic); err != nil {
		return nil, err
	}
	return s, s.check(addr)
}

// apply makes the next Snapshot from s and a delta.
func (r *reader) apply(s *Snapshot, addr netip.AddrPort, d *wire.EndpointDelta) (*Snapshot, error) {
	n := *s
	var err error
	if n.Endpoints, err = r.endpoints(s.Endpoints, d.Put, d.Remove); err != nil {
		return nil, err
	}
	return &n, n.check(addr)
}

// check holds a state to what its kind promises.
func (s *Snapshot) check(addr netip.AddrPort) error {
	n := len(s.Endpoints)
	switch s.Kind {
	case Pod:
		if n != 1 {
			return fmt.Errorf("a pod with %d endpoints", n)
		}
	case External:
		if n != 1 || s.Endpoints[0].Addr != addr || s.Endpoints[0].Meshed() {
			return fmt.Errorf("an external address must be its own only endpoint, without identity")
		}
	case None:
		if n != 0 {
			return fmt.Errorf("nobody's address with %d endpoints", n)
		}
	case Service:
	}
	return nil
}
