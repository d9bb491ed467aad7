package resilience

import "time"

// Grace is how long requests wait for an endpoint when none is usable, before
// they fail at once (Linkerd's failfast timeout). An only replica that restarts is
// back by then.
const Grace = 3 * time.Second

// QueueLimit is how many requests wait for one Service (Linkerd's queue capacity).
const QueueLimit = 100

// Gate says whether requests of a Service may wait for an endpoint.
//
//	open ──no endpoint is healthy──▶ waiting ──Grace──▶ failing fast
//	 ▲                                 │                    │
//	 └───────one is healthy again──────┴────────────────────┘
//
// An endpoint on probation is not healthy: that it may be tried does not let a
// queue form anew.
type Gate struct {
	unhealthy bool
	since     time.Duration
}

// Set says whether an endpoint is healthy now. It reports whether waiting begins.
func (g *Gate) Set(now time.Duration, healthy bool) (begins bool) {
	begins = !healthy && !g.unhealthy
	if begins {
		g.since = now
	}
	g.unhealthy = !healthy
	return begins
}

// Never says that there was no endpoint ever, and so nothing to wait for.
func (g *Gate) Never(now time.Duration) { g.unhealthy, g.since = true, now-Grace }

// Open reports whether an endpoint is healthy.
func (g *Gate) Open() bool { return !g.unhealthy }

// Failing reports whether requests fail at once.
func (g *Gate) Failing(now time.Duration) bool { return g.unhealthy && now-g.since >= Grace }
