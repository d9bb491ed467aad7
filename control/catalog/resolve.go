package catalog

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// resolve computes what is behind addr. Callers hold the lock.
func (c *Catalog) resolve(addr netip.AddrPort) *Target {
	if s := c.serviceIPs[addr.Addr()]; s != nil {
		return c.resolveService(addr, s)
	}
	if p := c.podByIP(addr.Addr()); p != nil {
		return c.resolvePod(addr, p)
	}
	if c.nobodys(addr.Addr()) {
		return &Target{Addr: addr, Kind: TargetNone}
	}
	return &Target{
		Addr: addr, Kind: TargetExternal, Protocol: c.hint(addr.Port(), ""),
		Endpoints: []Endpoint{{Addr: addr, Weight: DefaultWeight, Ready: true, Protocol: c.hint(addr.Port(), "")}},
	}
}

// nobodys reports an address of the mesh's ranges that is not a node's own
// either: not one of the configured ones, not a known node's, and not a
// host-network pod's.
func (c *Catalog) nobodys(ip netip.Addr) bool {
	if _, ok := c.hosts[ip]; ok {
		return false
	}
	if _, ok := c.nodeIPs[ip]; ok {
		return false
	}
	for _, p := range c.podsByIP[ip] {
		if p.HostNetwork && !p.Finished() {
			return false
		}
	}
	return slices.ContainsFunc(c.networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// resolveService: the Service's TCP port, or nobody.
func (c *Catalog) resolveService(addr netip.AddrPort, s *service) *Target {
	for _, sp := range s.Ports {
		if sp.Port != addr.Port() || sp.Transport != "TCP" {
			continue
		}
		return &Target{
			Addr: addr, Kind: TargetService, Ref: s.Ref(), Port: sp.Port,
			Protocol:  c.serviceHint(s, sp),
			Authority: c.authority(s.Key, sp.Port),
			Labels:    map[string]string{"service": s.Name, "namespace": s.Namespace},
			Endpoints: c.ready(s, sp, addr.Addr().Is4()),
			Traffic:   s.Traffic,
			Local:     s.Local,
		}
	}
	return &Target{Addr: addr, Kind: TargetNone}
}

// resolvePod: the pod itself, on any port, ready or not: who asks for a pod by
// its address wants that one.
func (c *Catalog) resolvePod(addr netip.AddrPort, p *Pod) *Target {
	e := c.endpoint(p, addr)
	t := &Target{
		Addr: addr, Kind: TargetPod, Ref: p.Ref(), Port: addr.Port(), Protocol: e.Protocol,
		Labels:    map[string]string{"namespace": p.Namespace},
		Endpoints: []Endpoint{e},
	}
	if s, sp, ok := c.headless(p, addr.Port()); ok {
		t.Labels["service"] = s.Name
		t.Authority = c.authority(s.Key, sp.Port)
		if p := FromAppProtocol(sp.AppProtocol); t.Protocol == Detect && p != Detect {
			t.Protocol = p
		}
	}
	return t
}

// headless finds the Service whose name led to a pod's own address: a headless
// one that selects the pod and has the port. Of several, the first by name.
func (c *Catalog) headless(p *Pod, port uint16) (*service, ServicePort, bool) {
	sp := c.spaces[p.Namespace]
	if sp == nil {
		return nil, ServicePort{}, false
	}
	var found *service
	var which ServicePort
	for _, s := range sp.services {
		if !s.Headless || s.members[p.Key] == nil || found != nil && found.Name < s.Name {
			continue
		}
		for _, q := range s.Ports {
			if q.Transport == "TCP" && p.port(q) == port {
				found, which = s, q
				break
			}
		}
	}
	return found, which, found != nil
}

// ready lists a service port's endpoints of one address family.
func (c *Catalog) ready(s *service, sp ServicePort, is4 bool) []Endpoint {
	all := c.endpoints(s, sp, is4)
	return slices.DeleteFunc(all, func(e Endpoint) bool { return !e.Ready })
}

// endpoints lists a service port's endpoints, ready or not, sorted by address.
func (c *Catalog) endpoints(s *service, sp ServicePort, is4 bool) []Endpoint {
	if c.fromSlices {
		return c.sliced(s, sp, is4)
	}
	list := make([]Endpoint, 0, len(s.members))
	for _, p := range s.members {
		ip, ok := p.addr(is4)
		port := p.port(sp)
		if !ok || port == 0 || p.Finished() {
			continue
		}
		if p.owns() && c.podByIP(ip) != p {
			continue // the address has a new owner already
		}
		e := c.endpoint(p, netip.AddrPortFrom(ip, port))
		e.Ready = e.Ready || s.PublishNotReady
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), strings.Compare(a.Pod.Name, b.Pod.Name))
	})
	return slices.CompactFunc(list, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}

