package h2

import (
	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Server is the accepting end of a connection.
type Server struct{ Conn }

// NewServer speaks HTTP/2 as server on conn, whose handler it becomes. accept
// is called with each new stream, before its Head, and gives it a Receiver; a
// stream without one is refused.
func NewServer(conn aio.Conn, cfg Config, accept func(message.Stream)) *Server {
	s := new(Server)
	s.accept = accept
	s.start(conn, cfg, true)
	return s
}
