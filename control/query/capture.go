package query

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/tap"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Capture implements the wire API.
func (s *Server) Capture(req *api.CaptureRequest, stream api.Query_CaptureServer) error {
	return s.Record(stream.Context(), req, stream.Send)
}

// Record calls send with a pod's packets, one message at a time, until ctx ends
// or send fails. A message without packets comes whenever nothing else has for
// half a minute.
func (s *Server) Record(ctx context.Context, req *api.CaptureRequest, send func(*tapapi.Packets) error) error {
	if s.tap == nil {
		return status.Error(codes.Unimplemented, "capture: no sidecar is attached here")
	}
	k, err := s.watched(req.GetNamespace(), req.GetPod())
	if err != nil {
		return err
	}
	w, err := s.tap.Watch(tap.Request{
		Pods:    func() []*catalog.Pod { return s.one(k) },
		Capture: &tapapi.Capture{SnapLength: req.GetSnapLength()},
	})
	switch {
	case errors.Is(err, tap.ErrBusy):
		return status.Error(codes.ResourceExhausted, err.Error())
	case err != nil:
		return status.Error(codes.InvalidArgument, err.Error())
	}
	defer w.Close()
	quiet := time.NewTicker(quietPeriod)
	defer quiet.Stop()
	for {
		m := &tapapi.Packets{}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case m = <-w.Packets():
			w.Took(m)
			m.Tap = 0 // a number of ours
		case <-quiet.C:
			if len(s.one(k)) == 0 {
				return status.Errorf(codes.NotFound, "pod %s is gone", k)
			}
		}
		m.Lost += w.TakeLost()
		if err := send(m); err != nil {
			return err
		}
	}
}

// watched is a pod whose sidecar people may look into and can be asked now.
func (s *Server) watched(namespace, name string) (catalog.Key, error) {
	k := catalog.Key{Namespace: namespace, Name: name}
	if k.Namespace == "" {
		k.Namespace = files.DefaultNamespace
	}
	p, ok := s.catalog.Pod(k)
	switch {
	case !ok:
		return k, status.Errorf(codes.NotFound, "there is no pod %q in namespace %s", k.Name, k.Namespace)
	case !p.Meshed:
		return k, status.Errorf(codes.FailedPrecondition, "pod %s has no sidecar that could be asked", k)
	case p.Annotations[annotation.DisableTap] == "true":
		return k, status.Errorf(codes.FailedPrecondition, "pod %s forbids taps by annotation %s", k, annotation.DisableTap)
	case !s.tap.Attached(k):
		return k, status.Errorf(codes.FailedPrecondition, "the sidecar of pod %s is not connected to the control plane", k)
	}
	return k, nil
}

// one is a pod, while it is there.
func (s *Server) one(k catalog.Key) []*catalog.Pod {
	if p, ok := s.catalog.Pod(k); ok {
		return []*catalog.Pod{p}
	}
	return nil
}
