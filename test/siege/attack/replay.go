// Package attack is what attackers of a sidecar send, made before they send it, so
// that an attack costs the attacker as little as can be. It owns the bytes, the
// packets and their rates; it refuses to know over what they go: the tests of the
// proxy play them over stacks in memory, test/siege over kernels, to sidecars that
// are processes.
package attack

import "time"

// Replay is bytes sent on connections.
type Replay struct {
	Bytes     []byte
	Then      []byte        // again and again, every Gap
	Gap       time.Duration // 0: nothing follows
	Begin     int           // connections that begin with each tick; 0: 1
	Every     time.Duration // a tick; 0: all that there will be begin at once, and stay
	AtOnce    int           // under way at most; 0: Begin
	Gives     time.Duration // the attacker gives up after that; 0: never
	Deaf      bool          // it reads nothing
	Bystander bool          // the connections are to somebody else's app, not to the attacked one
}

// Whole has every count that goes without saying.
func (r Replay) Whole() Replay {
	r.Begin = max(r.Begin, 1)
	if r.AtOnce == 0 {
		r.AtOnce = r.Begin
	}
	return r
}

// App is what the attacked app does.
type App struct {
	// Bytes of its answers to HTTP/2 requests, which have no end; 0: it answers none.
	Bytes int
	// Endless: it speaks HTTP/1 instead, and its answers go on as long as they are
	// taken.
	Endless bool
}

// Attack is one of a client on its connections.
type Attack struct {
	Name string
	App  App
	Replay
	// Metric and Labels count it, in the sidecar's own metrics.
	Metric string
	Labels []string
}
