package upstream

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

const (
	// maxWaiting bounds how many requests wait for a stream to one endpoint: a
	// cold start under load fits, a dead endpoint does not pile up more.
	maxWaiting = 4096
	// maxHTTP1 bounds an HTTP/1 endpoint's connections, one for each exchange at
	// once (Linkerd keeps up to 10,000 idle ones; a pod's app rarely has the
	// descriptors).
	maxHTTP1 = 4096
	// maxHTTP2 bounds an HTTP/2 endpoint's connections: one, unless the peer
	// allows too few streams for the load.
	maxHTTP2 = 8
	// Handshakes cost CPU on both ends: after a failed one the endpoint rests.
	// A TCP connect is cheap and its refusal is news, so it is tried every time.
	minRest, maxRest = 50 * time.Millisecond, 5 * time.Second
)

// Errors that waiters get, besides those of dialling.
var (
	// ErrOverload: too many requests wait for this endpoint.
	ErrOverload = errors.New("too many requests wait for a connection")
	// ErrDraining: the endpoint's group was given up while requests waited.
	ErrDraining = errors.New("endpoint is no longer in use")
)

// A Waiter waits for a stream. One of its methods is called once, on the loop.
type Waiter interface {
	// Ready: the stream is new and the waiter's.
	Ready(s message.Stream)
	// Failed: no stream; nothing was sent anywhere.
	Failed(err error)
}

// A Client is an HTTP connection to an endpoint, of either version.
type Client interface {
	// OpenStream begins an exchange; it fails when there is no room now.
	OpenStream() (message.Stream, error)
	// Closing: no more streams; those under way finish, then the connection
	// closes. Idempotent.
	Closing()
	// Close ends the connection at once.
	Close()
}

// Speak makes the HTTP client on a connection to e that it takes. room is called,
// on the loop, when a stream may be opened that could not be before; gone once,
// when the connection takes no more streams (closing, closed or broken); over
// once, when it is closed.
type Speak func(e Endpoint, c aio.Conn, room, gone func(), over func(err error)) Client

// A Group is the HTTP connections to one endpoint that carry the same protocol.
type Group struct {
	pool  *Pool
	key   key
	speak Speak
	alpn  string
	limit int // of connections

	conns   []*conn // usable, the one used last at the end
	leaving int     // connections that finish what they began
	dialing int
	waiting []Waiter
	refs    int
	clients int // for whom a connection was made, which the group adopted
	closed  bool
	// lingering: a timer will look whether the group is still held.
	lingering bool

	rest      time.Duration // after failed handshakes
	restUntil time.Duration
	restErr   error
}

// conn is a connection of the group.
type conn struct {
	g      *Group
	client Client
	until  time.Duration // when it is old
	gone   bool          // takes no more streams
	over   bool
}

// Endpoint is where the group leads.
func (g *Group) Endpoint() Endpoint { return g.key.e }

// Kind is what the group's connections speak.
func (g *Group) Kind() Kind { return g.key.kind }

// Live reports whether a connection is there that takes streams, now or soon.
func (g *Group) Live() bool { return len(g.conns) > 0 }

// Open begins an exchange on a connection with room. False: none; Wait.
func (g *Group) Open() (message.Stream, bool) {
	if len(g.waiting) > 0 && !g.closed {
		return nil, false // not past those who wait
	}
	return g.open()
}

func (g *Group) open() (message.Stream, bool) {
	// The last one first: it is warm, and idle ones get to time out.
	for i := len(g.conns) - 1; i >= 0; i-- {
		if s, err := g.conns[i].client.OpenStream(); err == nil {
			return s, true
		}
	}
	return nil, false
}

// Wait queues w for a stream and dials if that helps. It may call w from inside.
func (g *Group) Wait(w Waiter) {
	switch now := g.pool.dialer.loop.Now(); {
	case g.closed:
		w.Failed(ErrDraining)
	case len(g.waiting) >= maxWaiting:
		w.Failed(ErrOverload)
	case len(g.conns) == 0 && g.dialing == 0 && now < g.restUntil:
		w.Failed(g.restErr)
	default:
		g.waiting = append(g.waiting, w)
		g.serve()
	}
}

// Forget takes w out of the queue, without a call.
func (g *Group) Forget(w Waiter) {
	for i := range g.waiting {
		if g.waiting[i] == w {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return
		}
	}
}

