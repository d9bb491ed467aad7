// Package h2 is HTTP/2 (RFC 9113) on an event loop: it turns one aio.Conn into
// many message.Streams. It owns frames, header compression, flow control,
// stream states, keepalive and the bounds on what a peer may cost; it refuses
// to know routing, policy, pools of connections and HTTP/1.
package h2

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Conn is what a Server and a Client have in common. All methods belong to the
// connection's loop.
type Conn struct {
	cfg  Config
	conn aio.Conn
}

// Stats describe a connection now.
type Stats struct {
	Open         int           // streams
	Total        uint64        // streams, ever
	LastActivity time.Duration // on the loop's clock: the last stream opened or closed
	Draining     bool          // takes no more streams
	Closed       bool
}

// Stats reports the connection's figures.
func (c *Conn) Stats() Stats { return Stats{} }

// Transport is the connection below.
func (c *Conn) Transport() aio.Conn { return c.conn }

// Drain ends the connection gracefully: no new streams, open ones finish, then
// it closes. The caller bounds the wait with Close. Idempotent.
func (c *Conn) Drain() {}

// Close ends the connection now: GOAWAY, what is queued is still sent, streams
// hear Aborted. Idempotent.
func (c *Conn) Close() {}

// Server is the accepting end of a connection.
type Server struct{ Conn }

// NewServer speaks HTTP/2 as server on conn, whose handler it becomes. accept
// is called with each new stream, before its Head, and gives it a Receiver.
func NewServer(conn aio.Conn, cfg Config, accept func(message.Stream)) *Server {
	return &Server{Conn{cfg: cfg.withDefaults(true), conn: conn}}
}

// Client is the opening end of a connection.
type Client struct{ Conn }

// NewClient speaks HTTP/2 as client on conn, whose handler it becomes. Streams
// may be opened at once.
func NewClient(conn aio.Conn, cfg Config) *Client {
	return &Client{Conn{cfg: cfg.withDefaults(false), conn: conn}}
}

// OpenStream makes a stream for one request. It reaches the peer with SendHead.
// The error is ErrSaturated, ErrDraining or ErrClosed.
func (c *Client) OpenStream() (message.Stream, error) { return nil, ErrClosed }

// Capacity is how many more streams OpenStream would make now.
func (c *Client) Capacity() int { return 0 }

// ExtendedConnect reports whether the peer takes :protocol (RFC 8441). It is
// known once the peer's SETTINGS have arrived.
func (c *Client) ExtendedConnect() bool { return false }
