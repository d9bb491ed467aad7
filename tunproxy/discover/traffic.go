package discover

import (
	"fmt"
	"math"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/resilience"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// trafficOf checks what a target asks of its callers; nil: nothing. Like the rest
// of an update it is taken whole or not at all.
func trafficOf(m *wire.Traffic) (*resilience.Policy, error) {
	if m == nil {
		return nil, nil
	}
	r := trafficReader{}
	p := &resilience.Policy{
		Timeouts: resilience.Timeouts{
			Request:  r.ms("request timeout", m.Timeouts.RequestMS),
			Response: r.ms("response timeout", m.Timeouts.ResponseMS),
			Idle:     r.ms("idle timeout", m.Timeouts.IdleMS),
		},
	}
	if p.Equal(&resilience.Policy{}) {
		p = nil
	}
	return p, r.err
}

// trafficReader reads fields and keeps the first error.
type trafficReader struct{ err error }

func (r *trafficReader) bad(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("traffic: "+format, args...)
	}
}

func (r *trafficReader) ms(what string, n uint64) time.Duration {
	if n > math.MaxInt64/uint64(time.Millisecond) {
		r.bad("%s of %d ms", what, n)
		return 0
	}
	return time.Duration(n) * time.Millisecond //nolint:gosec // checked
}
