package telemetry

import (
	"sync"
	"sync/atomic"
)

// Transports are the families of TCP connections.
type Transports struct{ sets *sets[tcpMetrics] }

type tcpMetrics struct {
	open        Counter
	connections Gauge
	read, write Counter
	closed      errnos
}

// errnos count closes by how they ended; few values exist.
type errnos struct {
	known atomic.Pointer[[]*errno]
	mu    sync.Mutex // for growth
}

type errno struct {
	name string
	n    Counter
}

// maxErrnos bounds the values of one set.
const maxErrnos = 16

func (e *errnos) get(name string) *errno {
	if p := e.known.Load(); p != nil {
		for _, x := range *p {
			if x.name == name {
				return x
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var old []*errno
	if p := e.known.Load(); p != nil {
		old = *p
	}
	for _, x := range old {
		if x.name == name || len(old) == maxErrnos && x.name == "other" {
			return x
		}
	}
	if len(old) == maxErrnos-1 {
		name = "other"
	}
	x := &errno{name: name}
	grown := append(append(make([]*errno, 0, len(old)+1), old...), x)
	e.known.Store(&grown)
	return x
}

// NewTransports registers tcp_open_total, tcp_open_connections,
// tcp_close_total, tcp_read_bytes_total and tcp_write_bytes_total.
func NewTransports(r *Registry) *Transports {
	return &Transports{newSets(r, printTCP)}
}

// End is which end of a proxied connection a transport is: the peer label.
type End string

// The ends.
const (
	Src End = "src" // towards the client
	Dst End = "dst" // towards the server
)

// TCP is a handle for connections that share their labels.
type TCP struct {
	sets *sets[tcpMetrics]
	set  *set[tcpMetrics]
}

// Handle finds the counters for those labels; Release gives them back.
func (m *Transports) Handle(l *Labels, end End) TCP {
	var stack [512]byte
	return TCP{m.sets, m.sets.acquire(l.append(stack[:0], string(end)))}
}

// Release gives the handle back. It must not be used afterwards.
func (h TCP) Release() {
	if h.set != nil {
		h.sets.release(h.set)
	}
}

// Open counts a connection that was established.
func (h TCP) Open() {
	if h.set != nil {
		h.set.metrics.open.Inc()
		h.set.metrics.connections.Add(1)
	}
}

// Close counts its end. errno is "" after an orderly end, else the errno's name
// ("ECONNRESET", "ETIMEDOUT", …).
func (h TCP) Close(errno string) {
	if h.set != nil {
		h.set.metrics.connections.Add(-1)
		h.set.metrics.closed.get(errno).n.Inc()
	}
}

// Read counts bytes received from the transport's peer.
func (h TCP) Read(n int) {
	if h.set != nil {
		h.set.metrics.read.Add(uint64(n))
	}
}

// Wrote counts bytes sent to the transport's peer.
func (h TCP) Wrote(n int) {
	if h.set != nil {
		h.set.metrics.write.Add(uint64(n))
	}
}

func printTCP(t *text, all []*set[tcpMetrics]) {
	t.family("tcp_open_total", "Total count of opened connections.", counter)
	for _, s := range all {
		t.sample("tcp_open_total", s.labels, "", s.metrics.open.Value())
	}
	t.family("tcp_open_connections", "Number of currently-open connections.", gauge)
	for _, s := range all {
		t.signed("tcp_open_connections", s.labels, "", s.metrics.connections.Value())
	}
	t.family("tcp_read_bytes_total", "Total count of bytes read from peers.", counter)
	for _, s := range all {
		t.sample("tcp_read_bytes_total", s.labels, "", s.metrics.read.Value())
	}
	t.family("tcp_write_bytes_total", "Total count of bytes written to peers.", counter)
	for _, s := range all {
		t.sample("tcp_write_bytes_total", s.labels, "", s.metrics.write.Value())
	}
	t.family("tcp_close_total", "Total count of closed connections.", counter)
	for _, s := range all {
		if p := s.metrics.closed.known.Load(); p != nil {
			for _, e := range *p {
				t.sample("tcp_close_total", s.labels, string(appendLabel(nil, "errno", e.name)), e.n.Value())
			}
		}
	}
}
