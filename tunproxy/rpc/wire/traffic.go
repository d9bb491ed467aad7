package wire

// Traffic is tunmesh.destination.v1.Traffic.
type Traffic struct {
	Timeouts Timeouts
	Retry    *Retry   // nil: absent
	Accrual  *Accrual // nil: absent
	Penalty  *Penalty // nil: absent
}

func (m *Traffic) merge(b []byte) error {
	return each("Traffic", b, func(f field) error {
		switch f.num {
		case 1:
			return f.message(m.Timeouts.merge)
		case 2:
			if m.Retry == nil {
				m.Retry = &Retry{}
			}
			return f.message(m.Retry.merge)
		case 3:
			if m.Accrual == nil {
				m.Accrual = &Accrual{}
			}
			return f.message(m.Accrual.merge)
		case 4:
			if m.Penalty == nil {
				m.Penalty = &Penalty{}
			}
			return f.message(m.Penalty.merge)
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

// Retry is tunmesh.destination.v1.Retry.
type Retry struct {
	Statuses  []StatusRange
	Codes     []uint32
	Limit     uint32
	TimeoutMS uint64
	Backoff   Backoff
	Budget    *RetryBudget // nil: absent
}

func (m *Retry) merge(b []byte) error {
	return each("Retry", b, func(f field) error {
		switch f.num {
		case 1:
			m.Statuses = append(m.Statuses, StatusRange{})
			return f.message(m.Statuses[len(m.Statuses)-1].merge)
		case 2:
			return f.u32s(&m.Codes)
		case 3:
			return f.u32(&m.Limit)
		case 4:
			return f.u64(&m.TimeoutMS)
		case 5:
			return f.message(m.Backoff.merge)
		case 6:
			if m.Budget == nil {
				m.Budget = &RetryBudget{}
			}
			return f.message(m.Budget.merge)
		}
		return nil
	})
}

// StatusRange is tunmesh.destination.v1.StatusRange.
type StatusRange struct{ First, Last uint32 }

func (m *StatusRange) merge(b []byte) error {
	return each("StatusRange", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u32(&m.First)
		case 2:
			return f.u32(&m.Last)
		}
		return nil
	})
}

// Backoff is tunmesh.destination.v1.Backoff.
type Backoff struct {
	MinMS, MaxMS uint64
	Jitter       float64
}

func (m *Backoff) merge(b []byte) error {
	return each("Backoff", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.MinMS)
		case 2:
			return f.u64(&m.MaxMS)
		case 3:
			return f.float(&m.Jitter)
		}
		return nil
	})
}

// RetryBudget is tunmesh.destination.v1.RetryBudget.
type RetryBudget struct {
	Percent, PerSecond uint32
	WindowMS           uint64
}

func (m *RetryBudget) merge(b []byte) error {
	return each("RetryBudget", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u32(&m.Percent)
		case 2:
			return f.u32(&m.PerSecond)
		case 3:
			return f.u64(&m.WindowMS)
		}
		return nil
	})
}

// Accrual is tunmesh.destination.v1.Accrual.
type Accrual struct {
	Consecutive uint32
	Backoff     Backoff
	Rate        *SuccessRate // nil: absent
	RetryAfter  bool
}

func (m *Accrual) merge(b []byte) error {
	return each("Accrual", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u32(&m.Consecutive)
		case 2:
			return f.message(m.Backoff.merge)
		case 3:
			if m.Rate == nil {
				m.Rate = &SuccessRate{}
			}
			return f.message(m.Rate.merge)
		case 4:
			return f.boolean(&m.RetryAfter)
		}
		return nil
	})
}

// SuccessRate is tunmesh.destination.v1.SuccessRate.
type SuccessRate struct {
	Threshold   float64
	WindowMS    uint64
	MinRequests uint32
}

func (m *SuccessRate) merge(b []byte) error {
	return each("SuccessRate", b, func(f field) error {
		switch f.num {
		case 1:
			return f.float(&m.Threshold)
		case 2:
			return f.u64(&m.WindowMS)
		case 3:
			return f.u32(&m.MinRequests)
		}
		return nil
	})
}

// Penalty is tunmesh.destination.v1.Penalty.
type Penalty struct{ TimeMS, MaxRetryAfterMS uint64 }

func (m *Penalty) merge(b []byte) error {
	return each("Penalty", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.TimeMS)
		case 2:
			return f.u64(&m.MaxRetryAfterMS)
		}
		return nil
	})
}
