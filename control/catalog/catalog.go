package catalog

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Config says what is true of the cluster as a whole.
type Config struct {
	// TrustDomain is part of every identity. Default "cluster.local".
	TrustDomain string
	// ClusterDomain ends every name. Default "cluster.local".
	ClusterDomain string
	// Networks are the ranges whose addresses belong to pods and Services alone.
	// An address in one of them that is nobody's is refused rather than taken for
	// a place outside the mesh. Empty: every unknown address is outside.
	Networks []netip.Prefix
	// Hosts are addresses within Networks that are the nodes' own, such as a
	// bridge's: outside the mesh, not nobody's.
	Hosts []netip.Addr
	// EndpointSlices: the endpoints of Services are what EndpointSlices say.
	// Otherwise they are the pods that a Service selects, for a source that has no
	// controller that makes slices.
	EndpointSlices bool
	// OpaquePorts replaces DefaultOpaquePorts; nil = the default.
	OpaquePorts *PortSet
}

// Catalog is the cluster's state. All methods may be called from anywhere.
type Catalog struct {
	trustDomain   string
	clusterDomain string
	networks      []netip.Prefix
	hosts         set[netip.Addr]
	opaque        *PortSet
	fromSlices    bool
	synced        chan struct{} // closed by Sync

	mu         sync.RWMutex
	namespaces map[string]*Namespace
	accounts   map[Key]*ServiceAccount
	workloads  map[Ref]*Workload
	jobs       map[Key]*Job
	services   map[Key]*service
	pods       map[Key]*Pod
	podsByUID  map[string]*Pod
	podsByIP   map[netip.Addr][]*Pod // all that claim it; the first owns it
	serviceIPs map[netip.Addr]*service
	slices     map[Key]*EndpointSlice
	sliceIPs   map[netip.Addr][]Key // Services with a slice that has the address
	slicesOf   map[Key]set[*EndpointSlice]
	nodes      map[string]*Node
	nodeIPs    map[netip.Addr]string
	spaces     map[string]*space
	targets    map[netip.AddrPort]*target // watched ones
	byAddr     map[netip.Addr]set[*target]
	byService  map[Key]set[*target]
	podWatches map[Key]set[*PodWatch]
	observers  set[*Observer]
}

// service is a Service with the pods that it selects.
type service struct {
	*Service
	members map[Key]*Pod
}

// space indexes a namespace's services and pods.
type space struct {
	services map[Key]*service
	pods     map[Key]*Pod
}

type set[T comparable] map[T]struct{}

// New returns an empty catalog.
func New(cfg Config) (*Catalog, error) {
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = "cluster.local"
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	for _, p := range cfg.Networks {
		if !p.IsValid() {
			return nil, errors.New("new catalog: a mesh network is not a valid prefix: write it as 10.0.0.0/16")
		}
	}
	if cfg.OpaquePorts == nil {
		ports, err := ParsePortSet(DefaultOpaquePorts)
		if err != nil {
			return nil, fmt.Errorf("new catalog: %w", err)
		}
		cfg.OpaquePorts = ports
	}
	hosts := set[netip.Addr]{}
	for _, ip := range cfg.Hosts {
		hosts[ip.Unmap()] = struct{}{}
	}
	return &Catalog{
		hosts:         hosts,
		trustDomain:   cfg.TrustDomain,
		clusterDomain: cfg.ClusterDomain,
		networks:      slices.Clone(cfg.Networks),
		opaque:        cfg.OpaquePorts,
		fromSlices:    cfg.EndpointSlices,
		synced:        make(chan struct{}),
		namespaces:    map[string]*Namespace{},
		accounts:      map[Key]*ServiceAccount{},
		workloads:     map[Ref]*Workload{},
		jobs:          map[Key]*Job{},
		services:      map[Key]*service{},
		pods:          map[Key]*Pod{},
		podsByUID:     map[string]*Pod{},
		podsByIP:      map[netip.Addr][]*Pod{},
		serviceIPs:    map[netip.Addr]*service{},
		slices:        map[Key]*EndpointSlice{},
		sliceIPs:      map[netip.Addr][]Key{},
		slicesOf:      map[Key]set[*EndpointSlice]{},
		nodes:         map[string]*Node{},
		nodeIPs:       map[netip.Addr]string{},
		spaces:        map[string]*space{},
		targets:       map[netip.AddrPort]*target{},
		byAddr:        map[netip.Addr]set[*target]{},
		byService:     map[Key]set[*target]{},
		podWatches:    map[Key]set[*PodWatch]{},
		observers:     set[*Observer]{},
	}, nil
}

