package catalog

import (
	"net/netip"
	"slices"
	"strings"
)

// Names is what the cluster says of a name: the data of an answer, in the terms
// of the Kubernetes DNS specification (version 1.1), whatever protocol carries it.
type Names struct {
	// Ours is set for names under the cluster domain: no other server knows them.
	Ours bool
	// Exists is unset for names of ours that are nobody's (NXDOMAIN). A name that
	// exists may still have no record of the type that is asked for.
	Exists bool
	CNAME  string       // of an ExternalName Service, without the final dot
	Addrs  []netip.Addr // both families, sorted
	SRV    []SRV
}

// SRV is one SRV record with the addresses of its target.
type SRV struct {
	Target string // without the final dot
	Port   uint16
	Addrs  []netip.Addr
}

// Lookup answers for a full name, in any case, with or without the final dot.
// Before Sync it answers for what it knows.
func (c *Catalog) Lookup(name string) Names {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	rest, ok := underDomain(name, c.clusterDomain)
	if !ok {
		return Names{}
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	labels := strings.Split(rest, ".")
	switch last := labels[len(labels)-1]; {
	case rest == "":
		return Names{Ours: true, Exists: true}
	case last == "svc":
		return c.lookupService(labels[:len(labels)-1])
	case last == "pod":
		return c.lookupPod(labels[:len(labels)-1])
	}
	return Names{Ours: true}
}

func underDomain(name, domain string) (rest string, ok bool) {
	if name == domain {
		return "", true
	}
	return strings.CutSuffix(name, "."+domain)
}

// lookupService reads what stands before "svc": [[_port._proto | host].]service.namespace.
func (c *Catalog) lookupService(labels []string) Names {
	no, empty := Names{Ours: true}, Names{Ours: true, Exists: true}
	n := len(labels)
	if n == 0 {
		return empty
	}
	if !c.namespaceExists(labels[n-1]) {
		return no
	}
	if n == 1 {
		return empty
	}
	s := c.services[Key{labels[n-1], labels[n-2]}]
	if s == nil {
		return no
	}
	switch {
	case n == 2 && s.ExternalName != "":
		return Names{Ours: true, Exists: true, CNAME: strings.TrimSuffix(s.ExternalName, ".")}
	case n == 2 && !s.Headless:
		return Names{Ours: true, Exists: true, Addrs: sortedAddrs(s.ClusterIPs)}
	case n == 2:
		var addrs []netip.Addr
		for _, h := range c.named(s) {
			addrs = append(addrs, h.addr)
		}
		return Names{Ours: true, Exists: true, Addrs: sortedAddrs(addrs)}
	case n == 3 && s.Headless:
		return c.lookupHost(s, labels[0])
	case n == 4 && strings.HasPrefix(labels[0], "_") && strings.HasPrefix(labels[1], "_"):
		return c.lookupPort(s, labels[0][1:], labels[1][1:])
	}
	return no
}

// lookupHost answers for one pod of a headless Service.
func (c *Catalog) lookupHost(s *service, host string) Names {
	var addrs []netip.Addr
	for _, h := range c.named(s) {
		if h.label == host {
			addrs = append(addrs, h.addr)
		}
	}
	return Names{Ours: true, Exists: len(addrs) > 0, Addrs: sortedAddrs(addrs)}
}

// lookupPort answers for a Service's named port.
func (c *Catalog) lookupPort(s *service, port, transport string) Names {
	name := s.Name + "." + s.Namespace + ".svc." + c.clusterDomain
	for _, sp := range s.Ports {
		if sp.Name != port || !strings.EqualFold(sp.Transport, transport) {
			continue
		}
		if !s.Headless {
			return Names{Ours: true, Exists: true, SRV: []SRV{{Target: name, Port: sp.Port, Addrs: sortedAddrs(s.ClusterIPs)}}}
		}
		byTarget := map[srvKey][]netip.Addr{}
		for _, h := range c.named(s) {
			if n := h.port(sp); n != 0 {
				k := srvKey{h.label + "." + name, n}
				byTarget[k] = append(byTarget[k], h.addr)
			}
		}
		return Names{Ours: true, Exists: true, SRV: srvs(byTarget)}
	}
	return Names{Ours: true}
}

// lookupPod answers for 10-1-2-3.namespace, the name that every pod has.
func (c *Catalog) lookupPod(labels []string) Names {
	if len(labels) == 0 || len(labels) == 1 && c.namespaceExists(labels[0]) {
		return Names{Ours: true, Exists: true}
	}
	if len(labels) != 2 {
		return Names{Ours: true}
	}
	for _, sep := range []string{".", ":"} {
		ip, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", sep))
		if err != nil {
			continue
		}
		if p := c.podByIP(ip); p != nil && p.Namespace == labels[1] {
			return Names{Ours: true, Exists: true, Addrs: []netip.Addr{ip}}
		}
	}
	return Names{Ours: true}
}

// LookupAddr lists the names of an address of the cluster, none for others.
func (c *Catalog) LookupAddr(ip netip.Addr) []string {
	ip = ip.Unmap()
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s := c.serviceIPs[ip]; s != nil {
		return []string{s.Name + "." + s.Namespace + ".svc." + c.clusterDomain}
	}
	p := c.podByIP(ip)
	if p == nil {
		return nil
	}
	var names []string
	for _, s := range c.spaces[p.Namespace].services {
		if s.Headless && s.members[p.Key] != nil && p.listable(s.Service) {
			names = append(names, hostLabel(p, s.Name, ip)+"."+s.Name+"."+s.Namespace+".svc."+c.clusterDomain)
		}
	}
	slices.Sort(names)
	return names
}

// host is one address that a headless Service's name stands for.
type host struct {
	addr  netip.Addr
	label string // of its own name
	port  func(ServicePort) uint16
}

// named lists what a headless Service's name stands for.
func (c *Catalog) named(s *service) []host {
	var list []host
	if !c.fromSlices {
		for _, p := range sorted(s.members, "", func(p *Pod) Key { return p.Key }) {
			for _, ip := range p.IPs {
				if p.listable(s.Service) {
					list = append(list, host{ip, hostLabel(p, s.Name, ip), p.port})
				}
			}
		}
		return list
	}
	for sl := range c.slicesOf[s.Key] {
		for _, e := range sl.Endpoints {
			if e.Ready {
				list = append(list, host{e.Addr, label(e.Hostname, e.Addr), sl.port})
			}
		}
	}
	return list
}

func (p *Pod) listable(s *Service) bool {
	return !p.Finished() && (s.PublishNotReady || p.Ready && !p.Terminating)
}

// hostLabel is the first label of a pod's name under a headless Service: its
// hostname where its subdomain is that Service, else its address with dashes.
func hostLabel(p *Pod, service string, ip netip.Addr) string {
	if p.Hostname != "" && p.Subdomain == service {
		return label(p.Hostname, ip)
	}
	return label("", ip)
}

func label(hostname string, ip netip.Addr) string {
	if hostname != "" {
		return strings.ToLower(hostname)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}

func (c *Catalog) namespaceExists(name string) bool {
	return c.namespaces[name] != nil || c.spaces[name] != nil
}

// srvKey groups the addresses of a target: a dual-stack pod has one name.
type srvKey struct {
	target string
	port   uint16
}

func srvs(m map[srvKey][]netip.Addr) []SRV {
	list := make([]SRV, 0, len(m))
	for k, addrs := range m {
		list = append(list, SRV{Target: k.target, Port: k.port, Addrs: sortedAddrs(addrs)})
	}
	slices.SortFunc(list, func(a, b SRV) int {
		if n := strings.Compare(a.Target, b.Target); n != 0 {
			return n
		}
		return int(a.Port) - int(b.Port)
	})
	return list
}

func sortedAddrs(list []netip.Addr) []netip.Addr {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
