package control

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/inject"
)

const (
	// unmeshedPeriod is the time between two looks at all pods, if anything changed.
	unmeshedPeriod = 5 * time.Second
	// unmeshedReason is the reason of the events.
	unmeshedReason  = "Unmeshed"
	unmeshedMessage = "this pod runs without the sidecar that it or its namespace asks for: it was created while the injector did not answer, or cannot have one; delete it so that it is made again, or annotate it with tunmesh.io/inject: disabled"
)

// unmeshed finds the pods that should have a sidecar and have none.
type unmeshed struct {
	mu    sync.Mutex
	found map[string]int // by namespace
}

// count is how many there are, by namespace.
func (u *unmeshed) count() map[string]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.found)
}

// run looks at all pods from time to time, until ctx ends.
func (u *unmeshed) run(ctx context.Context, c *cluster) error {
	select {
	case <-c.plane.catalog.Synced():
	case <-ctx.Done():
		return nil
	}
	seen := c.plane.catalog.Observe()
	defer seen.Close()
	timer := time.NewTimer(unmeshedPeriod)
	defer timer.Stop()
	for {
		u.look(c)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(unmeshedPeriod)
		select {
		case <-seen.Changed():
		case <-ctx.Done():
			return nil
		}
	}
}

func (u *unmeshed) look(c *cluster) {
	cfg := c.injection()
	cfg.IgnoreLinkerd = c.linkerd.Load()
	found := map[string]int{}
	for _, p := range bare(c.plane.catalog, cfg) {
		found[p.Namespace]++
		c.events.Warn(corev1.ObjectReference{
			APIVersion: "v1", Kind: catalog.KindPod, Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID),
		}, unmeshedReason, unmeshedMessage)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.found = found
}

// bare lists the pods that should have a sidecar and have none. Namespaces that
// the webhook is not asked about want none, as a pod of theirs does not say.
func bare(c *catalog.Catalog, cfg inject.Config) []*catalog.Pod {
	var list []*catalog.Pod
	spaces := map[string]map[string]string{}
	for _, n := range c.Namespaces() {
		spaces[n.Name] = n.Annotations
	}
	for _, p := range c.Pods("") {
		if p.Meshed || p.HostNetwork || p.Finished() || p.Terminating || p.Namespace == Namespace {
			continue
		}
		cfg.NamespaceAnnotations = spaces[p.Namespace]
		if inject.Wanted(p.Annotations, cfg) {
			list = append(list, p)
		}
	}
	return list
}
