package main

import (
	"net"
	"sync"
)

// conns are a listener's connections by their peer, to be broken one by one.
type conns struct {
	mu  sync.Mutex
	all map[string]net.Conn
}

func (c *conns) over(l net.Listener) net.Listener { return &listener{Listener: l, c: c} }

func (c *conns) abort(peer string) {
	c.mu.Lock()
	conn := c.all[peer]
	c.mu.Unlock()
	if conn != nil {
		abort(conn)
	}
}

type listener struct {
	net.Listener
	c *conns
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.c.all == nil {
		l.c.all = map[string]net.Conn{}
	}
	l.c.all[conn.RemoteAddr().String()] = conn
	return &known{Conn: conn, c: l.c}, nil
}

// known is a connection that is forgotten when it closes.
type known struct {
	net.Conn
	c *conns
}

// Close implements net.Conn.
func (k *known) Close() error {
	k.c.mu.Lock()
	delete(k.c.all, k.RemoteAddr().String())
	k.c.mu.Unlock()
	return k.Conn.Close()
}
