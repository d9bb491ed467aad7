package cluster

import (
	_ "embed"
	"strings"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

//go:embed coredns.yaml
var coredns string

func corednsManifest(c layout.Cluster) string {
	return strings.NewReplacer("$IMAGE", corednsImage, "$ADDRESS", c.DNS().String()).Replace(coredns)
}
