package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/console"
	"github.com/tunmesh/tunmesh/control/extension"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/control/query"
	"github.com/tunmesh/tunmesh/control/replicas"
	"github.com/tunmesh/tunmesh/control/serving"
	"github.com/tunmesh/tunmesh/control/store"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Names of the view.
const (
	// ViewAccount is its ServiceAccount, ViewService where the API server finds it.
	ViewAccount = "mesh-view"
	ViewService = "mesh-view"
	// ViewPort is where it listens unless told otherwise.
	ViewPort = 8089
	// ControlService selects the replicas of the control plane.
	ControlService = "mesh-control"
	// ViewAPI is the name of its APIService.
	ViewAPI = extension.Version + "." + extension.Group
)

// ViewID is the view's identity in a trust domain.
func ViewID(trustDomain string) spiffe.ID {
	return spiffe.ID{TrustDomain: trustDomain, Namespace: Namespace, ServiceAccount: ViewAccount}
}

// localView answers on a socket that root alone may open what the view answers
// in a cluster.
func localView(ask *query.Server, promQL http.Handler, log *slog.Logger) (*http.Server, error) {
	page, err := console.New()
	if err != nil {
		return nil, err
	}
	api, err := extension.New(extension.Config{Backend: ask, Console: page, PromQL: promQL, Local: true, Logger: log})
	if err != nil {
		return nil, err
	}
	return &http.Server{Handler: api, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}, nil
}

// answerView serves the view's questions about what is attached here.
func (p *Plane) answerView(inbound *policy.Server) error {
	q, err := query.New(query.Config{Catalog: p.catalog, Tap: p.hub, Trust: p.ca, Policy: inbound, Version: p.cfg.Version})
	if err != nil {
		return err
	}
	queryapi.RegisterQueryServer(p.sidecars, q)
	return nil
}

// ViewConfig is everything that a view is told.
type ViewConfig struct {
	// Client is asked for everything; required.
	Client kube.Client
	// Listen is the address of the aggregated API. Default "0.0.0.0:8089".
	Listen string
	// ControlAddress is where the view has its certificate issued: the Service of
	// the replicas. Default "mesh-control.tunmesh.svc.DOMAIN:8086".
	ControlAddress string
	// TokenFile has a token of the view's ServiceAccount for the mesh's audience,
	// AnchorsFile the trust anchors, PEM; both required.
	TokenFile, AnchorsFile string
	// The following are as in Config.
	AdminListen    string
	TrustDomain    string
	ClusterDomain  string
	MeshNetworks   []netip.Prefix
	HostAddresses  []netip.Addr
	ScrapeInterval time.Duration
	Window         time.Duration
	// Store is where figures are kept, and for how long. A folder that cannot be used
	// is done without.
	Store store.Config
	// Prometheus is the URL of one that scrapes the mesh; then nothing is scraped and
	// kept here. "" = none.
	Prometheus string
	Version    string
	Logger     *slog.Logger
}

func (c ViewConfig) withDefaults() (ViewConfig, Config, error) {
	if c.Client == nil || c.TokenFile == "" || c.AnchorsFile == "" {
		return c, Config{}, errors.New("view: client, token file and trust anchors file are all needed")
	}
	common, err := Config{
		Cluster: &Cluster{Client: c.Client}, Listen: c.Listen, AdminListen: c.AdminListen, TrustDomain: c.TrustDomain, ClusterDomain: c.ClusterDomain,
		MeshNetworks: c.MeshNetworks, HostAddresses: c.HostAddresses, ScrapeInterval: c.ScrapeInterval, Window: c.Window, Version: c.Version, Logger: c.Logger,
	}.withDefaults()
	if err != nil {
		return c, common, err
	}
	if c.Listen == "" {
		c.Listen = fmt.Sprintf("0.0.0.0:%d", ViewPort)
	}
	if c.ControlAddress == "" {
		c.ControlAddress = fmt.Sprintf("%s.%s.svc.%s:%d", ControlService, Namespace, common.ClusterDomain, Port)
	}
	return c, common, nil
}

// View is the process that people ask, in a cluster.
type View struct {
	cfg     ViewConfig
	log     *slog.Logger
	catalog *catalog.Catalog
	source  *kube.Source
	figures *figures
	member  *replicas.Member
	events  *kube.Events
	api     *extension.Server
	service *kube.APIService
	bearers *kube.Bearers
	keeper  *serving.Keeper
	server  *http.Server
	admin   *http.Server

	listener net.Listener
	adminLis net.Listener // nil: none
}