// TrustDomain is the configured one, or the default.
func (c *Catalog) TrustDomain() string { return c.trustDomain }

// ClusterDomain is the configured one, or the default.
func (c *Catalog) ClusterDomain() string { return c.clusterDomain }

// Sync says that the source has told everything that it found at its start.
// Until then an unknown address means nothing. It may be called again.
func (c *Catalog) Sync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.synced:
	default:
		close(c.synced)
	}
}

// Synced is closed once the catalog may be believed.
func (c *Catalog) Synced() <-chan struct{} { return c.synced }

// Apply makes the changes true, together: no watcher sees some of them without
// the others. It keeps the objects, which nobody may write to afterwards.
func (c *Catalog) Apply(changes ...Change) {
	if len(changes) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := dirty{addrs: set[netip.Addr]{}, services: set[Key]{}, pods: set[Key]{}, spaces: set[string]{}}
	for _, ch := range changes {
		c.apply(ch, &d)
	}
	c.publish(&d)
}

// dirty is what a batch of changes may have made different.
type dirty struct {
	addrs    set[netip.Addr]
	services set[Key]
	pods     set[Key]
	spaces   set[string] // namespaces whose own object changed
	zones    bool        // a node's zone changed
}

func (c *Catalog) apply(ch Change, d *dirty) {
	switch ch.Ref.Kind {
	case KindNamespace:
		c.applyNamespace(ch, d)
	case KindServiceAccount:
		if a, ok := ch.Object.(*ServiceAccount); ok {
			c.accounts[ch.Ref.Key] = a
		} else {
			delete(c.accounts, ch.Ref.Key)
		}
	case KindJob:
		j, _ := ch.Object.(*Job)
		c.applyJob(ch.Ref, j, d)
	case KindService:
		s, _ := ch.Object.(*Service)
		c.applyService(ch.Ref.Key, s, d)
	case KindPod:
		p, _ := ch.Object.(*Pod)
		c.applyPod(ch.Ref.Key, p, d)
	case KindEndpointSlice:
		s, _ := ch.Object.(*EndpointSlice)
		c.applySlice(ch.Ref.Key, s, d)
	case KindNode:
		n, _ := ch.Object.(*Node)
		c.applyNode(ch.Ref.Name, n, d)
	default:
		if w, ok := ch.Object.(*Workload); ok {
			c.workloads[ch.Ref] = w
		} else {
			delete(c.workloads, ch.Ref)
		}
	}
}

func (c *Catalog) applyNamespace(ch Change, d *dirty) {
	if n, ok := ch.Object.(*Namespace); ok {
		c.namespaces[n.Name] = n
	} else {
		delete(c.namespaces, ch.Ref.Name)
	}
	d.spaces[ch.Ref.Name] = struct{}{}
}

func (c *Catalog) applyService(k Key, now *Service, d *dirty) {
	d.services[k] = struct{}{}
	sp := c.space(k.Namespace)
	if old := c.services[k]; old != nil {
		for _, ip := range old.ClusterIPs {
			d.addrs[ip] = struct{}{}
			if c.serviceIPs[ip] == old {
				delete(c.serviceIPs, ip)
			}
		}
		old.touch(d)
		delete(c.services, k)
		delete(sp.services, k)
	}
	if now == nil {
		c.tidy(k.Namespace)
		return
	}
	s := &service{Service: now, members: map[Key]*Pod{}}
	for _, ip := range now.ClusterIPs {
		d.addrs[ip] = struct{}{}
		c.serviceIPs[ip] = s
	}
	for pk, p := range sp.pods {
		if matches(now.Selector, p.Labels) {
			s.members[pk] = p
		}
	}
	s.touch(d)
	c.services[k], sp.services[k] = s, s
}

