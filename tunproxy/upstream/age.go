package upstream

import (
	"math/rand/v2"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

const (
	// maxAge is how long a connection that many requests share is used. What was
	// true when it was made (a certificate, a path, a balancer in between) is looked
	// at anew then.
	maxAge = time.Hour
	// maxRenewals bounds the connections renewed in one sweep: after a restart of
	// many endpoints all connections are of one age, and handshakes cost CPU on both
	// ends.
	maxRenewals = 4
	// renewAgain is when a renewal that failed is tried again. The old connection
	// serves meanwhile.
	renewAgain = time.Minute
)

// lifetime is a connection's own, so that those made together do not end together.
func lifetime() time.Duration { return spread(maxAge) }

// spread is d, give or take a quarter.
func spread(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1) //nolint:gosec // not a secret
}

// Renew replaces connections that have become old: another one is made first, and
// the old one then takes no more streams and closes when its last has ended. It is
// called now and then.
func (p *Pool) Renew() {
	now, begun := p.dialer.loop.Now(), 0
	for _, g := range p.groups {
		if begun == maxRenewals {
			return
		}
		if c := g.old(now); c != nil {
			g.renew(c)
			begun++
		}
	}
}

// old is a connection of the group that should be replaced; nil: none, or one is
// being replaced already.
func (g *Group) old(now time.Duration) *conn {
	if !g.shared() || g.key.e.Side != aio.Wire || g.closed || g.refs == 0 || g.dialing > 0 {
		return nil
	}
	for _, c := range g.conns {
		if c.until <= now {
			return c
		}
	}
	return nil
}

func (g *Group) renew(c *conn) {
	g.dialing++
	g.pool.dialer.Dial(g.key.e, g.alpn, func(fresh aio.Conn, err error) {
		if err != nil {
			c.until = g.pool.dialer.loop.Now() + spread(renewAgain)
			g.dialing--
			g.serve() // who waits meanwhile has the old one, or dials
			g.pool.tidy(g)
			return
		}
		g.dialed(fresh, nil)
		if !c.gone {
			c.client.Closing()
		}
	})
}
