package control

import (
	"context"
	"maps"
	"slices"
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
	// webhookWait is how long the first look waits for the webhook's configuration.
	webhookWait = 3 * time.Second
	// unmeshedReason is the reason of the events.
	unmeshedReason  = "Unmeshed"
	unmeshedMessage = "this pod runs without the sidecar that it or its namespace asks for: it was created while the injector did not answer, or cannot have one; delete it so that it is made again, or annotate it with tunmesh.io/inject: disabled"
	leftOutMessage  = "this pod runs without the sidecar that it or its namespace asks for: the injector's webhook leaves out its namespace, as kube-system and those of injector.excludedNamespaces; annotate it with tunmesh.io/inject: disabled"
	// outsideReason is that of pods which have one that cannot start.
	outsideReason  = "OutsideTheChain"
	outsideMessage = "this pod's network was set up without the mesh's CNI plugin, so its sidecar cannot start: the node's agent was not there yet, or the CNI had just written its configuration; delete it so that it is made again"
)

// unmeshed finds the pods that should have a sidecar and have none, or one that
// cannot start.
type unmeshed struct {
	mu    sync.Mutex
	found map[string]int // those without, by namespace
	pods  []*catalog.Pod // both
}

// count is how many there are, by namespace.
func (u *unmeshed) count() map[string]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.found)
}

// list is what was found by the last look.
func (u *unmeshed) list() []*catalog.Pod {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.pods
}

// run looks at all pods from time to time, until ctx ends.
func (u *unmeshed) run(ctx context.Context, c *cluster) error {
	select {
	case <-c.plane.catalog.Synced():
	case <-ctx.Done():
		return nil
	}
	// What is said of a pod depends on whom the webhook is asked about; that this
	// cannot be read keeps nothing from being said.
	select {
	case <-c.hooked:
	case <-time.After(webhookWait):
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
	without := bare(c.plane.catalog, cfg)
	asked := c.asked.Load()
	for _, p := range without {
		found[p.Namespace]++
		message := unmeshedMessage
		if n, ok := c.plane.catalog.Namespace(p.Namespace); ok && !asked.of(n, p.Labels) {
			message = leftOutMessage
		}
		c.warn(p, unmeshedReason, message)
	}
	stuck := outside(c.plane.catalog)
	for _, p := range stuck {
		c.warn(p, outsideReason, outsideMessage)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.found, u.pods = found, slices.Concat(without, stuck)
}

// warn says something of a pod.
func (c *cluster) warn(p *catalog.Pod, reason, message string) {
	c.events.Warn(corev1.ObjectReference{
		APIVersion: "v1", Kind: catalog.KindPod, Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID),
	}, reason, message)
}

// outside lists the pods whose sidecar cannot start.
func outside(c *catalog.Catalog) []*catalog.Pod {
	return slices.DeleteFunc(c.Pods(""), func(p *catalog.Pod) bool { return !p.Outside || !p.Meshed || p.Finished() || p.Terminating })
}

// bare lists the pods that should have a sidecar and have none: also those of
// namespaces that the webhook leaves out, which ask in vain.
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
