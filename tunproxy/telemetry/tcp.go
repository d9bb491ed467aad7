package telemetry

import (
	"sync"
	"sync/atomic"
	"time"
)

// Transports are the families of TCP connections.
type Transports struct{ sets *sets[tcpMetrics] }

type tcpMetrics struct {
	open        Counter
	connections Gauge
	read, write Counter
	closed      errnos

	rtt                                                           Histogram
	retransmits, timeouts, disordered, zeroWindows, memory, queue Counter
}

// Network is what a connection's transport went through since the last time. What
// there is of it depends on the path to the peer, and on who reads what it sends.
type Network struct {
	RTT                                            time.Duration // 0: no news
	Retransmits, Timeouts, OutOfOrder, ZeroWindows uint64
	DroppedMemory, DroppedQueue                    uint64
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

// NewTransports registers the families tcp_: opened, open and closed connections,
// bytes, and what their transports went through.
func NewTransports(r *Registry) *Transports {
	return &Transports{newSets(r,
		counts("tcp_open_total", "Total count of opened connections.", func(m *tcpMetrics) *Counter { return &m.open }),
		gauges("tcp_open_connections", "Number of currently-open connections.", func(m *tcpMetrics) *Gauge { return &m.connections }),
		counts("tcp_read_bytes_total", "Total count of bytes read from peers.", func(m *tcpMetrics) *Counter { return &m.read }),
		counts("tcp_write_bytes_total", "Total count of bytes written to peers.", func(m *tcpMetrics) *Counter { return &m.write }),
		column[tcpMetrics]{"tcp_close_total", "Total count of closed connections.", counter, func(t *text, s *set[tcpMetrics]) {
			if p := s.metrics.closed.known.Load(); p != nil {
				for _, e := range *p {
					t.sample("tcp_close_total", s.labels, string(appendLabel(nil, "errno", e.name)), e.n.Value())
				}
			}
		}},
		column[tcpMetrics]{"tcp_rtt_seconds", "Smoothed round-trip times to peers, of each connection that carried bytes, every few seconds and at its end.", histogram, func(t *text, s *set[tcpMetrics]) {
			if !s.metrics.rtt.empty() {
				t.histogram("tcp_rtt_seconds", s.labels, "", &distanceScale, &s.metrics.rtt)
			}
		}},
		rare("tcp_retransmits_total", "Total count of segments sent again.", func(m *tcpMetrics) *Counter { return &m.retransmits }),
		rare("tcp_retransmit_timeouts_total", "Total count of retransmission timeouts: nothing was heard of the peer for long.", func(m *tcpMetrics) *Counter { return &m.timeouts }),
		rare("tcp_out_of_order_total", "Total count of segments that came before others that were missing.", func(m *tcpMetrics) *Counter { return &m.disordered }),
		rare("tcp_zero_windows_total", "Total count of times that peers were told to stop, as what they sent was not read.", func(m *tcpMetrics) *Counter { return &m.zeroWindows }),
		column[tcpMetrics]{"tcp_dropped_segments_total", "Total count of segments that came and for which there was no room, by reason.", counter, func(t *text, s *set[tcpMetrics]) {
			if n := s.metrics.memory.Value(); n > 0 {
				t.sample("tcp_dropped_segments_total", s.labels, `reason="memory_limit"`, n)
			}
			if n := s.metrics.queue.Value(); n > 0 {
				t.sample("tcp_dropped_segments_total", s.labels, `reason="queue_full"`, n)
			}
		}},
	)}
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
	var stack [768]byte
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

// Went counts what the transport went through.
func (h TCP) Went(n Network) {
	if h.set == nil {
		return
	}
	m := &h.set.metrics
	if n.RTT > 0 {
		m.rtt.took(&distanceScale, n.RTT)
	}
	if n == (Network{RTT: n.RTT}) {
		return
	}
	m.retransmits.Add(n.Retransmits)
	m.timeouts.Add(n.Timeouts)
	m.disordered.Add(n.OutOfOrder)
	m.zeroWindows.Add(n.ZeroWindows)
	m.memory.Add(n.DroppedMemory)
	m.queue.Add(n.DroppedQueue)
}

// Labels are what the counters are labelled with. It may be called from any
// goroutine, after Release too.
func (h TCP) Labels() map[string]string {
	if h.set == nil {
		return nil
	}
	return parseLabels(h.set.labels)
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
