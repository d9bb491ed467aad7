package destination

import (
	"time"

	api "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/control/catalog"
)

// traffic is what a Service asks for as the wire API carries it.
func traffic(t *catalog.Traffic) *api.Traffic {
	if t == nil {
		return nil
	}
	return &api.Traffic{
		Timeouts: &api.Timeouts{RequestMs: ms(t.Timeouts.Request), ResponseMs: ms(t.Timeouts.Response), IdleMs: ms(t.Timeouts.Idle)},
	}
}

// ms is a duration as the wire API writes it; annotations have no finer one.
func ms(d time.Duration) uint64 { return uint64(max(d, 0) / time.Millisecond) }
