package query

import (
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
)

// target finds what the name or selector leads to.
func (w *why) target(req *api.WhyRequest) error {
	if sel := req.GetTo(); sel != nil {
		if sel.GetName() == "" || req.GetToHost() != "" {
			return status.Error(codes.InvalidArgument, "why: name one thing to connect to: a Service, a workload, a pod, or a host")
		}
		to, err := choose(w.s.catalog, sel)
		if status.Code(err) == codes.NotFound {
			w.name = sel.GetKind() + " " + sel.GetNamespace() + "/" + sel.GetName()
			w.bad("name", "%s.", capital(status.Convert(err).Message()))
			return nil
		}
		if err != nil {
			return err
		}
		if to.kind == namespace {
			return status.Error(codes.InvalidArgument, "why: nobody connects to a namespace: name a Service, a workload, a pod, or a host")
		}
		if to.kind == service {
			svc, _ := w.s.catalog.Service(to.resources[0].key)
			return w.found(svc)
		}
		return w.pods(string(to.kind)+" "+to.resources[0].key.String(), to.pods(w.s.catalog))
	}
	host := req.GetToHost()
	if host == "" {
		return status.Error(codes.InvalidArgument, "why: name what to connect to: a Service, a workload, a pod, or a host")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return w.address(ip)
	}
	return w.host(host)
}

// host looks a name up as the client's resolver would, with its search path.
func (w *why) host(host string) error {
	w.name = host
	if w.stopped {
		return nil
	}
	c := w.s.catalog
	domain := c.ClusterDomain()
	for _, suffix := range []string{"", "." + w.pod.Namespace + ".svc." + domain, ".svc." + domain, "." + domain} {
		full := strings.TrimSuffix(host, ".") + suffix
		n := c.Lookup(full)
		if !n.Ours || !n.Exists {
			continue
		}
		if key, ok := serviceIn(full, domain); ok {
			if svc, ok := c.Service(key); ok {
				w.ok("name", "%q is %s in the cluster's DNS.", host, full)
				return w.found(svc)
			}
		}
		if len(n.Addrs) > 0 {
			w.ok("name", "%q is %s in the cluster's DNS, at %s.", host, full, n.Addrs[0])
			return w.address(n.Addrs[0])
		}
	}
	if strings.Contains(strings.TrimSuffix(host, "."), ".") && !c.Lookup(host).Ours {
		w.note("name", "%q is no name of this cluster: whatever DNS says, traffic to it leaves the mesh as the app sends it, without mTLS.", host)
		w.stopped = true
		return nil
	}
	w.bad("name", "%q is nobody's name in this cluster (asked for from namespace %s): DNS answers NXDOMAIN.", host, w.pod.Namespace)
	return nil
}

// serviceIn is the Service that a full name is one of.
func serviceIn(full, domain string) (catalog.Key, bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(full), ".svc."+domain)
	if !ok {
		return catalog.Key{}, false
	}
	labels := strings.Split(rest, ".")
	if len(labels) != 2 {
		return catalog.Key{}, false
	}
	return catalog.Key{Namespace: labels[1], Name: labels[0]}, true
}

// address finds out whose an address is.
func (w *why) address(ip netip.Addr) error {
	if w.stopped {
		return nil
	}
	if svc, ok := w.s.catalog.ServiceByIP(ip); ok {
		w.ok("name", "%s is the address of Service %s.", ip, svc.Key)
		return w.found(svc)
	}
	if p, ok := w.s.catalog.PodByIP(ip); ok {
		w.addr = ip
		w.ok("name", "%s is pod %s.", ip, p.Key)
		return w.pods("pod "+p.Key.String(), []*catalog.Pod{p})
	}
	w.name = ip.String()
	w.note("name", "%s is nobody's address in this cluster: traffic to it leaves the mesh as the app sends it, without mTLS.", ip)
	w.stopped = true
	return nil
}

