package wire

import "errors"

// MethodWatchTarget is of tunmesh.destination.v1.Destination.
const MethodWatchTarget = "/tunmesh.destination.v1.Destination/Watch"

// WatchTarget is tunmesh.destination.v1.WatchRequest.
type WatchTarget struct{ Target, Pod string }

// Append encodes m.
func (m *WatchTarget) Append(b []byte) []byte {
	return appendString(appendString(b, 1, m.Target), 2, m.Pod)
}

var errBoth = errors.New("a target and a delta in one update")

// Update is tunmesh.destination.v1.Update: Target or Delta, or neither.
type Update struct {
	Version uint64
	Target  *Target
	Delta   *EndpointDelta
}

// Decode replaces m.
func (m *Update) Decode(b []byte) error {
	*m = Update{}
	return each("Update", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.Version)
		case 2:
			if m.Delta != nil {
				return errBoth
			}
			if m.Target == nil {
				m.Target = &Target{}
			}
			return f.message(m.Target.merge)
		case 3:
			if m.Target != nil {
				return errBoth
			}
			if m.Delta == nil {
				m.Delta = &EndpointDelta{}
			}
			return f.message(m.Delta.merge)
		}
		return nil
	})
}

// Kind is tunmesh.destination.v1.Kind.
type Kind uint32

// The kinds.
const (
	KindUnspecified Kind = iota
	KindService
	KindPod
	KindExternal
	KindNone
)

// Ref is tunmesh.destination.v1.Ref.
type Ref struct {
	Kind, Namespace, Name string
	Port                  uint32
}

func (m *Ref) merge(b []byte) error {
	return each("Ref", b, func(f field) error {
		switch f.num {
		case 1:
			return f.str(&m.Kind)
		case 2:
			return f.str(&m.Namespace)
		case 3:
			return f.str(&m.Name)
		case 4:
			return f.u32(&m.Port)
		}
		return nil
	})
}

// Target is tunmesh.destination.v1.Target.
type Target struct {
	Kind      Kind
	Ref       Ref
	Protocol  uint32
	Endpoints Endpoints
	Authority string
	Labels    map[string]string
	Traffic   *Traffic
}

func (m *Target) merge(b []byte) error {
	return each("Target", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u32((*uint32)(&m.Kind))
		case 2:
			return f.message(m.Ref.merge)
		case 3:
			return f.u32(&m.Protocol)
		case 4:
			return m.Endpoints.add(f)
		case 5:
			return f.str(&m.Authority)
		case 6:
			return f.entry(&m.Labels)
		case 7:
			if m.Traffic == nil {
				m.Traffic = &Traffic{}
			}
			return f.message(m.Traffic.merge)
		}
		return nil
	})
}

// Endpoints are encoded still, and borrowed from the message that they came in:
// there may be very many, which are read one by one, without a copy of each.
type Endpoints [][]byte

func (e *Endpoints) add(f field) error {
	return f.message(func(b []byte) error {
		*e = append(*e, b)
		return nil
	})
}

// Endpoint is tunmesh.destination.v1.Endpoint. Its text is borrowed from what it
// was decoded from.
type Endpoint struct {
	Address  []byte
	Weight   uint32
	Zone     []byte
	Identity []byte
	Protocol uint32
	// Labels as they came: of those of one name the last counts.
	Labels []Label
}

// Label is an entry of a map<string, string>.
type Label struct{ Name, Value []byte }

// Decode replaces m, in the storage of its labels.
func (m *Endpoint) Decode(b []byte) error {
	*m = Endpoint{Labels: m.Labels[:0]}
	return each("Endpoint", b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&m.Address)
		case 2:
			return f.u32(&m.Weight)
		case 3:
			return f.text(&m.Zone)
		case 4:
			return f.text(&m.Identity)
		case 5:
			return f.u32(&m.Protocol)
		case 6:
			m.Labels = append(m.Labels, Label{})
			return f.message(m.Labels[len(m.Labels)-1].merge)
		}
		return nil
	})
}

func (l *Label) merge(b []byte) error {
	return each("map entry", b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&l.Name)
		case 2:
			return f.text(&l.Value)
		}
		return nil
	})
}

// EndpointDelta is tunmesh.destination.v1.EndpointDelta.
type EndpointDelta struct {
	Put    Endpoints
	Remove []string
}

func (m *EndpointDelta) merge(b []byte) error {
	return each("EndpointDelta", b, func(f field) error {
		switch f.num {
		case 1:
			return m.Put.add(f)
		case 2:
			return f.strs(&m.Remove)
		}
		return nil
	})
}
