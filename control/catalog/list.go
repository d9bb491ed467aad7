package catalog

import (
	"net/netip"
	"slices"
	"strings"
)

// Namespace returns a namespace's object.
func (c *Catalog) Namespace(name string) (*Namespace, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n, ok := c.namespaces[name]
	return n, ok
}

// Pod returns a pod by its name.
func (c *Catalog) Pod(k Key) (*Pod, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.pods[k]
	return p, ok
}

// PodByUID returns a pod by its UID.
func (c *Catalog) PodByUID(uid string) (*Pod, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.podsByUID[uid]
	return p, ok
}

// PodByIP returns the pod that owns an address.
func (c *Catalog) PodByIP(ip netip.Addr) (*Pod, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p := c.podByIP(ip.Unmap())
	return p, p != nil
}

// ServiceByIP returns the Service that has a cluster IP.
func (c *Catalog) ServiceByIP(ip netip.Addr) (*Service, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s := c.serviceIPs[ip.Unmap()]; s != nil {
		return s.Service, true
	}
	return nil, false
}

// Service returns a Service by its name.
func (c *Catalog) Service(k Key) (*Service, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s := c.services[k]; s != nil {
		return s.Service, true
	}
	return nil, false
}

// ServiceAccount returns a service account by its name.
func (c *Catalog) ServiceAccount(k Key) (*ServiceAccount, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	a, ok := c.accounts[k]
	return a, ok
}

// Namespaces lists namespaces by name.
func (c *Catalog) Namespaces() []*Namespace {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]*Namespace, 0, len(c.namespaces))
	for _, n := range c.namespaces {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *Namespace) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Pods lists the pods of a namespace, or of all for "", by name.
func (c *Catalog) Pods(namespace string) []*Pod {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return sorted(c.pods, namespace, func(p *Pod) Key { return p.Key })
}

// PodLabels are a pod's labels in metrics: who it is, and whose.
func (c *Catalog) PodLabels(p *Pod) map[string]string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.podLabels(p)
}

// CronJob returns the CronJob that made the Job that owns a pod.
func (c *Catalog) CronJob(p *Pod) (Key, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.cronJob(p)
}

// Workloads lists the workloads of a kind and namespace, or of all namespaces
// for "", by name.
func (c *Catalog) Workloads(kind, namespace string) []*Workload {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var list []*Workload
	for r, w := range c.workloads {
		if r.Kind == kind && (namespace == "" || namespace == r.Namespace) {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b *Workload) int { return a.Key.Compare(b.Key) })
	return list
}

// Services lists the Services of a namespace, or of all for "", by name.
func (c *Catalog) Services(namespace string) []*Service {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]*Service, 0, len(c.services))
	for k, s := range c.services {
		if namespace == "" || namespace == k.Namespace {
			list = append(list, s.Service)
		}
	}
	slices.SortFunc(list, func(a, b *Service) int { return a.Key.Compare(b.Key) })
	return list
}

// Selected lists the pods that a Service selects, by name, whatever their state.
func (c *Catalog) Selected(k Key) []*Pod {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.services[k]
	if s == nil {
		return nil
	}
	return sorted(s.members, "", func(p *Pod) Key { return p.Key })
}

// ServiceEndpoints lists what a port of a Service resolves to, ready or not, of
// both address families; false when there is no such Service or TCP port.
func (c *Catalog) ServiceEndpoints(k Key, port uint16) ([]Endpoint, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.services[k]
	if s == nil {
		return nil, false
	}
	for _, sp := range s.Ports {
		if sp.Port == port && sp.Transport == "TCP" {
			return append(c.endpoints(s, sp, true), c.endpoints(s, sp, false)...), true
		}
	}
	return nil, false
}

// ServiceProtocol is what is known of a Service's TCP port before its first byte.
func (c *Catalog) ServiceProtocol(k Key, port uint16) Protocol {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.services[k]
	if s == nil {
		return Detect
	}
	for _, sp := range s.Ports {
		if sp.Port == port && sp.Transport == "TCP" {
			return c.serviceHint(s, sp)
		}
	}
	return Detect
}

// PodProtocol is what is known of a pod's port before its first byte.
func (c *Catalog) PodProtocol(p *Pod, port uint16) Protocol {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.podHint(p, port)
}

// PodOpaquePorts are the ports of a pod that are never parsed.
func (c *Catalog) PodOpaquePorts(p *Pod) *PortSet {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p.Opaque != nil {
		return p.Opaque
	}
	if s := c.namespaceOpaque(p.Namespace); s != nil {
		return s
	}
	return c.opaque
}

// Compare orders keys by namespace, then name.
func (k Key) Compare(o Key) int {
	if n := strings.Compare(k.Namespace, o.Namespace); n != 0 {
		return n
	}
	return strings.Compare(k.Name, o.Name)
}

func sorted[V any](m map[Key]V, namespace string, key func(V) Key) []V {
	list := make([]V, 0, len(m))
	for k, v := range m {
		if namespace == "" || namespace == k.Namespace {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b V) int { return key(a).Compare(key(b)) })
	return list
}