// found goes on with a Service.
func (w *why) found(svc *catalog.Service) error {
	w.service, w.name = svc, "Service "+svc.Key.String()
	var ports []uint16
	for _, p := range svc.Ports {
		if p.Transport == "TCP" {
			ports = append(ports, p.Port)
		}
	}
	switch {
	case svc.ExternalName != "":
		w.note("service", "%s is another name for %s: traffic to it leaves the mesh as the app sends it, unless that is a name of the cluster.", w.name, svc.ExternalName)
		w.stopped = true
		return nil
	case w.port == 0 && len(ports) == 1:
		w.port = ports[0]
	case w.port == 0:
		return status.Errorf(codes.InvalidArgument, "why: %s has TCP ports %v: say which", w.name, ports)
	}
	if !slices.Contains(ports, w.port) {
		w.bad("service", "%s has no TCP port %d (it has %v): the connection is refused.", w.name, w.port, ports)
		return nil
	}
	at := "headless, its name leads to the pods"
	if len(svc.ClusterIPs) > 0 {
		at = svc.ClusterIPs[0].String()
	}
	w.ok("service", "%s (%s) has TCP port %d.", w.name, at, w.port)
	list, _ := w.s.catalog.ServiceEndpoints(svc.Key, w.port)
	ready := 0
	for _, e := range list {
		if e.Ready {
			ready++
			w.ends = append(w.ends, e)
		}
	}
	selected := len(w.s.catalog.Selected(svc.Key))
	switch {
	case len(list) == 0 && len(svc.Selector) > 0 && selected == 0:
		w.bad("endpoints", "No pod has the labels that %s selects (%s): the connection is refused.", w.name, pairs(svc.Selector))
	case len(list) == 0:
		w.bad("endpoints", "%s has no endpoint: the connection is refused.", w.name)
	case ready == 0:
		w.bad("endpoints", "None of %s is ready: %s. The connection is refused, or waits for one.", plural(len(list), "endpoint", "", ""), w.unready(list))
	case ready < len(list):
		w.note("endpoints", "%d of %d endpoints are ready; left out: %s.", ready, len(list), w.unready(list))
	default:
		w.ok("endpoints", "%s: %s.", plural(ready, "endpoint", "is ready", "are ready"), endpointNames(w.ends))
	}
	if svc.Local {
		w.note("endpoints", "Clients get endpoints of their own node alone (internalTrafficPolicy: Local).")
	}
	return nil
}

// pods goes on with pods that are connected to by their own addresses.
func (w *why) pods(name string, list []*catalog.Pod) error {
	w.name = name
	if w.stopped {
		return nil
	}
	if w.port == 0 {
		ports := map[uint16]bool{}
		for _, p := range list {
			for _, c := range p.Ports {
				if c.Transport == "" || c.Transport == "TCP" {
					ports[c.Port] = true
					w.port = c.Port
				}
			}
		}
		if len(ports) != 1 {
			return status.Errorf(codes.InvalidArgument, "why: the containers of %s declare %d TCP ports: say which is meant", name, len(ports))
		}
	}
	ready := 0
	for _, p := range list {
		if p.Finished() || len(p.IPs) == 0 {
			continue
		}
		ip := p.IPs[0]
		if w.addr.IsValid() {
			ip = w.addr
		}
		e := catalog.Endpoint{Addr: netip.AddrPortFrom(ip, w.port), Pod: p.Key, Ready: p.Ready}
		if p.Meshed {
			e.Identity = p.Identity(w.s.catalog.TrustDomain())
		}
		w.ends = append(w.ends, e)
		if p.Ready {
			ready++
		}
	}
	switch {
	case len(w.ends) == 0:
		w.bad("endpoints", "%s has no pod that runs: nobody answers.", capital(name))
	case ready < len(w.ends):
		w.note("endpoints", "%d of %d pods are ready: %s. To a pod's own address traffic goes all the same.", ready, len(w.ends), w.unready(w.ends))
	default:
		w.ok("endpoints", "%s: %s.", plural(ready, "pod", "is ready", "are ready"), endpointNames(w.ends))
	}
	return nil
}
