package kube

import (
	"context"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// batch collects changes until they are applied together. It holds at most one
// for each object.
type batch struct {
	mu      sync.Mutex
	changes map[catalog.Ref]catalog.Change
	some    chan struct{} // 1 slot: there are changes
}

func newBatch() *batch {
	return &batch{changes: map[catalog.Ref]catalog.Change{}, some: make(chan struct{}, 1)}
}

// add puts changes in; the last word about an object counts.
func (b *batch) add(changes ...catalog.Change) {
	if len(changes) == 0 {
		return
	}
	b.mu.Lock()
	for _, ch := range changes {
		b.changes[ch.Ref] = ch
	}
	b.mu.Unlock()
	select {
	case b.some <- struct{}{}:
	default:
	}
}

// take empties the batch. Pods come before the slices that name them; what is
// applied as one is seen as one, so the order is of no other concern.
func (b *batch) take() []catalog.Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.changes) == 0 {
		return nil
	}
	list := make([]catalog.Change, 0, len(b.changes))
	for _, ch := range b.changes {
		list = append(list, ch)
	}
	clear(b.changes)
	return list
}

// run applies what comes, each time delay after the first change of a batch.
func (b *batch) run(ctx context.Context, c *catalog.Catalog, delay time.Duration) {
	timer := time.NewTimer(delay)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.some:
			timer.Reset(delay)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			c.Apply(b.take()...)
		}
	}
}