// endpoint is a pod as the place that a connection to addr goes.
func (c *Catalog) endpoint(p *Pod, addr netip.AddrPort) Endpoint {
	e := Endpoint{
		Addr: addr, Weight: DefaultWeight, Pod: p.Key, Labels: c.endpointLabels(p),
		Protocol: c.podHint(p, addr.Port()),
		Ready:    p.Ready && !p.Terminating,
		Node:     p.Node, Zone: c.zone(p.Node),
	}
	// The annotation alone decides, not the sidecar's health: were a sidecar that
	// is down a reason for plain text, taking one down would be an attack.
	if p.Meshed && !p.HostNetwork {
		e.Identity = p.Identity(c.trustDomain)
	}
	return e
}

// serviceHint is what a Service's port, its namespace or the defaults say of it.
func (c *Catalog) serviceHint(s *service, sp ServicePort) Protocol {
	return c.hint(sp.Port, sp.AppProtocol, s.Opaque, c.namespaceOpaque(s.Namespace))
}

// podHint is what a pod, its namespace or the defaults say of a port.
func (c *Catalog) podHint(p *Pod, port uint16) Protocol {
	return c.hint(port, "", p.Opaque, c.namespaceOpaque(p.Namespace))
}

func (c *Catalog) namespaceOpaque(name string) *PortSet {
	if n := c.namespaces[name]; n != nil {
		return n.Opaque
	}
	return nil
}

// podByIP is the pod that owns an address, if any.
func (c *Catalog) podByIP(ip netip.Addr) *Pod {
	if list := c.podsByIP[ip]; len(list) > 0 && list[0].owns() {
		return list[0]
	}
	return nil
}

func (c *Catalog) authority(k Key, port uint16) string {
	return net.JoinHostPort(k.Name+"."+k.Namespace+".svc."+c.clusterDomain, strconv.Itoa(int(port)))
}

// templateHash is the label that a Deployment gives the pods of one of its
// ReplicaSets.
const templateHash = "pod-template-hash"

// endpointLabels are a pod's labels in the metrics of those who call it: PodLabels,
// and what tells the revisions of a Deployment apart.
func (c *Catalog) endpointLabels(p *Pod) map[string]string {
	l := c.podLabels(p)
	if hash := p.Labels[templateHash]; hash != "" {
		l["pod_template_hash"] = hash
	}
	return l
}

// podLabels are a pod's labels in metrics: namespace, pod, serviceaccount and,
// by its kind in lower case, the workload that owns it, with the CronJob of a Job.
func (c *Catalog) podLabels(p *Pod) map[string]string {
	l := map[string]string{"namespace": p.Namespace, "pod": p.Name, "serviceaccount": p.ServiceAccount}
	if p.Owner.Kind != "" {
		l[strings.ToLower(p.Owner.Kind)] = p.Owner.Name
	}
	if k, ok := c.cronJob(p); ok {
		l["cronjob"] = k.Name
	}
	return l
}

// cronJob is the CronJob that made the Job that owns a pod, if one did.
func (c *Catalog) cronJob(p *Pod) (Key, bool) {
	if p.Owner.Kind != KindJob {
		return Key{}, false
	}
	j := c.jobs[p.Owner.Key]
	if j == nil {
		return Key{}, false
	}
	return Key{p.Namespace, j.CronJob}, true
}
