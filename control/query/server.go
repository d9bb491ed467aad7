// Package query answers what people ask: stat, tap, endpoints, policy, health. It owns
// selectors and the making of rows, and the socket that it is served on locally.
// It refuses to know how figures are kept (metrics.Querier), how events travel
// (control/tap) and how an answer looks on a screen.
package query

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/control/tap"
)

// Server is the wire service.
type Server struct {
	api.UnimplementedQueryServer
	catalog  *catalog.Catalog
	metrics  metrics.Querier
	series   metrics.PromQL
	recorded bool
	tap      *tap.Hub
	trust    identity.Source
	policy   *policy.Server
	version  string
	problem  func() string
}

// Config says what a Server asks. A part that is nil is not answered for: in a
// cluster sidecars are attached to some processes and their figures kept by
// another.
type Config struct {
	Catalog *catalog.Catalog // required
	Metrics metrics.Querier
	Series  metrics.PromQL // figures of the past
	// Recorded: somebody evaluates Recordings at each RecordStep and Series keeps them.
	Recorded bool
	Tap      *tap.Hub
	Trust    identity.Source
	Policy   *policy.Server
	Version  string // of the control plane
	// Problem is why figures are not kept where they should be, "" when they are.
	Problem func() string
}

// New returns the service.
func New(cfg Config) (*Server, error) {
	if cfg.Catalog == nil {
		return nil, errors.New("new query service: a catalog is needed")
	}
	return &Server{catalog: cfg.Catalog, metrics: cfg.Metrics, series: cfg.Series, recorded: cfg.Recorded, tap: cfg.Tap, trust: cfg.Trust, policy: cfg.Policy, version: cfg.Version, problem: cfg.Problem}, nil
}

const (
	// lostPeriod is how often a watcher is told of events that it missed.
	lostPeriod = time.Second
	// quietPeriod is after how long without an event a watcher is told that
	// somebody is still there; so are proxies in between.
	quietPeriod = 30 * time.Second
)

// Tap implements the wire API.
func (s *Server) Tap(req *api.TapRequest, stream api.Query_TapServer) error {
	return s.Watch(stream.Context(), req, stream.Send)
}

// Watch calls send for each message of a tap, one at a time, until ctx ends or
// send fails. An empty message comes at once, when the tap runs, and whenever
// nothing else has for half a minute.
func (s *Server) Watch(ctx context.Context, req *api.TapRequest, send func(*api.TapMessage) error) error {
	if s.tap == nil {
		return status.Error(codes.Unimplemented, "tap: no sidecar is attached here")
	}
	if req.GetResource() == nil {
		return status.Error(codes.InvalidArgument, "tap: no resource is named")
	}
	sel, err := choose(s.catalog, req.GetResource())
	if err != nil {
		return err
	}
	r := tap.Request{
		Match: req.GetMatch(), MaxRPS: req.GetMaxRps(), Headers: req.GetHeaders(),
		Pods: s.follow(req.GetResource(), sel),
	}
	if to := req.GetTo(); to != nil {
		peers, err := choose(s.catalog, to)
		if err != nil {
			return err
		}
		if r.Match == nil {
			r.Match = &tapapi.Match{}
		}
		r.Match.Direction = "out"
		r.Peers = s.addresses(to, peers)
	}
	w, err := s.tap.Watch(r)
	switch {
	case errors.Is(err, tap.ErrBusy):
		return status.Error(codes.ResourceExhausted, err.Error())
	case err != nil:
		return status.Error(codes.InvalidArgument, err.Error())
	}
	defer w.Close()
	if pods, _ := w.Selected(); pods == 0 {
		return status.Errorf(codes.FailedPrecondition, "tap: no pod of %s is meshed", sel.describe(req.GetResource().GetName()))
	}
	return relay(ctx, w, send)
}

