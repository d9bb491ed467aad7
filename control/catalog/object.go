package catalog

import (
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Kinds of objects, as Kubernetes writes them.
const (
	KindNamespace      = "Namespace"
	KindServiceAccount = "ServiceAccount"
	KindService        = "Service"
	KindDeployment     = "Deployment"
	KindStatefulSet    = "StatefulSet"
	KindDaemonSet      = "DaemonSet"
	KindJob            = "Job"
	KindCronJob        = "CronJob"
	KindPod            = "Pod"
	KindNode           = "Node"
	KindEndpointSlice  = "EndpointSlice"
)

// Key names an object within its kind. Namespace is "" for a Namespace.
type Key struct {
	Namespace, Name string
}

// String is namespace/name, the form that the wire API uses.
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Ref names an object.
type Ref struct {
	Kind string
	Key
}

// Object is what a Change carries: one of the types of this file, by pointer.
type Object interface {
	Ref() Ref
}

// Namespace is a namespace and what it says on behalf of its pods.
type Namespace struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string // of this project's names only
	Opaque      *PortSet          // nil: not annotated
}

// ServiceAccount exists, or does not.
type ServiceAccount struct {
	Key
}

// Workload is a Deployment, StatefulSet or DaemonSet: a name that pods belong to.
type Workload struct {
	Kind string
	Key
	Labels   map[string]string
	Replicas int32
}

// Job is a Job that a CronJob made; the others are known by their pods alone.
type Job struct {
	Key
	CronJob string // of the same namespace
}

// Service is a Service, stripped.
type Service struct {
	Key
	Labels       map[string]string
	ClusterIPs   []netip.Addr // empty: none yet, headless or ExternalName
	Headless     bool
	ExternalName string
	Selector     map[string]string // empty: selects nothing
	// PublishNotReady lists pods before they are ready.
	PublishNotReady bool
	// Local: a client gets endpoints of its own node only (internalTrafficPolicy).
	Local   bool
	Ports   []ServicePort
	Opaque  *PortSet // nil: not annotated
	Traffic *Traffic // nil: not annotated
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name        string
	Port        uint16
	Transport   string // "TCP", "UDP", "SCTP"
	TargetPort  uint16 // 0: TargetName says
	TargetName  string // of a container's port
	AppProtocol string
}

// EndpointSlice is some of a Service's endpoints, stripped. Slices of names
// (addressType FQDN) are none.
type EndpointSlice struct {
	Key
	Service   string // of the same namespace
	Is4       bool   // which family the addresses are of
	Ports     []SlicePort
	Endpoints []SliceEndpoint
}

// SlicePort is a port that all endpoints of a slice have.
type SlicePort struct {
	Name      string // the Service port's
	Port      uint16
	Transport string
}

// SliceEndpoint is one endpoint of a slice.
type SliceEndpoint struct {
	Addr     netip.Addr
	Pod      string // of the slice's namespace; "": no pod is named
	Hostname string
	Node     string
	Zone     string
	Ready    bool
	Hints    *Hints // nil: none
}

// Hints say which clients an endpoint is meant for.
type Hints struct {
	Zones, Nodes []string
}

// Node is a node, stripped.
type Node struct {
	Name string
	Zone string // "": not told
	// Addrs are the node's own: places outside the mesh, whatever range they are in.
	Addrs []netip.Addr
}

// Pod is a Pod, stripped.
type Pod struct {
	Key
	UID            string
	Labels         map[string]string
	Annotations    map[string]string // of this project's names only
	Opaque         *PortSet          // nil: not annotated
	ServiceAccount string
	// Owner is the workload that the pod belongs to; zero for a bare pod. Its
	// kind is not always one of the kinds above (a Job owns pods too).
	Owner     Ref
	Node      string
	IPs       []netip.Addr
	Hostname  string // as the spec says, for DNS
	Subdomain string
	Phase     string // "Pending", "Running", "Succeeded", "Failed", "Unknown"
	// Ready is the pod's Ready condition, and its sidecar's where the status
	// tells it apart.
	Ready bool
	// Terminating is set once deletion has been asked for.
	Terminating bool
	// EndsBy is when a Terminating pod's grace period is over, in Unix seconds; 0
	// where nothing tells.
	EndsBy int64
	// HostNetwork pods have the node's address, so an address is never theirs.
	HostNetwork bool
	// Meshed says that the injector gave it a sidecar. It says nothing of the
	// sidecar's health: a meshed pod is spoken to under mTLS or not at all.
	Meshed bool
	// Outside: its sidecar has ended because the pod's network was not set up by
	// ours. It cannot be mended, only made again.
	Outside bool
	Ports   []ContainerPort
	Probes  []Probe
	// Created is in Unix nanoseconds; the later of two pods owns an address that
	// both claim.
	Created int64
}

// ContainerPort is a port that a container declares.
type ContainerPort struct {
	Name      string
	Port      uint16
	Transport string
}

// Probe is what a kubelet asks of a pod over the network.
type Probe struct {
	Port   uint16
	Method string // "" for a connect and nothing more
	Path   string
}

// Ref implements Object.
func (n *Namespace) Ref() Ref { return Ref{KindNamespace, Key{Name: n.Name}} }

// Ref implements Object.
func (a *ServiceAccount) Ref() Ref { return Ref{KindServiceAccount, a.Key} }

// Ref implements Object.
func (w *Workload) Ref() Ref { return Ref{w.Kind, w.Key} }

// Ref implements Object.
func (j *Job) Ref() Ref { return Ref{KindJob, j.Key} }

// Ref implements Object.
func (s *Service) Ref() Ref { return Ref{KindService, s.Key} }

// Ref implements Object.
func (s *EndpointSlice) Ref() Ref { return Ref{KindEndpointSlice, s.Key} }

// Ref implements Object.
func (n *Node) Ref() Ref { return Ref{KindNode, Key{Name: n.Name}} }

// Ref implements Object.
func (p *Pod) Ref() Ref { return Ref{KindPod, p.Key} }

// Identity is the SPIFFE ID that the pod may prove, meshed or not.
func (p *Pod) Identity(trustDomain string) spiffe.ID {
	return spiffe.ID{TrustDomain: trustDomain, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount}
}

// Finished pods run nothing any more, and their address may be somebody else's.
func (p *Pod) Finished() bool { return p.Phase == "Succeeded" || p.Phase == "Failed" }

// owns reports whether traffic to the pod's addresses is traffic to the pod.
func (p *Pod) owns() bool { return !p.HostNetwork && !p.Finished() }

// addr returns the pod's address of a family.
func (p *Pod) addr(is4 bool) (netip.Addr, bool) {
	for _, a := range p.IPs {
		if a.Is4() == is4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// port resolves a service port's target on this pod; 0 when the pod has no
// port of that name.
func (p *Pod) port(sp ServicePort) uint16 {
	if sp.TargetName == "" {
		return sp.TargetPort
	}
	for _, cp := range p.Ports {
		if cp.Name == sp.TargetName && cp.Transport == sp.Transport {
			return cp.Port
		}
	}
	return 0
}

// matches reports whether a non-empty selector selects labels.
func matches(selector, labels map[string]string) bool {
	if len(selector) == 0 {
		return false
	}
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
