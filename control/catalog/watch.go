package catalog

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// target is one watched address: the snapshot in force, what clients in each
// place see of it, and who wants to know.
type target struct {
	current atomic.Pointer[Target]
	views   map[string]*view // by node
	service Key              // zero: not behind a Service
}

// view is a target as the clients on one node see it.
type view struct {
	node     string
	current  atomic.Pointer[Target]
	watchers set[*Watch]
}

// Watch follows the target behind one address.
type Watch struct {
	c       *Catalog
	addr    netip.AddrPort
	t       *target
	v       *view
	changed chan struct{}
	once    sync.Once
}

// Watch follows what is behind addr from now on, for a client that is nowhere in
// particular. The caller closes it.
func (c *Catalog) Watch(addr netip.AddrPort) *Watch { return c.WatchFrom(addr, "") }

// WatchFrom follows what clients on a node get behind addr: a Service may keep
// them to endpoints of that node, or of its zone. The caller closes it.
func (c *Catalog) WatchFrom(addr netip.AddrPort, node string) *Watch {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[addr]
	if t == nil {
		t = &target{views: map[string]*view{}}
		c.targets[addr] = t
		add(c.byAddr, addr.Addr(), t)
		now := c.resolve(addr)
		now.Version = 1
		c.store(t, now)
	}
	v := t.views[node]
	if v == nil {
		v = &view{node: node, watchers: set[*Watch]{}}
		v.current.Store(c.shared(t, node, t.current.Load().For(node, c.zone(node))))
		t.views[node] = v
	}
	w := &Watch{c: c, addr: addr, t: t, v: v, changed: make(chan struct{}, 1)}
	v.watchers[w] = struct{}{}
	return w
}

// Load is the snapshot in force.
func (w *Watch) Load() *Target { return w.v.current.Load() }

// Changed receives once, or once for many changes, after Load's answer changed.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Close ends the watch. It may be called again.
func (w *Watch) Close() {
	w.once.Do(func() {
		c := w.c
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(w.v.watchers, w)
		if len(w.v.watchers) > 0 {
			return
		}
		delete(w.t.views, w.v.node)
		if len(w.t.views) > 0 {
			return
		}
		delete(c.targets, w.addr)
		remove(c.byAddr, w.addr.Addr(), w.t)
		remove(c.byService, w.t.service, w.t)
	})
}

// Resolve answers once what is behind addr, as Watch would.
func (c *Catalog) Resolve(addr netip.AddrPort) *Target {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.targets[addr]; t != nil {
		return t.current.Load()
	}
	t := c.resolve(addr)
	t.Version = 1
	return t
}

// store swaps a target's snapshot and keeps the index by Service true.
func (c *Catalog) store(t *target, now *Target) {
	var k Key
	if now.Kind == TargetService {
		k = now.Ref.Key
	}
	if t.service != k {
		remove(c.byService, t.service, t)
		t.service = k
	}
	if k != (Key{}) {
		add(c.byService, k, t)
	}
	t.current.Store(now)
}

// publish computes again the targets that are dirty and nudges watchers of
// those that came out different.
func (c *Catalog) publish(d *dirty) {
	again := set[*target]{}
	for ip := range d.addrs {
		for t := range c.byAddr[ip] {
			again[t] = struct{}{}
		}
		for _, k := range c.sliceIPs[ip] {
			d.services[k] = struct{}{}
		}
		// A pod that has taken over another's address changes the Services of both.
		for _, p := range c.podsByIP[ip] {
			for k, s := range c.space(p.Namespace).services {
				if s.members[p.Key] != nil {
					d.services[k] = struct{}{}
				}
			}
		}
	}
	for k := range d.services {
		for t := range c.byService[k] {
			again[t] = struct{}{}
		}
	}
	if len(d.spaces) > 0 {
		for _, t := range c.targets {
			if _, ok := d.spaces[t.current.Load().Ref.Namespace]; ok {
				again[t] = struct{}{}
			}
		}
		for k := range c.podWatches {
			if _, ok := d.spaces[k.Namespace]; ok {
				d.pods[k] = struct{}{}
			}
		}
	}
	if d.zones {
		for _, t := range c.targets {
			again[t] = struct{}{}
		}
	}
	for t := range again {
		c.refresh(t, d.zones)
	}
	for k := range d.pods {
		for w := range c.podWatches[k] {
			nudge(w.changed)
		}
	}
	for o := range c.observers {
		nudge(o.changed)
	}
}

// refresh computes one target again; moved says that places are in other zones
// than before.
func (c *Catalog) refresh(t *target, moved bool) {
	old := t.current.Load()
	now := c.resolve(old.Addr)
	if now.same(old) && (!moved || !now.placed()) {
		return
	}
	now.Version = old.Version + 1
	c.store(t, now)
	c.views(t, now)
}

// PodWatch follows one pod and its namespace.
type PodWatch struct {
	c       *Catalog
	key     Key
	changed chan struct{}
	once    sync.Once
}

// WatchPod follows the pod of that name, which need not exist, from now on. The
// caller closes it.
func (c *Catalog) WatchPod(k Key) *PodWatch {
	w := &PodWatch{c: c, key: k, changed: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	add(c.podWatches, k, w)
	return w
}

// Load is the pod, nil when there is none, and its namespace, nil when there is
// no object of it.
func (w *PodWatch) Load() (*Pod, *Namespace) {
	w.c.mu.RLock()
	defer w.c.mu.RUnlock()
	return w.c.pods[w.key], w.c.namespaces[w.key.Namespace]
}

// Changed receives once, or once for many changes, after Load's answer may have
// changed.
func (w *PodWatch) Changed() <-chan struct{} { return w.changed }

// Close ends the watch. It may be called again.
func (w *PodWatch) Close() {
	w.once.Do(func() {
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		remove(w.c.podWatches, w.key, w)
	})
}

// Observer is told that something changed, whatever it was.
type Observer struct {
	c       *Catalog
	changed chan struct{}
	once    sync.Once
}

// Observe tells of every change from now on. The caller closes it.
func (c *Catalog) Observe() *Observer {
	o := &Observer{c: c, changed: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observers[o] = struct{}{}
	return o
}

// Changed receives once, or once for many changes.
func (o *Observer) Changed() <-chan struct{} { return o.changed }

// Close ends the observation. It may be called again.
func (o *Observer) Close() {
	o.once.Do(func() {
		o.c.mu.Lock()
		defer o.c.mu.Unlock()
		delete(o.c.observers, o)
	})
}

// nudge never blocks: a full slot already says what there is to say.
func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func add[K, V comparable](m map[K]set[V], k K, v V) {
	s := m[k]
	if s == nil {
		s = set[V]{}
		m[k] = s
	}
	s[v] = struct{}{}
}

func remove[K, V comparable](m map[K]set[V], k K, v V) {
	delete(m[k], v)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}
