package catalog

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Equal compares hints; nil is none.
func (h *Hints) Equal(o *Hints) bool {
	if h == nil || o == nil {
		return h == o
	}
	return slices.Equal(h.Zones, o.Zones) && slices.Equal(h.Nodes, o.Nodes)
}

func (c *Catalog) applySlice(k Key, now *EndpointSlice, d *dirty) {
	if old := c.slices[k]; old != nil {
		of := Key{k.Namespace, old.Service}
		d.services[of] = struct{}{}
		remove(c.slicesOf, of, old)
		delete(c.slices, k)
		for _, e := range old.Endpoints {
			c.unlist(e.Addr, of)
		}
	}
	if now == nil {
		return
	}
	of := Key{k.Namespace, now.Service}
	d.services[of] = struct{}{}
	add(c.slicesOf, of, now)
	c.slices[k] = now
	for _, e := range now.Endpoints {
		c.sliceIPs[e.Addr] = append(c.sliceIPs[e.Addr], of)
	}
}

// unlist forgets one mention of an address in a Service's slices.
func (c *Catalog) unlist(ip netip.Addr, of Key) {
	list := c.sliceIPs[ip]
	if i := slices.Index(list, of); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(c.sliceIPs, ip)
		return
	}
	c.sliceIPs[ip] = list
}

func (c *Catalog) applyNode(name string, now *Node, d *dirty) {
	before := c.zone(name)
	if old := c.nodes[name]; old != nil {
		for _, ip := range old.Addrs {
			d.addrs[ip] = struct{}{}
			if c.nodeIPs[ip] == name {
				delete(c.nodeIPs, ip)
			}
		}
	}
	if now != nil {
		for _, ip := range now.Addrs {
			d.addrs[ip] = struct{}{}
			c.nodeIPs[ip] = name
		}
	}
	if now != nil {
		c.nodes[name] = now
	} else {
		delete(c.nodes, name)
	}
	d.zones = d.zones || before != c.zone(name)
}

// zone is a node's zone, "" where none is known.
func (c *Catalog) zone(node string) string {
	if n := c.nodes[node]; n != nil {
		return n.Zone
	}
	return ""
}

// sliced lists a service port's endpoints as its slices have them, ready or not,
// sorted by address.
func (c *Catalog) sliced(s *service, sp ServicePort, is4 bool) []Endpoint {
	var list []Endpoint
	for sl := range c.slicesOf[s.Key] {
		port := sl.port(sp)
		if sl.Is4 != is4 || port == 0 {
			continue
		}
		list = slices.Grow(list, len(sl.Endpoints))
		for i := range sl.Endpoints {
			if e, ok := c.listedAt(s, &sl.Endpoints[i], port); ok {
				list = append(list, e)
			}
		}
	}
	// While a controller moves an endpoint, two slices have it: the ready one counts.
	slices.SortFunc(list, func(a, b Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), -compareBool(a.Ready, b.Ready), strings.Compare(a.Pod.Name, b.Pod.Name),
			strings.Compare(a.Zone, b.Zone), a.Hints.compare(b.Hints))
	})
	return slices.CompactFunc(list, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}

