package tap

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Meta describes the exchange that a request belongs to. Its maps are kept by
// the spans of requests and must not change.
type Meta struct {
	Direction flow.Direction
	// Source is the client, Destination the server, as the sidecar knows them.
	Source, Destination Peer
	// TLS is the tls label: "true", or the reason of none.
	TLS string
	// Route are labels of the route.
	Route map[string]string
}

// Peer is one end of an exchange.
type Peer struct {
	Addr   netip.AddrPort
	Labels map[string]string
}

// A Span is one request that at least one tap follows. The nil Span is of one
// that nobody follows: its methods do nothing. A Span is of one goroutine.
type Span struct {
	hub      *Hub
	taps     []*tap
	meta     Meta
	stream   uint64
	began    time.Time
	answered time.Time
	ended    bool
}

// Begin is called with a request's head, which is borrowed. It returns nil
// unless a tap matches and its rate allows: then the caller goes on with Show.
// Until then Meta needs no labels, no TLS and no Route: most requests that a tap
// matches are beyond its rate, and cost as little as can be.
func (h *Hub) Begin(m *Meta, head *message.Head) *Span {
	p := h.taps.Load()
	if p == nil {
		return nil
	}
	now := h.cfg.Now()
	var s *Span
	for _, t := range *p {
		if !t.match.request(m, head) {
			continue
		}
		if !t.limit.admit(now) {
			h.missed(t)
			continue
		}
		if s == nil && !h.all.admit(now) {
			h.missed(t)
			continue
		}
		if s == nil {
			s = &Span{hub: h, stream: h.last.Add(1), began: now}
		}
		s.taps = append(s.taps, t)
	}
	return s
}

// Show shows the request itself; m is whole now.
func (s *Span) Show(m *Meta, head *message.Head) {
	if s == nil {
		return
	}
	s.meta = *m
	for _, t := range s.taps {
		e := s.event(t)
		e.Request = &wire.Request{
			Method: head.Method, Scheme: head.Scheme, Authority: head.Authority, Path: head.Path,
			Headers: t.fields(head.Fields),
		}
		s.hub.push(t, e)
	}
}

func (m *match) request(meta *Meta, h *message.Head) bool {
	far := meta.Destination.Addr.Addr()
	if meta.Direction == flow.Inbound {
		if !m.in {
			return false
		}
		far = meta.Source.Addr.Addr()
	} else if !m.out {
		return false
	}
	return (m.method == "" || strings.EqualFold(m.method, h.Method)) &&
		(m.scheme == "" || m.scheme == h.Scheme) &&
		(m.authority == "" || strings.EqualFold(m.authority, h.Authority)) &&
		strings.HasPrefix(h.Path, m.prefix) &&
		(len(m.peers) == 0 || slices.Contains(m.peers, far.Unmap()))
}

// Response is called with the final response's head, which is borrowed.
func (s *Span) Response(head *message.Head) {
	if s == nil || s.ended || !s.answered.IsZero() {
		return
	}
	s.answered = s.hub.cfg.Now()
	for _, t := range s.taps {
		e := s.event(t)
		e.Response = &wire.Response{
			SinceRequestUS: micros(s.answered.Sub(s.began)), Status: uint32(head.Status), Headers: t.fields(head.Fields),
		}
		s.hub.push(t, e)
	}
}

// Result is how a request ended.
type Result struct {
	// Bytes of the response's body.
	Bytes int64
	// GRPC is grpc-status; negative without one.
	GRPC int
	// WasReset: the stream was reset, with code Reset.
	WasReset bool
	Reset    message.Code
	// Trailers are borrowed.
	Trailers []message.Field
}

// End is the last call; later ones do nothing.
func (s *Span) End(r Result) {
	if s == nil || s.ended {
		return
	}
	s.ended = true
	now := s.hub.cfg.Now()
	for _, t := range s.taps {
		e := s.event(t)
		e.End = &wire.End{SinceRequestUS: micros(now.Sub(s.began)), ResponseBytes: uint64(max(0, r.Bytes)), Trailers: t.fields(r.Trailers)}
		if !s.answered.IsZero() {
			e.End.SinceResponseUS = micros(now.Sub(s.answered))
		}
		if r.GRPC >= 0 {
			v := uint32(r.GRPC)
			e.End.GRPCStatus = &v
		}
		if r.WasReset {
			v := uint32(r.Reset)
			e.End.Reset = &v
		}
		s.hub.push(t, e)
	}
}

// event is the part that all phases have in common.
func (s *Span) event(t *tap) *wire.Event {
	direction := "out"
	if s.meta.Direction == flow.Inbound {
		direction = "in"
	}
	return &wire.Event{
		Tap: t.id, Base: s.hub.base, Stream: s.stream, Direction: direction,
		Source: s.meta.Source.wire(), Destination: s.meta.Destination.wire(),
		TLS: s.meta.TLS, Route: s.meta.Route,
	}
}

func (p *Peer) wire() wire.Peer {
	if !p.Addr.IsValid() {
		return wire.Peer{Labels: p.Labels}
	}
	return wire.Peer{IP: p.Addr.Addr().Unmap().String(), Port: uint32(p.Addr.Port()), Labels: p.Labels}
}

// maxFields bounds the header fields that one event shows, in bytes.
const maxFields = 16 << 10

// fields copies what a watcher asked to see.
func (t *tap) fields(all []message.Field) []wire.Field {
	if !t.headers || len(all) == 0 {
		return nil
	}
	shown := make([]wire.Field, 0, len(all))
	size := 0
	for i := range all {
		if size += len(all[i].Name) + len(all[i].Value); size > maxFields {
			break
		}
		shown = append(shown, wire.Field{Name: all[i].Name, Value: []byte(all[i].Value)})
	}
	return shown
}

func micros(d time.Duration) uint64 { return uint64(max(0, d/time.Microsecond)) }
