package annotation

import "strings"

// Linkerd's names, understood where ours are absent, for people who come from
// there.
const (
	LinkerdInject       = "linkerd.io/inject"
	LinkerdConfigPrefix = "config.linkerd.io/"
	LinkerdDisableTap   = "viz.linkerd.io/disable-tap"
	linkerdAlphaPrefix  = "config.alpha.linkerd.io/"
	linkerdBetaPrefix   = "config.beta.linkerd.io/"
)

// IsLinkerd reports a name by which people configure Linkerd's sidecar.
func IsLinkerd(name string) bool {
	return name == LinkerdInject || name == LinkerdDisableTap || strings.HasPrefix(name, LinkerdConfigPrefix) ||
		strings.HasPrefix(name, linkerdAlphaPrefix) || strings.HasPrefix(name, linkerdBetaPrefix)
}
