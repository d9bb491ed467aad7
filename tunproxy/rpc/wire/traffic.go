package wire

// Traffic is tunmesh.destination.v1.Traffic.
type Traffic struct {
	Timeouts Timeouts
}

func (m *Traffic) merge(b []byte) error {
	return each("Traffic", b, func(f field) error {
		if f.num == 1 {
			return f.message(m.Timeouts.merge)
		}
		return nil
	})
}

// Timeouts is tunmesh.destination.v1.Timeouts.
type Timeouts struct{ RequestMS, ResponseMS, IdleMS uint64 }

func (m *Timeouts) merge(b []byte) error {
	return each("Timeouts", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.RequestMS)
		case 2:
			return f.u64(&m.ResponseMS)
		case 3:
			return f.u64(&m.IdleMS)
		}
		return nil
	})
}
