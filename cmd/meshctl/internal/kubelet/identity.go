package kubelet

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
)

// identity reads what a container may do from its and its pod's security
// context. A container that says nothing is root of the pod's user namespace
// with the capabilities that container runtimes give.
func identity(p *corev1.Pod, c *corev1.Container) (sandbox.Identity, error) {
	ps, cs := p.Spec.SecurityContext, c.SecurityContext
	if ps == nil {
		ps = &corev1.PodSecurityContext{}
	}
	if cs == nil {
		cs = &corev1.SecurityContext{}
	}
	id := sandbox.Identity{Caps: sandbox.DefaultCaps, Filter: true}
	var err error
	if id.UID, err = userID("runAsUser", first(cs.RunAsUser, ps.RunAsUser)); err != nil {
		return id, err
	}
	if id.GID, err = userID("runAsGroup", first(cs.RunAsGroup, ps.RunAsGroup)); err != nil {
		return id, err
	}
	groups := slices.Clone(ps.SupplementalGroups)
	if ps.FSGroup != nil {
		groups = append(groups, *ps.FSGroup)
	}
	for _, g := range groups {
		n, err := userID("supplementalGroups", &g)
		if err != nil {
			return id, err
		}
		id.Groups = append(id.Groups, n)
	}
	if nonRoot := first(cs.RunAsNonRoot, ps.RunAsNonRoot); isTrue(nonRoot) && id.UID == 0 {
		return id, fmt.Errorf("runAsNonRoot is set and it would run as root: set runAsUser")
	}
	if caps := cs.Capabilities; caps != nil {
		for _, name := range caps.Drop {
			set, err := sandbox.ParseCap(string(name))
			if err != nil {
				return id, fmt.Errorf("capabilities.drop: %w", err)
			}
			id.Caps &^= set
		}
		for _, name := range caps.Add {
			set, err := sandbox.ParseCap(string(name))
			if err != nil {
				return id, fmt.Errorf("capabilities.add: %w", err)
			}
			id.Caps |= set
		}
	}
	id.NoNewPrivs = cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation
	if s := first(cs.SeccompProfile, ps.SeccompProfile); s != nil && s.Type == corev1.SeccompProfileTypeUnconfined {
		id.Filter = false
	}
	return id, nil
}

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func userID(field string, v *int64) (uint32, error) {
	if v == nil {
		return 0, nil
	}
	if *v < 0 || *v >= sandbox.IDs {
		return 0, fmt.Errorf("%s: %d is outside a pod's range, 0 to %d", field, *v, sandbox.IDs-1)
	}
	return uint32(*v), nil
}
