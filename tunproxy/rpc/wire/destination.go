package wire

// MethodWatchTarget is of tunmesh.destination.v1.Destination.
const MethodWatchTarget = "/tunmesh.destination.v1.Destination/Watch"

// WatchTarget is tunmesh.destination.v1.WatchRequest.
type WatchTarget struct{ Target, Pod string }

// Append encodes m.
func (m *WatchTarget) Append(b []byte) []byte {
	return appendString(appendString(b, 1, m.Target), 2, m.Pod)
}

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
			m.Delta = nil
			if m.Target == nil {
				m.Target = &Target{}
			}
			return f.message(m.Target.merge)
		case 3:
			m.Target = nil
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
	Endpoints []Endpoint
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
			return appendEndpoint(&m.Endpoints, f)
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

// Endpoint is tunmesh.destination.v1.Endpoint.
type Endpoint struct {
	Address  string
	Weight   uint32
	Zone     string
	Identity string
	Protocol uint32
	Labels   map[string]string
}

func appendEndpoint(to *[]Endpoint, f field) error {
	*to = append(*to, Endpoint{})
	return f.message((*to)[len(*to)-1].merge)
}

func (m *Endpoint) merge(b []byte) error {
	return each("Endpoint", b, func(f field) error {
		switch f.num {
		case 1:
			return f.str(&m.Address)
		case 2:
			return f.u32(&m.Weight)
		case 3:
			return f.str(&m.Zone)
		case 4:
			return f.str(&m.Identity)
		case 5:
			return f.u32(&m.Protocol)
		case 6:
			return f.entry(&m.Labels)
		}
		return nil
	})
}

// EndpointDelta is tunmesh.destination.v1.EndpointDelta.
type EndpointDelta struct {
	Put    []Endpoint
	Remove []string
}

func (m *EndpointDelta) merge(b []byte) error {
	return each("EndpointDelta", b, func(f field) error {
		switch f.num {
		case 1:
			return appendEndpoint(&m.Put, f)
		case 2:
			return f.strs(&m.Remove)
		}
		return nil
	})
}
