package cluster

import (
	"fmt"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/programs"
)

// Options say what a cluster is. The zero value is one node of the default
// version of Kubernetes, with IPv4.
type Options struct {
	// Nodes, 1 to 3; 0 is 1.
	Nodes int
	// Version of Kubernetes, as 1.34 or 1.34.2; "" is the default. Versions
	// other than the default are built at their first use, which takes minutes.
	Version string
	// DualStack gives nodes, pods and Services IPv6 addresses, too.
	DualStack bool
	// FeatureGates of all of Kubernetes' programs.
	FeatureGates map[string]bool
	// Images are tarballs (OCI layouts, as deploy/image writes them) that every
	// node has from the start. LoadImage adds more later.
	Images []string
	// Programs that were built before; nil builds them.
	Programs *programs.Set
	// Progress gets a line for each step; nil is none.
	Progress func(format string, args ...any)
	// Verbose gives Kubernetes' logs the details of each step.
	Verbose bool
}

func (o *Options) normalize() error {
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Nodes < 0 || o.Nodes > layout.MaxNodes {
		return fmt.Errorf("a cluster has 1 to %d nodes, not %d", layout.MaxNodes, o.Nodes)
	}
	release, err := programs.Release(o.Version)
	if err != nil {
		return err
	}
	o.Version = release
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	return nil
}

// gates adds those that a supported version needs for what the others have by
// default.
func (o *Options) gates() map[string]bool {
	out := map[string]bool{}
	if !programs.AtLeast(o.Version, 33) {
		out["UserNamespacesSupport"] = true
	}
	for g, on := range o.FeatureGates {
		out[g] = on
	}
	return out
}

func (o *Options) verbosity() int {
	if o.Verbose {
		return 4
	}
	return 2
}
