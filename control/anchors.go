package control

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control/kube"
)

const (
	// copyRetry is the time between two tries to keep the copy, which cannot be kept
	// before the node agents' namespace is there.
	copyRetry = 15 * time.Second
	// copySettle is for how long a copy has to be another before it is replaced: who
	// changes the anchors, as an upgrade, writes the copy, too, and finds somebody
	// else's name on it (a conflict, for Helm) had we been quicker.
	copySettle = 2 * time.Second
	// copyTimeout bounds one try.
	copyTimeout = 10 * time.Second
)

// anchorsCopy keeps the trust anchors in force in the namespace of the node
// agents, which mount them: a ConfigMap of another namespace cannot be mounted,
// and the agents may read nothing of the API. All replicas put the same.
type anchorsCopy struct {
	seen chan *corev1.ConfigMap // nil: there is none
}

// heard tells of the copy as it is now.
func (a *anchorsCopy) heard(ctx context.Context, m *corev1.ConfigMap) {
	select {
	case a.seen <- m:
	case <-ctx.Done():
	}
}

// run keeps the copy until ctx ends.
func (a *anchorsCopy) run(ctx context.Context, c *cluster) error {
	var (
		have  *corev1.ConfigMap
		known bool
		other time.Time // since when the copy is another; zero: it is not
	)
	retry := time.NewTimer(copyRetry)
	defer retry.Stop()
	for {
		changed := c.live.Changed()
		want := c.live.Current()
		switch {
		case !known || want == nil:
		case have != nil && want.HasAnchors([]byte(have.Data[AnchorsKey])):
			other = time.Time{}
		case have != nil && other.IsZero():
			other = time.Now()
			retry.Reset(copySettle)
		case have == nil || time.Since(other) >= copySettle:
			call, cancel := context.WithTimeout(ctx, copyTimeout)
			kept, err := kube.PutConfigMap(call, c.cfg.Client, have, c.cfg.CNINamespace, AnchorsConfigMap, map[string]string{AnchorsKey: string(want.AnchorsPEM())})
			cancel()
			if err != nil {
				c.plane.log.Warn("trust anchors not copied for the node agents, trying again", "err", err)
				known = false // until somebody tells, or it is time
				retry.Reset(copyRetry)
			} else {
				have, other = kept, time.Time{}
				c.plane.log.Info("trust anchors copied for the node agents", "namespace", c.cfg.CNINamespace)
			}
		}
		select {
		case have = <-a.seen:
			known = true
		case <-changed:
		case <-retry.C:
			known = true
		case <-ctx.Done():
			return nil
		}
	}
}