// NewView makes a view and opens its sockets; Run lets go of them.
func NewView(cfg ViewConfig) (_ *View, err error) {
	cfg, common, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	v := &View{cfg: cfg, log: common.Logger}
	if v.catalog, err = catalog.New(common.catalog()); err != nil {
		return nil, err
	}
	m := newMeters()
	if v.source, err = kube.NewSource(kube.SourceConfig{Client: cfg.Client, Catalog: v.catalog, Logger: v.log, Lag: m.lag}); err != nil {
		return nil, err
	}
	if v.figures, err = newFigures(figuresConfig{common: common, catalog: v.catalog, store: &cfg.Store, prometheus: cfg.Prometheus, others: v.pages}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.figures.close())
		}
	}()
	q, err := query.New(query.Config{Catalog: v.catalog, Metrics: v.figures.querier(), Series: v.figures.promQL(), Recorded: v.figures.recorded(), Version: cfg.Version, Problem: v.figures.problem})
	if err != nil {
		return nil, err
	}
	v.member = replicas.NewMember(replicas.MemberConfig{
		Address: cfg.ControlAddress, ID: ViewID(common.TrustDomain), Control: ID(common.TrustDomain),
		TokenFile: cfg.TokenFile, AnchorsFile: cfg.AnchorsFile, Logger: v.log,
	})
	page, err := console.New()
	if err != nil {
		return nil, err
	}
	v.events = kube.NewEvents(cfg.Client, ViewAccount, v.log)
	v.api, err = extension.New(extension.Config{
		Backend: &viewBackend{Server: q, all: replicas.NewSet(v.member, v.replicas, v.log)}, Console: page, PromQL: v.figures.api(),
		Authorize: v.may, Authenticate: v.who, Captured: v.captured, Logger: v.log,
	})
	if err != nil {
		return nil, err
	}
	v.service, v.bearers = kube.NewAPIService(cfg.Client, ViewAPI), kube.NewBearers(cfg.Client)
	v.keeper = serving.NewKeeper(viewStore{v.service}, v.log, "the aggregated API",
		ViewService+"."+Namespace+".svc", ViewService+"."+Namespace+".svc."+common.ClusterDomain)
	v.server = &http.Server{
		Handler: v.api,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: v.keeper.Certificate,
			ClientAuth: tls.RequestClientCert, // verified by what the API server says of itself at the moment
		},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	if err := v.register(m); err != nil {
		return nil, err
	}
	v.admin = newAdmin(v.Ready, m.registry)
	if err := v.listen(common.AdminListen); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *View) listen(admin string) (err error) {
	if v.listener, err = net.Listen("tcp", v.cfg.Listen); err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	if admin == "" {
		return nil
	}
	if v.adminLis, err = net.Listen("tcp", admin); err != nil {
		return errors.Join(fmt.Errorf("listen for admin requests: %w", err), v.listener.Close())
	}
	return nil
}

// Addr is where the aggregated API listens.
func (v *View) Addr() net.Addr { return v.listener.Addr() }

// bundlePeriod is how often the registration is looked at: somebody may have
// applied the manifests again, without what we wrote into it.
const bundlePeriod = 15 * time.Second

// Run serves until ctx ends or a part fails. It may be called once.
func (v *View) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.source.Run(ctx) })
	g.Go(func() error { return v.figures.run(ctx) })
	g.Go(func() error { return v.member.Run(ctx) })
	g.Go(func() error { return v.events.Run(ctx) })
	g.Go(func() error { return v.keeper.Run(ctx) })
	g.Go(func() error { v.watchRegistration(ctx); return nil })
	g.Go(func() error {
		kube.FollowConfigMap(ctx, v.cfg.Client, extension.FrontNamespace, extension.FrontConfigMap, v.log, func(m *corev1.ConfigMap) {
			if m != nil {
				v.api.SetFront(m.Data)
			}
		})
		return nil
	})
	g.Go(func() error { return serveAPI(ctx, v.server, v.listener) })
	if v.adminLis != nil {
		g.Go(func() error { return serveAdmin(ctx, v.admin, v.adminLis) })
	}
	v.log.Info("view runs", "address", v.Addr(), "identity", v.member.ID().String(), "version", v.cfg.Version)
	err := g.Wait()
	v.log.Info("view has stopped", "err", err)
	return err
}

