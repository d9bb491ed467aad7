package destination

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	api "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/encode"
)

// encoder holds the encodings of one target's latest snapshot, for all streams
// that watch it. A stream has versions of its own, so what is shared is the rest
// of an Update; the version is put before it.
type encoder struct {
	refs int // streams; guarded by the server

	mu   sync.Mutex
	to   *catalog.Target
	full []byte
	// deltas are from other snapshots to this one. Streams that keep up all come
	// from the same; slow ones from a few.
	deltas map[*catalog.Target][]byte
}

// maxDeltas bounds the deltas that are kept for one snapshot.
const maxDeltas = 8

// message is the Update that brings a stream from a snapshot (nil: nothing yet)
// to another.
func (e *encoder) message(from, to *catalog.Target, version uint64) (*encode.Message, error) {
	body, err := e.body(from, to)
	if err != nil {
		return nil, err
	}
	head := protowire.AppendTag(nil, 1, protowire.VarintType)
	head = protowire.AppendVarint(head, version)
	return &encode.Message{Parts: [][]byte{head, body}}, nil
}

func (e *encoder) body(from, to *catalog.Target) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.to != to {
		if e.to != nil && e.to.Addr == to.Addr && e.to.Version > to.Version {
			return marshal(from, to) // a stream that loaded just before a change
		}
		e.to, e.full, e.deltas = to, nil, map[*catalog.Target][]byte{}
	}
	if from == nil || !from.SameBut(to) {
		if e.full == nil {
			var err error
			if e.full, err = marshal(nil, to); err != nil {
				return nil, err
			}
		}
		return e.full, nil
	}
	if b, ok := e.deltas[from]; ok {
		return b, nil
	}
	b, err := marshal(from, to)
	if err == nil && len(e.deltas) < maxDeltas {
		e.deltas[from] = b
	}
	return b, err
}

// marshal encodes an Update without its version.
func marshal(from, to *catalog.Target) ([]byte, error) {
	u := &api.Update{Change: &api.Update_Target{Target: target(to)}}
	if from != nil && from.SameBut(to) {
		u.Change = &api.Update_Delta{Delta: delta(from, to)}
	}
	return proto.Marshal(u)
}

// target is a snapshot as the wire API carries it.
func target(t *catalog.Target) *api.Target {
	m := &api.Target{
		Kind: api.Kind(t.Kind), Protocol: api.Protocol(t.Protocol), Authority: t.Authority, Labels: t.Labels,
		Endpoints: make([]*api.Endpoint, 0, len(t.Endpoints)), Traffic: traffic(t.Traffic),
	}
	if t.Ref.Kind != "" {
		m.Ref = &api.Ref{Kind: t.Ref.Kind, Namespace: t.Ref.Namespace, Name: t.Ref.Name, Port: uint32(t.Port)}
	}
	for _, e := range t.Endpoints {
		m.Endpoints = append(m.Endpoints, endpoint(e))
	}
	return m
}

func endpoint(e catalog.Endpoint) *api.Endpoint {
	return &api.Endpoint{
		Address: e.Addr.String(), Weight: e.Weight, Zone: e.Zone, Identity: e.Identity.String(),
		Protocol: api.Protocol(e.Protocol), Labels: e.Labels,
	}
}

func delta(from, to *catalog.Target) *api.EndpointDelta {
	put, remove := catalog.EndpointsDiff(from.Endpoints, to.Endpoints)
	d := &api.EndpointDelta{}
	for _, e := range put {
		d.Put = append(d.Put, endpoint(e))
	}
	for _, a := range remove {
		d.Remove = append(d.Remove, a.String())
	}
	return d
}