// relay sends what a watch delivers.
func relay(ctx context.Context, w *tap.Watch, send func(*api.TapMessage) error) error {
	if err := send(&api.TapMessage{}); err != nil {
		return err
	}
	lost := time.NewTicker(lostPeriod)
	defer lost.Stop()
	for silent := time.Duration(0); ; {
		m := &api.TapMessage{}
		select {
		case e := <-w.Events():
			w.Took(e)
			m.Message = &api.TapMessage_Event{Event: e}
		case <-lost.C:
			n := w.TakeLost()
			if n > 0 {
				m.Message = &api.TapMessage_Lost{Lost: n}
			} else if silent += lostPeriod; silent < quietPeriod {
				continue
			}
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		silent = 0
		if err := send(m); err != nil {
			return err
		}
	}
}

func (s selection) describe(name string) string {
	if name == "" {
		return "those " + string(s.kind) + "s"
	}
	return string(s.kind) + " " + name
}

// follow lists a selector's pods as they are when it is called: pods, workloads
// and Services come and go. While the lookup fails, as for a workload that is
// gone, what was found at first holds.
func (s *Server) follow(sel *api.Selector, found selection) func() []*catalog.Pod {
	return func() []*catalog.Pod {
		now, err := choose(s.catalog, sel)
		if err != nil {
			now = found
		}
		return now.pods(s.catalog)
	}
}

// addresses lists the addresses of a selector's pods as they are when it is
// called.
func (s *Server) addresses(sel *api.Selector, found selection) func() []netip.Addr {
	pods := s.follow(sel, found)
	return func() []netip.Addr {
		var ips []netip.Addr
		for _, p := range pods() {
			if !p.Finished() {
				ips = append(ips, p.IPs...)
			}
		}
		return ips
	}
}

// Endpoints implements the wire API.
func (s *Server) Endpoints(_ context.Context, req *api.EndpointsRequest) (*api.EndpointsResponse, error) {
	key, port, err := parseAuthority(req.GetAuthority(), s.catalog.ClusterDomain())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	list, ok := s.catalog.ServiceEndpoints(key, port)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "there is no Service %s with TCP port %d", key, port)
	}
	hint := hinted(s.catalog.ServiceProtocol(key, port), list)
	resp := &api.EndpointsResponse{}
	for _, e := range list {
		resp.Rows = append(resp.Rows, &api.EndpointRow{
			Namespace: key.Namespace, Ip: e.Addr.Addr().String(), Port: uint32(e.Addr.Port()), Pod: e.Pod.String(),
			Service: key.String(), Identity: e.Identity.String(), Ready: e.Ready,
			Weight: e.Weight, Labels: e.Labels, Http2: inHTTP2(hint, e),
		})
	}
	return resp, nil
}

// hinted is what clients' sidecars go by before the first byte: what the Service says,
// or what its endpoints say of themselves, where they agree.
func hinted(says catalog.Protocol, list []catalog.Endpoint) catalog.Protocol {
	if says != catalog.Detect {
		return says
	}
	var agreed *catalog.Protocol
	for i := range list {
		switch p := &list[i].Protocol; {
		case !list[i].Ready: // clients are not told of it
		case agreed == nil:
			agreed = p
		case *agreed != *p:
			return catalog.Detect
		}
	}
	if agreed == nil {
		return catalog.Detect
	}
	return *agreed
}

// inHTTP2 reports whether requests to a Service's port go to an endpoint in HTTP/2:
// between sidecars they do, but where bytes are passed on as they are.
func inHTTP2(hint catalog.Protocol, e catalog.Endpoint) bool {
	switch hint {
	case catalog.Opaque, catalog.TLS:
		return false
	case catalog.HTTP2:
		return true
	}
	return !e.Identity.IsZero()
}

// parseAuthority reads name[.namespace[.svc[.DOMAIN]]]:port.
func parseAuthority(s, domain string) (catalog.Key, uint16, error) {
	host, portText, ok := strings.Cut(s, ":")
	port, err := strconv.ParseUint(portText, 10, 16)
	if !ok || err != nil || port == 0 {
		return catalog.Key{}, 0, fmt.Errorf("authority %q: want name.namespace.svc.%s:port", s, domain)
	}
	host = strings.TrimSuffix(strings.TrimSuffix(host, "."+domain), ".svc")
	name, ns, ok := strings.Cut(host, ".")
	if !ok {
		ns = files.DefaultNamespace
	}
	if name == "" || ns == "" || strings.Contains(ns, ".") {
		return catalog.Key{}, 0, fmt.Errorf("authority %q: want name.namespace.svc.%s:port", s, domain)
	}
	return catalog.Key{Namespace: ns, Name: name}, uint16(port), nil
}