// watchRegistration keeps the API server believing the certificate that is served.
func (v *View) watchRegistration(ctx context.Context) {
	v.keeper.Authority(ctx, nil) // each process makes its own: nobody else serves
	tick := time.NewTicker(bundlePeriod)
	defer tick.Stop()
	for {
		bundle, exists, err := v.service.Bundle(ctx)
		if err != nil {
			if ctx.Err() == nil {
				v.log.Warn("the registration of the aggregated API cannot be read", "err", err)
			}
		} else {
			v.keeper.Bundle(ctx, exists, bundle)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// viewStore keeps an authority in memory only.
type viewStore struct{ service *kube.APIService }

// SaveAuthority implements serving.Store.
func (viewStore) SaveAuthority(context.Context, map[string][]byte) error { return nil }

// SaveBundle implements serving.Store.
func (s viewStore) SaveBundle(ctx context.Context, bundle []byte) error {
	return s.service.SaveBundle(ctx, bundle)
}

// may asks the API server whether somebody may do something.
func (v *View) may(ctx context.Context, a extension.Attributes) (bool, string, error) {
	return kube.May(ctx, v.cfg.Client,
		kube.Subject{Name: a.User.Name, Groups: a.User.Groups, Extra: a.User.Extra},
		kube.Action{Verb: a.Verb, Group: extension.Group, Version: extension.Version, Namespace: a.Namespace, Resource: a.Resource, Subresource: a.Subresource, Name: a.Name})
}

// who asks the API server whose a token is.
func (v *View) who(ctx context.Context, token string) (extension.User, error) {
	s, err := v.bearers.Subject(ctx, token)
	return extension.User{Name: s.Name, Groups: s.Groups, Extra: s.Extra}, err
}

// captured has an event written at the pod whose packets somebody captures.
func (v *View) captured(user, namespace, name string) {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name}
	if p, ok := v.catalog.Pod(catalog.Key{Namespace: namespace, Name: name}); ok {
		about.UID = types.UID(p.UID)
	}
	v.events.Warn(about, "PacketsCaptured", fmt.Sprintf("%s captures this pod's packets, decrypted, since %s", user, time.Now().UTC().Format(time.RFC3339Nano)))
}

// replicas lists where the control plane's processes are.
func (v *View) replicas() []netip.AddrPort {
	var list []netip.AddrPort
	for _, p := range v.catalog.Selected(catalog.Key{Namespace: Namespace, Name: ControlService}) {
		if len(p.IPs) > 0 && !p.Finished() {
			list = append(list, netip.AddrPortFrom(p.IPs[0], Port))
		}
	}
	return list
}

// Ready says what keeps the view from answering, nil when nothing does.
func (v *View) Ready() error {
	select {
	case <-v.catalog.Synced():
	default:
		if err := v.source.Problem(); err != nil {
			return fmt.Errorf("the cluster has never been usable: %w", err)
		}
		return errors.New("the cluster has not been read yet")
	}
	if err := v.api.Ready(); err != nil {
		return err
	}
	if _, err := v.keeper.Certificate(nil); err != nil {
		return err
	}
	return nil
}

// register adds the view's metrics to a registry.
func (v *View) register(m *meters) error {
	for _, c := range append(v.figures.meters(),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		counter("view_requests_total", "Requests to the aggregated API.", func() float64 { n, _ := v.api.Counts(); return float64(n) }),
		counter("view_requests_denied_total", "Of these, refused to who asked.", func() float64 { _, n := v.api.Counts(); return float64(n) }),
		gauge("view_certificate_ttl_seconds", "Time until the view's own certificate expires.", func() float64 {
			if end := v.member.Expires(); !end.IsZero() {
				return time.Until(end).Seconds()
			}
			return 0
		}),
	) {
		if err := m.registry.Register(c); err != nil {
			return fmt.Errorf("register the view's metrics: %w", err)
		}
	}
	return nil
}

// viewBackend answers with the figures kept here and what the replicas know.
type viewBackend struct {
	*query.Server
	all *replicas.Set
}

// Watch implements extension.Backend.
func (b *viewBackend) Watch(ctx context.Context, req *queryapi.TapRequest, send func(*queryapi.TapMessage) error) error {
	return b.all.Watch(ctx, req, send)
}

// Policy implements extension.Backend: the replicas know how they were told to
// judge.
func (b *viewBackend) Policy(ctx context.Context, req *queryapi.PolicyRequest) (*queryapi.PolicyResponse, error) {
	return b.all.Policy(ctx, req)
}

// Taps implements extension.Backend.
func (b *viewBackend) Taps(ctx context.Context, req *queryapi.TapsRequest) (*queryapi.TapsResponse, error) {
	connected := map[catalog.Key]bool{}
	for _, r := range b.all.Health(ctx) {
		attached(r, connected)
	}
	return b.Server.TapsOf(req, func(k catalog.Key) bool { return connected[k] })
}

// Record implements extension.Backend.
func (b *viewBackend) Record(ctx context.Context, req *queryapi.CaptureRequest, send func(*tapapi.Packets) error) error {
	return b.all.Record(ctx, req, send)
}

// Connections implements extension.Backend.
func (b *viewBackend) Connections(ctx context.Context, req *queryapi.ConnectionsRequest) (*queryapi.ConnectionsResponse, error) {
	return b.all.Connections(ctx, req)
}

// Why implements extension.Backend.
func (b *viewBackend) Why(ctx context.Context, req *queryapi.WhyRequest) (*queryapi.WhyResponse, error) {
	return b.Server.WhyTold(ctx, req, b.all.Policy)
}

// attached adds the pods whose sidecars a replica has streams with.
func attached(r *queryapi.HealthResponse, to map[catalog.Key]bool) {
	for _, p := range r.GetProxies() {
		if p.GetConnected() {
			to[catalog.Key{Namespace: p.GetNamespace(), Name: p.GetPod()}] = true
		}
	}
}

// Health implements extension.Backend.
func (b *viewBackend) Health(ctx context.Context, req *queryapi.HealthRequest) (*queryapi.HealthResponse, error) {
	resp, err := b.Server.Health(ctx, req)
	if err != nil {
		return nil, err
	}
	connected := map[catalog.Key]bool{}
	for _, r := range b.all.Health(ctx) {
		resp.Certificates = r.GetCertificates() // all replicas have the same
		attached(r, connected)
	}
	for _, p := range resp.GetProxies() {
		p.Connected = connected[catalog.Key{Namespace: p.GetNamespace(), Name: p.GetPod()}]
	}
	return resp, nil
}