// compare orders hints, so that what comes first does not depend on chance.
func (h *Hints) compare(o *Hints) int {
	if h == nil || o == nil {
		return compareBool(h != nil, o != nil)
	}
	return cmp.Or(slices.Compare(h.Zones, o.Zones), slices.Compare(h.Nodes, o.Nodes))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// port is a Service port's number in the slice; 0 where it has none.
func (sl *EndpointSlice) port(sp ServicePort) uint16 {
	for _, p := range sl.Ports {
		if p.Name == sp.Name && p.Transport == sp.Transport {
			return p.Port
		}
	}
	return 0
}

// listedAt is an endpoint of a slice as the place that connections go. Who has the
// address decides what is believed of it: a slice is news of yesterday, and
// anybody who may write one can put any address in. An endpoint that is left out
// comes in as soon as its pod is known.
func (c *Catalog) listedAt(s *service, se *SliceEndpoint, port uint16) (Endpoint, bool) {
	addr := netip.AddrPortFrom(se.Addr, port)
	p := c.podByIP(se.Addr)
	switch {
	case p != nil && se.Pod != "" && p.Key != (Key{s.Namespace, se.Pod}):
		return Endpoint{}, false // the address has a new owner already
	case p == nil && se.Pod != "":
		p = c.pods[Key{s.Namespace, se.Pod}]
		if p == nil || !p.HostNetwork || p.Finished() || !slices.Contains(p.IPs, se.Addr) {
			return Endpoint{}, false // not known yet, or gone: nothing may be said of it
		}
	case p == nil && c.nobodys(se.Addr):
		return Endpoint{}, false
	}
	var e Endpoint
	if p != nil {
		e = c.endpoint(p, addr)
		e.Ready = se.Ready && (s.PublishNotReady || !p.Terminating)
	} else {
		e = Endpoint{
			Addr: addr, Weight: DefaultWeight, Ready: se.Ready,
			Protocol: c.hint(port, "", s.Opaque, c.namespaceOpaque(s.Namespace)),
			Labels:   map[string]string{"namespace": s.Namespace},
		}
	}
	e.Hints = se.Hints
	if se.Node != "" {
		e.Node = se.Node
	}
	if se.Zone != "" {
		e.Zone = se.Zone
	}
	return e, true
}

// For is the snapshot as clients on a node see it: t itself where that is
// everything. The rules are those of the node's own Service proxy.
func (t *Target) For(node, zone string) *Target {
	keep := t.keep(node, zone)
	if keep == nil {
		return t
	}
	v := *t
	v.Endpoints = slices.DeleteFunc(slices.Clone(t.Endpoints), func(e Endpoint) bool { return !keep(e) })
	return &v
}

// keep says which endpoints clients of a node get; nil: all.
func (t *Target) keep(node, zone string) func(Endpoint) bool {
	if t.Local {
		return func(e Endpoint) bool { return node != "" && e.Node == node }
	}
	byNode, byZone := node != "" && len(t.Endpoints) > 0, zone != "" && len(t.Endpoints) > 0
	here, near := false, false
	for _, e := range t.Endpoints {
		if e.Hints == nil {
			return nil // one without hints voids those of the others
		}
		byNode, byZone = byNode && len(e.Hints.Nodes) > 0, byZone && len(e.Hints.Zones) > 0
		here = here || slices.Contains(e.Hints.Nodes, node)
		near = near || slices.Contains(e.Hints.Zones, zone)
	}
	switch {
	case byNode && here:
		return func(e Endpoint) bool { return slices.Contains(e.Hints.Nodes, node) }
	case byZone && near:
		return func(e Endpoint) bool { return slices.Contains(e.Hints.Zones, zone) }
	}
	return nil
}

// placed reports a snapshot of which clients in different places see different
// parts.
func (t *Target) placed() bool {
	return t.Local || slices.ContainsFunc(t.Endpoints, func(e Endpoint) bool { return e.Hints != nil })
}

// views computes what each place sees of a new snapshot. Places that see the same
// share it, so that it is encoded once.
func (c *Catalog) views(t *target, now *Target) {
	placed := now.placed()
	for node, v := range t.views {
		next := now
		if placed {
			next = c.shared(t, node, now.For(node, c.zone(node)))
		}
		old := v.current.Load()
		if old != nil && old.same(next) {
			continue
		}
		v.current.Store(next)
		for w := range v.watchers {
			nudge(w.changed)
		}
	}
}

// shared returns another view's snapshot if it is the same as this one.
func (c *Catalog) shared(t *target, node string, next *Target) *Target {
	if next.Local {
		return next
	}
	zone := c.zone(node)
	for other, v := range t.views {
		if other == node || c.zone(other) != zone {
			continue
		}
		if o := v.current.Load(); o != nil && o.Version == next.Version && o.same(next) {
			return o
		}
	}
	return next
}
