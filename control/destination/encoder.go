package destination

import (
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	api "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/encode"
)

// encoder holds the encodings of one address's latest snapshots, for all streams
// that watch it. A stream has versions of its own, so what is shared is the rest
// of an Update; the version is put before it.
type encoder struct {
	refs int // streams; guarded by the server

	mu     sync.Mutex
	recent []*encoding // the latest last
}

// encoding is one snapshot, encoded.
type encoding struct {
	to   *catalog.Target
	full []byte
	// deltas are from other snapshots to this one. Streams that keep up all come
	// from the same; slow ones from a few.
	deltas map[*catalog.Target][]byte
}

const (
	// maxDeltas bounds the deltas that are kept for one snapshot.
	maxDeltas = 8
	// maxRecent bounds the snapshots of an address that are kept: streams in
	// different zones may each see one of their own.
	maxRecent = 16
)

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
	enc := e.encoding(to)
	if from == nil || !from.SameBut(to) {
		if enc.full == nil {
			var err error
			if enc.full, err = marshal(nil, to); err != nil {
				return nil, err
			}
		}
		return enc.full, nil
	}
	if b, ok := enc.deltas[from]; ok {
		return b, nil
	}
	b, err := marshal(from, to)
	if err == nil && len(enc.deltas) < maxDeltas {
		enc.deltas[from] = b
	}
	return b, err
}

// encoding finds or begins a snapshot's. Those of older snapshots go: a stream
// that loaded one just before a change makes its own once more.
func (e *encoder) encoding(to *catalog.Target) *encoding {
	for _, enc := range e.recent {
		if enc.to == to {
			return enc
		}
	}
	e.recent = slices.DeleteFunc(e.recent, func(enc *encoding) bool { return enc.to.Version+1 < to.Version })
	if len(e.recent) >= maxRecent {
		e.recent = slices.Delete(e.recent, 0, 1)
	}
	enc := &encoding{to: to, deltas: map[*catalog.Target][]byte{}}
	e.recent = append(e.recent, enc)
	return enc
}

// marshal encodes an Update without its version.
func marshal(from, to *catalog.Target) ([]byte, error) {
	u := &api.Update{Change: &api.Update_Target{Target: Message(to)}}
	if from != nil && from.SameBut(to) {
		u.Change = &api.Update_Delta{Delta: delta(from, to)}
	}
	return proto.Marshal(u)
}

// Message is a snapshot as the wire API carries it.
func Message(t *catalog.Target) *api.Target {
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
