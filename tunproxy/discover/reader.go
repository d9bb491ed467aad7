package discover

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// maxShared bounds the workloads that a reader remembers by what came, so that they
// are neither parsed nor looked for again. Most Services have one.
const maxShared = 64

// reader makes the snapshots of one target, and what its endpoints share. Its
// zero value is good.
type reader struct {
	m           wire.Endpoint // used again for each of a message
	own, others []byte        // its labels
	key         []byte
	workloads   map[string]Workload
}

// endpoints puts and removes; it returns a new list in the old one's order.
func (r *reader) endpoints(old []Endpoint, put wire.Endpoints, remove []string) ([]Endpoint, error) {
	const gone = -1
	// What changes, by address: gone, or the index in fresh.
	changes := make(map[netip.AddrPort]int32, len(put)+len(remove))
	for _, s := range remove {
		a, err := address(s)
		if err != nil {
			return nil, fmt.Errorf("remove: %w", err)
		}
		changes[a] = gone
	}
	left := len(changes) // to be found among the old ones
	if len(put) > maxEndpoints {
		return nil, fmt.Errorf("%d endpoints, at most %d are taken", len(put), maxEndpoints)
	}
	fresh := make([]Endpoint, len(put))
	defer func() { r.m = wire.Endpoint{} }() // it would keep the message of all endpoints
	for i, b := range put {
		e := &fresh[i]
		if err := r.endpoint(e, b); err != nil {
			return nil, err
		}
		if _, twice := changes[e.Addr]; twice {
			return nil, fmt.Errorf("endpoint %s comes twice", e.Addr)
		}
		changes[e.Addr] = int32(i) //nolint:gosec // below maxEndpoints
	}
	all := fresh
	if len(old) > 0 {
		all = make([]Endpoint, 0, len(old)+len(fresh)-left)
		for i := range old {
			switch j, changed := changes[old[i].Addr]; {
			case !changed:
				all = append(all, old[i])
			case j == gone:
				left--
			default:
				all = append(all, fresh[j])
				delete(changes, old[i].Addr)
			}
		}
		for i := range fresh {
			if _, ok := changes[fresh[i].Addr]; ok { // was not there before
				all = append(all, fresh[i])
			}
		}
	}
	switch {
	case left > 0:
		return nil, errors.New("remove: an endpoint that is not there")
	case len(all) > maxEndpoints:
		return nil, fmt.Errorf("%d endpoints, at most %d are taken", len(all), maxEndpoints)
	}
	return all, nil
}

func (r *reader) endpoint(to *Endpoint, b []byte) error {
	m := &r.m
	if err := m.Decode(b); err != nil {
		return err
	}
	a, err := address(string(m.Address))
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	if m.Weight == 0 {
		return fmt.Errorf("endpoint %s: weight 0", a)
	}
	p, err := protocol(m.Protocol)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", a, err)
	}
	r.labels(m.Labels)
	w, err := r.workload(m.Zone, m.Identity)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", a, err)
	}
	*to = Endpoint{Addr: a, Weight: m.Weight, Protocol: p, Workload: w, Own: Labels{string(r.own)}}
	return nil
}

// workload is that of an endpoint whose labels were read.
func (r *reader) workload(zone, identity []byte) (Workload, error) {
	r.key = append(appendText(appendText(r.key[:0], zone), identity), r.others...)
	if w, ok := r.workloads[string(r.key)]; ok {
		return w, nil
	}
	var id spiffe.ID
	if len(identity) > 0 { // "" alone means "not meshed"; what can't be read must not
		var err error
		if id, err = spiffe.Parse(string(identity)); err != nil {
			return Workload{}, err
		}
	}
	w := WorkloadOf(string(zone), id, Labels{string(r.others)})
	if r.workloads == nil {
		r.workloads = map[string]Workload{}
	}
	if len(r.workloads) < maxShared {
		r.workloads[string(r.key)] = w
	}
	return w, nil
}

// address wants the canonical form, so that one endpoint has one spelling.
func address(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("address %q: want IP:port", s)
	}
	if a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().IsUnspecified() || a.Addr() != a.Addr().Unmap() {
		return a, fmt.Errorf("address %q cannot be dialled", s)
	}
	return a, nil
}

func protocol(p uint32) (flow.Protocol, error) {
	if p > uint32(flow.TLS) {
		return 0, fmt.Errorf("protocol %d is not known", p)
	}
	return flow.Protocol(p), nil
}