// touch marks the pods' own addresses, which a headless Service gives a name.
func (s *service) touch(d *dirty) {
	if !s.Headless {
		return
	}
	for _, p := range s.members {
		for _, ip := range p.IPs {
			d.addrs[ip] = struct{}{}
		}
	}
}

func (c *Catalog) applyPod(k Key, now *Pod, d *dirty) {
	d.pods[k] = struct{}{}
	sp := c.space(k.Namespace)
	old := c.pods[k]
	if old != nil {
		for _, ip := range old.IPs {
			d.addrs[ip] = struct{}{}
			c.unclaim(ip, old)
		}
		if c.podsByUID[old.UID] == old {
			delete(c.podsByUID, old.UID)
		}
		delete(c.pods, k)
		delete(sp.pods, k)
	}
	if now != nil {
		for _, ip := range now.IPs {
			d.addrs[ip] = struct{}{}
			c.claim(ip, now)
		}
		if now.UID != "" {
			c.podsByUID[now.UID] = now
		}
		c.pods[k], sp.pods[k] = now, now
	}
	for sk, s := range sp.services {
		_, was := s.members[k]
		is := now != nil && matches(s.Selector, now.Labels)
		if !was && !is {
			continue
		}
		d.services[sk] = struct{}{}
		if is {
			s.members[k] = now
		} else {
			delete(s.members, k)
		}
	}
	c.tidy(k.Namespace)
}

// applyJob also marks what is at the addresses of the Job's pods, whose labels are
// others then: a Job may be heard of after its pods.
func (c *Catalog) applyJob(r Ref, now *Job, d *dirty) {
	if now != nil {
		c.jobs[r.Key] = now
	} else {
		delete(c.jobs, r.Key)
	}
	sp := c.spaces[r.Namespace]
	if sp == nil {
		return
	}
	for k, p := range sp.pods {
		if p.Owner == r {
			d.pods[k] = struct{}{}
			for _, ip := range p.IPs {
				d.addrs[ip] = struct{}{}
			}
		}
	}
}

// claim adds a pod to those that say an address is theirs. The one that owns it
// is first: the youngest of those that still run, as an address is given to a
// new pod only when its last one is finished.
func (c *Catalog) claim(ip netip.Addr, p *Pod) {
	list := append(c.podsByIP[ip], p)
	slices.SortStableFunc(list, func(a, b *Pod) int {
		switch {
		case a.owns() != b.owns():
			if a.owns() {
				return -1
			}
			return 1
		case a.Terminating != b.Terminating:
			if b.Terminating {
				return -1
			}
			return 1
		case a.Created != b.Created:
			if a.Created > b.Created {
				return -1
			}
			return 1
		}
		return 0
	})
	c.podsByIP[ip] = list
}

func (c *Catalog) unclaim(ip netip.Addr, p *Pod) {
	list := slices.DeleteFunc(c.podsByIP[ip], func(o *Pod) bool { return o == p })
	if len(list) == 0 {
		delete(c.podsByIP, ip)
		return
	}
	c.podsByIP[ip] = list
}

func (c *Catalog) space(name string) *space {
	sp := c.spaces[name]
	if sp == nil {
		sp = &space{services: map[Key]*service{}, pods: map[Key]*Pod{}}
		c.spaces[name] = sp
	}
	return sp
}

func (c *Catalog) tidy(name string) {
	if sp := c.spaces[name]; sp != nil && len(sp.services) == 0 && len(sp.pods) == 0 {
		delete(c.spaces, name)
	}
}
