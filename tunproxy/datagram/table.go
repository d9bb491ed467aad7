package datagram

import (
	"net/netip"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

const (
	shards = 16
	// maxFlows and maxQuestions bound what each shard remembers.
	maxFlows     = 256
	maxQuestions = 64
	// idle is when a flow is over, patience when a question will not be answered.
	idle     = time.Minute
	patience = 5 * time.Second

	dnsPort = 53
)

// Table is the UDP that crosses one sidecar. Its methods are safe from any
// goroutine: a flow's two directions may be seen by different loops.
type Table struct {
	m      *telemetry.Datagrams
	now    func() time.Time
	shards [shards]shard
}

type shard struct {
	mu        sync.Mutex
	flows     map[pair]*conversation
	questions map[question]asked
}

// pair names a flow.
type pair struct{ pod, peer netip.AddrPort }

type conversation struct {
	m    telemetry.UDP
	last time.Time
}

// question names a query that waits for its response.
type question struct {
	pair
	id uint16
}

type asked struct {
	m    telemetry.DNS
	name string
	kind uint16
	at   time.Time
}

// New makes an empty table. now may be nil.
func New(m *telemetry.Datagrams, now func() time.Time) *Table {
	if now == nil {
		now = time.Now
	}
	t := &Table{m: m, now: now}
	for i := range t.shards {
		t.shards[i] = shard{flows: make(map[pair]*conversation), questions: make(map[question]asked)}
	}
	return t
}

// Seen takes note of a packet that came from a side: size bytes with headers, and
// as much of its payload as is at hand, which is borrowed.
func (t *Table) Seen(from aio.Side, src, dst netip.AddrPort, size int, payload []byte) {
	p := pair{src, dst}
	if from == aio.Wire {
		p = pair{dst, src}
	}
	now := t.now()
	s := &t.shards[(p.pod.Port()^p.peer.Port())%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[p]
	if f == nil {
		f = t.open(s, p, from)
	}
	if f == nil {
		t.m.Overflow(from == aio.Wire, size)
	} else {
		f.last = now
		f.m.Packet(from == aio.Wire, size)
	}
	if p.peer.Port() == dnsPort {
		t.dns(s, p, from, payload, now)
	}
}

// open begins a flow; nil: there are too many.
func (t *Table) open(s *shard, p pair, from aio.Side) *conversation {
	if len(s.flows) >= maxFlows {
		return nil
	}
	f := &conversation{}
	if from == aio.App {
		f.m = t.m.Flow(flow.Outbound, p.peer)
	} else {
		f.m = t.m.Flow(flow.Inbound, p.pod)
	}
	s.flows[p] = f
	return f
}

// dns looks for questions of the pod's, and for their answers.
func (t *Table) dns(s *shard, p pair, from aio.Side, payload []byte, now time.Time) {
	m, ok := parse(payload)
	if !ok || m.response != (from == aio.Wire) {
		return
	}
	q := question{p, m.id}
	a, waits := s.questions[q]
	switch {
	case m.response && (!waits || a.name != m.name || a.kind != m.kind): // nobody asked
	case m.response:
		delete(s.questions, q)
		a.m.Answered(m.rcode, int(m.answers), now.Sub(a.at))
		a.m.Release()
	case waits && a.name == m.name && a.kind == m.kind: // asked once more
		a.m.Asked()
	case waits, len(s.questions) < maxQuestions:
		if waits {
			a.m.Unanswered()
			a.m.Release()
		}
		a = asked{t.m.Name(m.name, typeName(m.kind)), m.name, m.kind, now}
		a.m.Asked()
		s.questions[q] = a
	default:
		t.m.Unwatched()
	}
}

// Sweep ends flows that are over, and questions that will not be answered.
func (t *Table) Sweep() {
	now := t.now()
	for i := range t.shards {
		t.shards[i].sweep(now)
	}
}

func (s *shard) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, f := range s.flows {
		limit := idle
		if p.peer.Port() == dnsPort { // one for each question, often
			limit = patience
		}
		if now.Sub(f.last) > limit {
			delete(s.flows, p)
			f.m.Close()
		}
	}
	for q, a := range s.questions {
		if now.Sub(a.at) > patience {
			delete(s.questions, q)
			a.m.Unanswered()
			a.m.Release()
		}
	}
}
