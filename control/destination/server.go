// Package destination streams what is behind an address. It owns the wire
// service and the sharing of encodings, and refuses to know how the answer comes
// about (control/catalog) and who the caller is (control/access).
//
// A stream is one goroutine that waits for its target's nudge, compares the
// snapshot in force with the one it sent last, and sends what is different. When
// its client does not read, it alone waits; what it will send next is then
// whatever is in force by that time.
package destination

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/control/access"
	"github.com/tunmesh/tunmesh/control/catalog"
)

// Server is the wire service.
type Server struct {
	api.UnimplementedDestinationServer
	catalog *catalog.Catalog
	streams atomic.Int64
	sent    atomic.Uint64

	mu       sync.Mutex
	encoders map[netip.AddrPort]*encoder // shared by the streams of an address, wherever they are
}

// New returns the service.
func New(c *catalog.Catalog) *Server {
	return &Server{catalog: c, encoders: map[netip.AddrPort]*encoder{}}
}

// Streams is the number of open streams.
func (s *Server) Streams() int64 { return s.streams.Load() }

// Sent is the number of updates sent since the start.
func (s *Server) Sent() uint64 { return s.sent.Load() }

// Watch implements the wire API.
func (s *Server) Watch(req *api.WatchRequest, stream api.Destination_WatchServer) error {
	ctx := stream.Context()
	addr, err := netip.ParseAddrPort(req.GetTarget())
	if err != nil || addr.Port() == 0 {
		return status.Errorf(codes.InvalidArgument, "target %q: want IP:port", req.GetTarget())
	}
	pod, err := access.Pod(ctx, s.catalog, req.GetPod())
	if err != nil {
		return err
	}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	asker := s.catalog.WatchPod(pod.Key)
	defer asker.Close()
	w := s.catalog.WatchFrom(addr, pod.Node)
	defer w.Close()
	enc := s.encoder(addr)
	defer s.release(addr, enc)
	var sent *catalog.Target
	for version := uint64(1); ; {
		if now := w.Load(); now != sent {
			m, err := enc.message(sent, now, version)
			if err != nil {
				return status.Errorf(codes.Internal, "encode target %s: %v", addr, err)
			}
			if err := stream.SendMsg(m); err != nil {
				return err
			}
			s.sent.Add(1)
			sent = now
			version++
		}
		select {
		case <-w.Changed():
		case <-asker.Changed():
			if err := alive(asker, pod); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// alive ends a stream whose pod is gone, or is another of the same name.
func alive(w *catalog.PodWatch, was *catalog.Pod) error {
	now, _ := w.Load()
	if now == nil || now.UID != was.UID || now.ServiceAccount != was.ServiceAccount {
		return status.Errorf(codes.NotFound, "pod %s is gone", was.Key)
	}
	return nil
}

// encoder returns the target's, shared by all of its streams.
func (s *Server) encoder(addr netip.AddrPort) *encoder {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.encoders[addr]
	if e == nil {
		e = &encoder{}
		s.encoders[addr] = e
	}
	e.refs++
	return e
}

func (s *Server) release(addr netip.AddrPort, e *encoder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.refs--; e.refs == 0 {
		delete(s.encoders, addr)
	}
}
