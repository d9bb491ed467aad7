package kube

import (
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// store is what a reflector tells of one kind of object. It keeps what the
// catalog was told, to tell it only what is different: the same objects, not
// copies of them. One goroutine calls it, the reflector's.
type store struct {
	kind  kind
	batch *batch
	log   *slog.Logger
	lag   func(time.Duration) // of a change's way from its cause to here; may be nil

	in     interner
	told   map[catalog.Ref]catalog.Object
	oddity map[catalog.Ref]string // what was said of an object's annotations

	synced  chan struct{} // closed when the first list has been told
	first   sync.Once
	size    atomic.Int64
	changes atomic.Uint64
	lists   atomic.Uint64
}

func newStore(k kind, b *batch, log *slog.Logger) *store {
	return &store{
		kind: k, batch: b, log: log, told: map[catalog.Ref]catalog.Object{}, oddity: map[catalog.Ref]string{},
		synced: make(chan struct{}),
	}
}

// Add implements cache.ReflectorStore.
func (s *store) Add(o any) error { return s.Update(o) }

// Update implements cache.ReflectorStore.
func (s *store) Update(o any) error {
	ref, err := s.ref(o)
	if err != nil {
		return err
	}
	now := s.convert(o)
	if now == nil {
		s.drop(ref)
		return nil
	}
	s.put(ref, now)
	s.observe(o)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *store) Delete(o any) error {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	ref, err := s.ref(o)
	if err != nil {
		return err
	}
	s.drop(ref)
	return nil
}

// Replace implements cache.ReflectorStore: a list after the first is told as
// what is different from the state before.
func (s *store) Replace(list []any, _ string) error {
	s.lists.Add(1)
	present := make(map[catalog.Ref]struct{}, len(list))
	for i, o := range list {
		now := s.convert(o)
		list[i] = nil // the list is ours, and its objects are large
		if now == nil {
			continue
		}
		present[now.Ref()] = struct{}{}
		s.put(now.Ref(), now)
	}
	for ref := range s.told {
		if _, ok := present[ref]; !ok {
			s.drop(ref)
		}
	}
	s.first.Do(func() { close(s.synced) })
	return nil
}

// Resync implements cache.ReflectorStore: there is nothing that could have got
// out of step.
func (s *store) Resync() error { return nil }

// Transformer implements cache.TransformingStore: objects of a list in the making
// are stripped one by one.
func (s *store) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if m, err := meta.Accessor(o); err == nil {
			m.SetManagedFields(nil)
		}
		s.kind.strip(o)
		return o, nil
	}
}

// convert makes the catalog's object. What is malformed in it is reported once.
func (s *store) convert(o any) catalog.Object {
	now, odd := s.kind.convert(o)
	if now == nil {
		return nil
	}
	s.in.intern(now)
	ref := now.Ref()
	switch {
	case odd == nil:
		delete(s.oddity, ref)
	case s.oddity[ref] != odd.Error():
		s.oddity[ref] = odd.Error()
		s.log.Warn("annotation not understood", "err", odd)
	}
	return now
}

func (s *store) put(ref catalog.Ref, now catalog.Object) {
	if old, ok := s.told[ref]; ok && reflect.DeepEqual(old, now) {
		return
	}
	s.told[ref] = now
	s.size.Store(int64(len(s.told)))
	s.changes.Add(1)
	s.batch.add(catalog.Put(now))
}

func (s *store) drop(ref catalog.Ref) {
	if _, ok := s.told[ref]; !ok {
		return
	}
	delete(s.told, ref)
	delete(s.oddity, ref)
	s.size.Store(int64(len(s.told)))
	s.changes.Add(1)
	s.batch.add(catalog.Delete(ref))
}

func (s *store) ref(o any) (catalog.Ref, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return catalog.Ref{}, fmt.Errorf("watch of %ss: %w", s.kind.name, err)
	}
	return catalog.Ref{Kind: s.kind.name, Key: catalog.Key{Namespace: m.GetNamespace(), Name: m.GetName()}}, nil
}

// observe measures how long ago the cause of an EndpointSlice's change was, where
// its controller tells.
func (s *store) observe(o any) {
	sl, ok := o.(*discoveryv1.EndpointSlice)
	if !ok || s.lag == nil {
		return
	}
	if t, err := time.Parse(time.RFC3339Nano, sl.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		s.lag(time.Since(t))
	}
}
