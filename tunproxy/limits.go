package tunproxy

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// defaultConnections is netstack's, too.
const defaultConnections = 16384

// Limits bound what clients may cost the sidecar. Zero fields take defaults;
// docs/limits.md has them, with those that are not here because nobody needs to
// change them.
type Limits struct {
	// Connections bounds those that clients have open, on each side; on the wire
	// side no client gets more of them than are free. Default 16384.
	Connections int
	// TCPBytes bounds the bytes in all TCP buffers together. Default 64 MiB.
	TCPBytes int
	// HTTPBytes bounds what HTTP holds because somebody is slow: bodies, heads of
	// requests under way, bodies kept for another attempt. Default 128 MiB.
	HTTPBytes int
	// StreamBytes bounds what byte streams from other sidecars may make us hold for
	// slow apps: all that was promised to be held. Default 64 MiB.
	StreamBytes int
	// MinRate is how slow a peer may be where it keeps others waiting, in bytes
	// per second, once it is behind by SlowBody in sending what it announced, or
	// by SlowReader in taking what waits for it. Default 240, 30 s, 5 min.
	MinRate              int
	SlowBody, SlowReader time.Duration
	// Head is how long a request's head may take to come whole. Default 10 s.
	Head time.Duration
}

// hopStreams is how many requests may be under way on a connection of another
// sidecar. Of up to eight connections: more than anybody's heads have room for.
const hopStreams = 4096

// hopHeaderList has room for any head that HTTP/1 may have, 64 KiB in 128 fields:
// HTTP/2 counts 32 bytes more for each, and the hop may add its names a second time.
const hopHeaderList = 2*(64<<10) + 8<<10

// http1 and http2 are the limits of a client's connection. A sidecar's carries
// the requests of all connections of its app, each of which that sidecar has
// held to the default already: when a slow server makes a thousand callers give
// up at once, the hop must not be taken for a flood and broken.
func (l *Limits) http2(c h2.Config, hop bool) h2.Config {
	c.Limits.MinRate = l.MinRate
	c.Timeouts.Body, c.Timeouts.Unread, c.Timeouts.Frame = l.SlowBody, l.SlowReader, l.Head
	if hop {
		c.Limits.Resets = h2.Rate{Burst: 20_000, PerSecond: 4_000}
		c.MaxStreams = hopStreams
		c.MaxHeaderList = hopHeaderList
	}
	return c
}

func (l *Limits) http1(c h1.Config) h1.Config {
	c.MinRate, c.SlowBody, c.WriteTimeout, c.HeadTimeout = l.MinRate, l.SlowBody, l.SlowReader, l.Head
	return c
}

// bound makes a worker's share of HTTPBytes.
func (l *Limits) bound(workers int) *memory.Bound {
	n := l.HTTPBytes
	if n <= 0 {
		n = memory.DefaultLimit
	}
	return memory.NewBound(n / max(workers, 1))
}

// streamBytes is a worker's share of StreamBytes; 0: the default's.
func (l *Limits) streamBytes(workers int) int {
	n := l.StreamBytes
	if n <= 0 {
		n = mux.DefaultLimit
	}
	return n / max(workers, 1)
}

// connections is Connections with its default.
func (l *Limits) connections() int {
	if l.Connections <= 0 {
		return defaultConnections
	}
	return l.Connections
}

// collectLimits prints what is held now, and how often a bound was met.
func (p *Proxy) collectLimits(w *telemetry.Writer) {
	c := p.stack.Counters()
	held, hits := int64(0), uint64(0)
	promised, small, floods, breaches := int64(0), uint64(0), uint64(0), uint64(0)
	for _, k := range p.workers {
		held += k.bound.Held()
		hits += k.bound.Hits()
		promised += k.shared.Bound.Held()
		small += k.shared.Bound.Hits()
		floods += k.shared.Floods.Load()
		breaches += k.shared.Breaches.Load()
	}
	layer := func(v string) telemetry.Label { return telemetry.Label{Name: "layer", Value: v} }
	w.Gauge("held_bytes", "Bytes held now because somebody is slow, by layer.")
	w.Sample("held_bytes", float64(c.Held), layer("tcp"))
	w.Sample("held_bytes", float64(held), layer("http"))
	w.Sample("held_bytes", float64(promised), layer("streams"))
	w.Counter("held_limit_total", "Total count of those who had to give way because they held more than was free, by layer.")
	w.Sample("held_limit_total", float64(c.Stopped), layer("tcp"))
	w.Sample("held_limit_total", float64(hits), layer("http"))
	w.Sample("held_limit_total", float64(small), layer("streams"))
	w.Counter("opaque_hops_broken_total", "Total count of byte hops that the sidecar broke for what its peer said on them, by reason.")
	w.Sample("opaque_hops_broken_total", float64(floods), telemetry.Label{Name: "reason", Value: "flood"})
	w.Sample("opaque_hops_broken_total", float64(breaches), telemetry.Label{Name: "reason", Value: "protocol"})
	w.Counter("slow_peers_total", "Total count of requests and connections given up because a peer was too slow, by what it was slow in.")
	for _, s := range []struct {
		what string
		n    uint64
	}{
		{"head", p.h1.SlowHeads.Load() + p.h2.SlowFrames.Load()},
		{"body", p.h1.SlowBodies.Load() + p.h2.SlowBodies.Load()},
		{"reading", p.h1.SlowReaders.Load() + p.h2.SlowReaders.Load() + p.h2.WriteStalls.Load()},
	} {
		w.Sample("slow_peers_total", float64(s.n), telemetry.Label{Name: "what", Value: s.what})
	}
}
