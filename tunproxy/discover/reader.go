package discover

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// maxShared bounds the zones and identities that a reader keeps, so that the
// endpoints which have them share one. Others have their own copy.
const maxShared = 64

// reader makes the snapshots of one target, and what its endpoints share. Its
// zero value is good.
type reader struct {
	m     wire.Endpoint // used again for each of a message
	pack  []byte
	zones map[string]string
	ids   map[string]spiffe.ID
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
	*to = Endpoint{Addr: a, Weight: m.Weight, Zone: r.zone(m.Zone), Protocol: p, Labels: r.labels(m.Labels)}
	if len(m.Identity) > 0 { // "" alone means "not meshed"; what can't be read must not
		if to.Identity, err = r.identity(m.Identity); err != nil {
			return fmt.Errorf("endpoint %s: %w", a, err)
		}
	}
	return nil
}

func (r *reader) zone(b []byte) string {
	if s, ok := r.zones[string(b)]; ok {
		return s
	}
	s := string(b)
	if r.zones == nil {
		r.zones = map[string]string{}
	}
	if len(r.zones) < maxShared {
		r.zones[s] = s
	}
	return s
}

func (r *reader) identity(b []byte) (spiffe.ID, error) {
	if id, ok := r.ids[string(b)]; ok {
		return id, nil
	}
	id, err := spiffe.Parse(string(b))
	if err != nil {
		return id, err
	}
	if r.ids == nil {
		r.ids = map[string]spiffe.ID{}
	}
	if len(r.ids) < maxShared {
		r.ids[string(b)] = id
	}
	return id, nil
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
