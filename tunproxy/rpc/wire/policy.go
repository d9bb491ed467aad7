package wire

// MethodWatchPolicy is of tunmesh.policy.v1.Policy.
const MethodWatchPolicy = "/tunmesh.policy.v1.Policy/Watch"

// WatchPolicy is tunmesh.policy.v1.WatchRequest.
type WatchPolicy struct{ Pod string }

// Append encodes m.
func (m *WatchPolicy) Append(b []byte) []byte { return appendString(b, 1, m.Pod) }

// InboundPolicy is tunmesh.policy.v1.InboundPolicy.
type InboundPolicy struct {
	Version         uint64
	Default         uint32
	ClusterNetworks []string
	Probes          []Probe
	Ports           []PortProtocol
	Labels          map[string]string
}

// Decode replaces m.
func (m *InboundPolicy) Decode(b []byte) error {
	*m = InboundPolicy{}
	return each("InboundPolicy", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.Version)
		case 2:
			return f.u32(&m.Default)
		case 3:
			return f.strs(&m.ClusterNetworks)
		case 4:
			m.Probes = append(m.Probes, Probe{})
			return f.message(m.Probes[len(m.Probes)-1].merge)
		case 5:
			m.Ports = append(m.Ports, PortProtocol{})
			return f.message(m.Ports[len(m.Ports)-1].merge)
		case 6:
			return f.entry(&m.Labels)
		}
		return nil
	})
}

// Probe is tunmesh.policy.v1.Probe.
type Probe struct {
	Port         uint32
	Method, Path string
}

func (m *Probe) merge(b []byte) error {
	return each("Probe", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u32(&m.Port)
		case 2:
			return f.str(&m.Method)
		case 3:
			return f.str(&m.Path)
		}
		return nil
	})
}

// PortProtocol is tunmesh.policy.v1.PortProtocol.
type PortProtocol struct{ First, Last, Protocol uint32 }

func (m *PortProtocol) merge(b []byte) error {
	return each("PortProtocol", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u32(&m.First)
		case 2:
			return f.u32(&m.Last)
		case 3:
			return f.u32(&m.Protocol)
		}
		return nil
	})
}
