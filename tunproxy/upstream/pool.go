package upstream

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/hop"
)

// Kind is what the connections of a group speak.
type Kind uint8

// The kinds.
const (
	// HTTP1: one exchange at a time on a connection.
	HTTP1 Kind = iota
	// HTTP2: with prior knowledge. To an endpoint with an identity this is the
	// hop for requests.
	HTTP2
)

// linger is how long a group that nobody holds keeps its connections: a client
// that reconnects at once, or an endpoint that flaps, finds them warm.
const linger = 5 * time.Second

// key identifies a group.
type key struct {
	e    Endpoint
	kind Kind
}

// A Pool holds the groups of one loop.
type Pool struct {
	dialer *Dialer
	http1  Speak
	http2  Speak
	groups map[key]*Group
}

// NewPool makes an empty pool. http1 and http2 make clients of either version.
func NewPool(d *Dialer, http1, http2 Speak) *Pool {
	return &Pool{dialer: d, http1: http1, http2: http2, groups: make(map[key]*Group)}
}

// Hold returns the group for e, made if need be, and holds it until Release.
// An endpoint with an identity is spoken to in HTTP/2 (docs/design/0001), or in
// HTTP/1 on connections that serve one request for an upgrade.
func (p *Pool) Hold(e Endpoint, kind Kind) *Group {
	k := key{e: e, kind: kind}
	g := p.groups[k]
	if g == nil {
		g = &Group{pool: p, key: k}
		switch kind {
		case HTTP1:
			g.speak, g.limit, g.alpn = p.http1, maxHTTP1, hop.ALPNUpgrade
		case HTTP2:
			g.speak, g.limit, g.alpn = p.http2, maxHTTP2, hop.ALPNRequests
		}
		p.groups[k] = g
	}
	g.refs++
	return g
}

// Len is the number of groups.
func (p *Pool) Len() int { return len(p.groups) }

// released drains a group that is still not held after a while.
func (p *Pool) released(g *Group) {
	if g.lingering {
		return
	}
	g.lingering = true
	p.dialer.loop.AfterFunc(linger, func() {
		g.lingering = false
		if g.refs == 0 && !g.closed {
			g.drain()
			delete(p.groups, g.key)
		}
	})
}

// tidy forgets a group at once when nobody holds it and nothing is left of it.
func (p *Pool) tidy(g *Group) {
	if g.refs == 0 && !g.closed && len(g.conns)+g.leaving+g.dialing+len(g.waiting) == 0 {
		g.closed = true
		delete(p.groups, g.key)
	}
}
