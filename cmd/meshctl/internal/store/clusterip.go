package store

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control/files"
)

// maxOffset bounds the part of a range that is given out.
const maxOffset = 1 << 16

// allocate gives every Service without one its cluster IPs: those it had
// before, else ones that follow from its name, so that the same manifests get
// the same addresses every time.
func (s *Store) allocate(next *files.Set) error {
	had := map[string]*corev1.Service{}
	for _, svc := range s.set.Services {
		had[svc.Namespace+"/"+svc.Name] = svc
	}
	used := map[netip.Addr]string{}
	var wanting []*corev1.Service
	var errs []error
	for _, svc := range next.Services {
		name := svc.Namespace + "/" + svc.Name
		if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
			continue
		}
		if old := had[name]; old != nil && svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) == 0 && families(old) == families(svc) {
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
		}
		if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) == 0 {
			wanting = append(wanting, svc)
			continue
		}
		errs = append(errs, s.take(next, svc, used))
	}
	for _, svc := range wanting {
		errs = append(errs, s.give(next, svc, used))
	}
	return errors.Join(errs...)
}

// take checks the addresses that a Service has.
func (s *Store) take(set *files.Set, svc *corev1.Service, used map[netip.Addr]string) error {
	bad := func(format string, args ...any) error {
		return &files.Error{Origin: set.Origin(svc), Object: "Service " + svc.Namespace + "/" + svc.Name, Path: "spec.clusterIP", Err: fmt.Errorf(format, args...)}
	}
	if len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	for _, ip := range svc.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return bad("%q is no IP address", ip)
		}
		if !s.inRange(a) {
			return bad("%s is in none of the service ranges %v: leave it out, it is allocated", ip, s.cfg.ServiceRanges)
		}
		if other, ok := used[a]; ok {
			return bad("%s is Service %s's already", ip, other)
		}
		used[a] = svc.Namespace + "/" + svc.Name
	}
	return nil
}

func (s *Store) inRange(a netip.Addr) bool {
	for _, r := range s.cfg.ServiceRanges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// families says which address families a Service asks for, as a key.
func families(svc *corev1.Service) string {
	policy := corev1.IPFamilyPolicySingleStack
	if p := svc.Spec.IPFamilyPolicy; p != nil {
		policy = *p
	}
	return fmt.Sprint(policy, svc.Spec.IPFamilies)
}

// give allocates addresses: IPv4 alone unless the Service asks for more.
func (s *Store) give(set *files.Set, svc *corev1.Service, used map[netip.Addr]string) error {
	want := svc.Spec.IPFamilies
	dual := svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	if len(want) == 0 {
		want = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if dual && len(want) == 1 {
		other := corev1.IPv6Protocol
		if want[0] == corev1.IPv6Protocol {
			other = corev1.IPv4Protocol
		}
		want = append(want[:1:1], other)
	}
	for _, f := range want {
		a, err := s.pick(svc.Namespace+"/"+svc.Name, f == corev1.IPv4Protocol, used)
		if err != nil {
			return &files.Error{Origin: set.Origin(svc), Object: "Service " + svc.Namespace + "/" + svc.Name, Path: "spec.ipFamilies", Err: err}
		}
		used[a] = svc.Namespace + "/" + svc.Name
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, a.String())
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	return nil
}

func (s *Store) pick(name string, is4 bool, used map[netip.Addr]string) (netip.Addr, error) {
	for _, r := range s.cfg.ServiceRanges {
		if r.Addr().Is4() != is4 {
			continue
		}
		size := uint32(maxOffset)
		if bits := r.Addr().BitLen() - r.Bits(); bits < 16 {
			size = 1 << bits
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(name))
		// The first ten are left to people, and the last is a broadcast address.
		free := size - 11
		for i := range free {
			a := offset(r.Masked().Addr(), 10+(h.Sum32()+i)%free)
			if _, ok := used[a]; !ok {
				return a, nil
			}
		}
		return netip.Addr{}, fmt.Errorf("no address of %s is free", r)
	}
	return netip.Addr{}, errors.New("the mesh has no service range of that family")
}

// offset adds n, below 65536 and without carry beyond the last two bytes.
func offset(a netip.Addr, n uint32) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += byte(n)
	b[len(b)-2] += byte(n >> 8)
	out, _ := netip.AddrFromSlice(b)
	return out
}