// Adopt takes a connection that Dialer.TCP made to this endpoint, unused so
// far, and uses it where a dial would have been. One that is not needed is
// closed; the other end has seen no byte of it.
func (g *Group) Adopt(c aio.Conn) {
	if g.closed || g.limit > 1 && len(g.conns)+g.dialing >= g.limit || g.shared() && len(g.conns)+g.dialing > 0 {
		c.Close()
		return
	}
	g.dialing++
	g.pool.dialer.Hop(c, g.key.e, g.alpn, g.dialed)
}

// AdoptFor adopts a connection that was made for one client, whoever has one made for
// each. Left must be called when that client is gone.
func (g *Group) AdoptFor(c aio.Conn) {
	g.clients++
	g.Adopt(c)
}

// Left tells that a client is gone for which a connection was adopted. An HTTP/1
// server has as many connections as clients, as if they were theirs: where each takes
// a thread, those that nobody is behind would keep others out. The one used longest
// ago goes, as soon as it has nothing to do.
func (g *Group) Left() {
	g.clients--
	if !g.shared() && !g.closed && len(g.conns) > g.clients {
		g.conns[0].client.Closing()
	}
}

// shared: one connection serves many exchanges.
func (g *Group) shared() bool { return g.key.kind != HTTP1 }

// serve gives streams to those who wait, in order, and dials for the rest.
func (g *Group) serve() {
	for len(g.waiting) > 0 {
		s, ok := g.open()
		if !ok {
			break
		}
		w := g.waiting[0]
		g.waiting[0] = nil
		g.waiting = g.waiting[1:]
		w.Ready(s)
	}
	if len(g.waiting) == 0 {
		g.waiting = nil
	}
	for g.wants() {
		g.dialing++
		g.pool.dialer.Dial(g.key.e, g.alpn, g.dialed)
	}
}

// wants reports whether another connection would help those who wait.
func (g *Group) wants() bool {
	if g.closed || len(g.waiting) == 0 || len(g.conns)+g.dialing >= g.limit {
		return false
	}
	if g.shared() {
		return g.dialing == 0
	}
	return g.dialing < len(g.waiting)
}

// dialed is the end of a dial.
func (g *Group) dialed(c aio.Conn, err error) {
	g.dialing--
	switch {
	case err != nil:
		g.failed(err)
	case g.closed:
		c.Close()
	default:
		g.rest = 0
		n := &conn{g: g, until: g.pool.dialer.loop.Now() + lifetime()}
		n.client = g.speak(g.key.e, c, g.serve, n.left, n.ended)
		if !n.gone {
			g.conns = append(g.conns, n)
		}
		g.serve()
	}
	g.pool.tidy(g)
}

// failed tells those who wait for the dial that failed: all of them when no
// other connection is coming, else the one in front.
func (g *Group) failed(err error) {
	if !errors.Is(err, aio.ErrRefused) && !errors.Is(err, aio.ErrUnreachable) && !errors.Is(err, aio.ErrTimeout) && !g.key.e.ID.IsZero() {
		g.rest = min(max(2*g.rest, minRest), maxRest)
		g.restUntil = g.pool.dialer.loop.Now() + spread(g.rest) // those who failed together come back one by one
		g.restErr = err
	}
	n := 1
	if g.dialing == 0 && len(g.conns) == 0 {
		n = len(g.waiting)
	}
	for ; n > 0 && len(g.waiting) > 0; n-- {
		w := g.waiting[0]
		g.waiting = g.waiting[1:]
		w.Failed(err)
	}
	g.serve()
}

// left: the connection takes no more streams.
func (c *conn) left() {
	if c.gone {
		return
	}
	c.gone = true
	g := c.g
	for i := range g.conns {
		if g.conns[i] == c {
			g.conns = append(g.conns[:i], g.conns[i+1:]...)
			g.leaving++
			break
		}
	}
	g.serve()
}

// ended: the connection is closed.
func (c *conn) ended(error) {
	if c.over {
		return
	}
	c.left()
	c.over = true
	if c.g.leaving > 0 {
		c.g.leaving--
	}
	c.g.pool.tidy(c.g)
}

// Release gives up one hold of the group; the last one lets it drain.
func (g *Group) Release() {
	g.refs--
	if g.refs == 0 {
		g.pool.released(g)
	}
}

// drain: no new streams; connections close when theirs are over.
func (g *Group) drain() {
	g.closed = true
	waiting := g.waiting
	g.waiting = nil
	for _, w := range waiting {
		w.Failed(ErrDraining)
	}
	for _, c := range append([]*conn(nil), g.conns...) {
		c.client.Closing()
	}
}
