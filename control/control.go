// Package control is the control plane. It owns the composition of its parts,
// and nothing else:
//
//	files, or kube ──► catalog ──► destination ─┐
//	                      │  └───► policy ──────┤
//	                      ├──────► identity ────┼──► gRPC over TLS ──► sidecars
//	                      │  ┌───► tap ─────────┘
//	                      ├──┼───► metrics ◄──────────── /metrics of the sidecars
//	                      │  └───► query ──────────► unix sockets ──► meshctl, console
//	                      ├──────► admission ──────► HTTPS ──► the API server
//	                      └──────► repair ────────► evictions, if it is asked for
//
// In a cluster what people ask is answered by another process, View, which keeps
// the figures of all sidecars and reaches the taps at all replicas of this one;
// its loss touches no traffic, and it never sees the issuer:
//
//	kube ──► catalog ──► metrics ◄─────────────────────── /metrics of the sidecars
//	             └─────► query ──► extension ──► HTTPS ──► the API server ──► meshctl
//	                        └────► replicas ──► gRPC over TLS ──► tap of each replica
//
// New reads configuration and keys and opens sockets, so that what is wrong is
// told at once; Run serves until its context ends.
package control

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	destinationapi "github.com/tunmesh/tunmesh/api/destination"
	identityapi "github.com/tunmesh/tunmesh/api/identity"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/access"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/destination"
	"github.com/tunmesh/tunmesh/control/encode"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/control/query"
	"github.com/tunmesh/tunmesh/control/store"
	"github.com/tunmesh/tunmesh/control/tap"
	"github.com/tunmesh/tunmesh/control/token"
)

// Folders of the state folder.
const (
	// AuthorityDir holds the trust anchors and the issuer.
	AuthorityDir = "ca"
	// TokenDir holds the key that tokens are signed with.
	TokenDir = "tokens"
)

// stopGrace is how long calls in progress may take to end. Streams never do by
// themselves, so it is what a stop of the control plane takes; short, because
// sidecars go on with what they have and come again.
const stopGrace = 500 * time.Millisecond

// Plane is a control plane.
type Plane struct {
	cfg     Config
	log     *slog.Logger
	catalog *catalog.Catalog
	source  source
	ca      authority
	cluster *cluster // nil: it lives from folders
	hub     *tap.Hub
	figures *figures

	sidecars *grpc.Server
	people   *grpc.Server
	view     *http.Server // the same questions in HTTP, and the console
	admin    *http.Server

	listener net.Listener
	socket   net.Listener // nil: none
	viewLis  net.Listener // nil: none
	adminLis net.Listener // nil: none
	hookLis  net.Listener // nil: none
	stopping atomic.Bool
}

// source feeds the catalog.
type source interface {
	Run(ctx context.Context) error
	// Problem is what keeps news from coming, nil when nothing does.
	Problem() error
}

// authority is where certificates come from.
type authority interface {
	identity.Source
	Run(ctx context.Context) error
	// Problem is why what is kept is not in force, "" when it is.
	Problem() string
}

// New makes a control plane. It opens keys and sockets; Run or Close lets go of
// the sockets.
func New(cfg Config) (_ *Plane, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	p := &Plane{cfg: cfg, log: cfg.Logger}
	if p.catalog, err = catalog.New(cfg.catalog()); err != nil {
		return nil, err
	}
	m := newMeters()
	id := identity.Config{Catalog: p.catalog, Logger: p.log}
	if cfg.Cluster != nil {
		if p.cluster, err = newCluster(p, m); err != nil {
			return nil, err
		}
		p.source, p.ca = p.cluster.source, p.cluster.live
		id.Tokens, id.Lookup = kube.NewReviewer(cfg.Cluster.Client), p.cluster.lookup
	} else if id.Tokens, err = p.fromFolders(); err != nil {
		return nil, err
	}
	id.Source = p.ca
	if p.figures, err = newFigures(p.whatIsKept()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.figures.close())
		}
	}()
	p.hub = tap.New(p.catalog, p.log)
	certify, err := identity.NewServer(id)
	if err != nil {
		return nil, err
	}
	inbound, err := policy.New(p.catalog, policy.Rules{Default: cfg.DefaultInboundPolicy, Networks: cfg.ClusterNetworks}, p.log)
	if err != nil {
		return nil, err
	}
	ask, err := query.New(query.Config{Catalog: p.catalog, Metrics: p.figures.querier(), Series: p.figures.promQL(), Recorded: p.figures.recorded(), Tap: p.hub, Trust: p.ca, Policy: inbound, Version: cfg.Version, Problem: p.figures.problem})
	if err != nil {
		return nil, err
	}
	if p.sidecars, err = p.newServer(m); err != nil {
		return nil, err
	}
	where := destination.New(p.catalog)
	destinationapi.RegisterDestinationServer(p.sidecars, where)
	policyapi.RegisterPolicyServer(p.sidecars, inbound)
	identityapi.RegisterIdentityServer(p.sidecars, certify)
	tapapi.RegisterTapServer(p.sidecars, p.hub)
	if err := p.answerView(inbound); err != nil {
		return nil, err
	}
	p.people = grpc.NewServer(grpc.ChainUnaryInterceptor(m.unary), grpc.ChainStreamInterceptor(m.stream))
	queryapi.RegisterQueryServer(p.people, ask)
	if p.view, err = localView(ask, p.figures.api(), p.log); err != nil {
		return nil, err
	}
	if err := m.register(meterSources{p.ca, certify, where, inbound, p.hub, p.figures, p.source, p.cluster}); err != nil {
		return nil, err
	}
	p.admin = newAdmin(p.Ready, m.registry)
	if err := p.listen(); err != nil {
		return nil, err
	}
	return p, nil
}

// whatIsKept says that figures are kept where people ask this process: in a local
// mesh.
func (p *Plane) whatIsKept() figuresConfig {
	f := figuresConfig{common: p.cfg, catalog: p.catalog}
	if p.cfg.QuerySocket != "" && p.cfg.StateDir != "" {
		f.store = &store.Config{Dir: filepath.Join(p.cfg.StateDir, MetricsDir), Retention: cmp.Or(p.cfg.MetricsRetention, localRetention), MaxBytes: localMaxBytes}
		f.others = func() []metrics.Other { return ownPage(p.AdminAddr(), ServiceAccount) }
	}
	return f
}

// fromFolders makes the source and the authority that are kept in folders, and
// returns what verifies tokens.
func (p *Plane) fromFolders() (identity.TokenReviewer, error) {
	src, err := files.NewSource(files.SourceConfig{Dirs: p.cfg.Dirs, Catalog: p.catalog, Logger: p.log})
	if err != nil {
		return nil, err
	}
	ca, err := identity.OpenFolder(filepath.Join(p.cfg.StateDir, AuthorityDir), p.cfg.TrustDomain, p.log)
	if err != nil {
		return nil, err
	}
	p.source, p.ca = src, ca
	return token.Open(filepath.Join(p.cfg.StateDir, TokenDir))
}

// newServer makes the gRPC server of the sidecars.
func (p *Plane) newServer(m *meters) (*grpc.Server, error) {
	codec, err := encode.NewCodec()
	if err != nil {
		return nil, err
	}
	own := identity.NewOwn(p.ca, ID(p.cfg.TrustDomain))
	if p.cluster == nil { // else the authority is not known yet
		if _, err := own.Certificate(); err != nil {
			return nil, err
		}
	}
	guard := access.New(p.catalog, identityapi.Identity_Certify_FullMethodName, identityapi.Identity_Trust_FullMethodName)
	guard.Reserve(queryapi.Query_ServiceDesc.ServiceName, ViewID(p.cfg.TrustDomain))
	pool := func() *x509.CertPool {
		if a := p.ca.Current(); a != nil {
			return a.Pool()
		}
		return x509.NewCertPool() // nobody is believed
	}
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(access.TLS(own.Certificate, pool))),
		grpc.ForceServerCodecV2(codec),
		grpc.ChainUnaryInterceptor(m.unary, guard.Unary),
		grpc.ChainStreamInterceptor(m.stream, guard.Stream),
		// One stream for each address that a pod's apps talk to.
		grpc.MaxConcurrentStreams(10000),
		// The largest thing that a sidecar sends is a tap event with its headers.
		grpc.MaxRecvMsgSize(1<<20),
		grpc.MaxHeaderListSize(16<<10),
		// A sidecar that has died without a word is let go of within 15 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(10*time.Second),
		// Idle connections cost few buffers (and none to write: grpc shares
		// those): there are a thousand of them.
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(16<<10),
	), nil
}

// listen opens the sockets; when one fails, none stays.
func (p *Plane) listen() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.listener, err = net.Listen("tcp", p.cfg.Listen); err != nil {
		return fmt.Errorf("listen for sidecars: %w", err)
	}
	if p.cfg.QuerySocket != "" {
		if p.socket, err = query.Listen(p.cfg.QuerySocket); err != nil {
			return err
		}
	}
	if p.cfg.ViewSocket != "" {
		if p.viewLis, err = query.Listen(p.cfg.ViewSocket); err != nil {
			return err
		}
	}
	if p.cfg.AdminListen != "" {
		if p.adminLis, err = net.Listen("tcp", p.cfg.AdminListen); err != nil {
			return fmt.Errorf("listen for admin requests: %w", err)
		}
	}
	if p.cluster != nil && p.cluster.cfg.WebhookListen != "" {
		if p.hookLis, err = net.Listen("tcp", p.cluster.cfg.WebhookListen); err != nil {
			return fmt.Errorf("listen for the API server: %w", err)
		}
	}
	return nil
}

// Close lets go of the sockets of a plane that is not run. It may be called
// again.
func (p *Plane) Close() error {
	errs := []error{p.figures.close()}
	for _, l := range []net.Listener{p.listener, p.socket, p.viewLis, p.adminLis, p.hookLis} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends or a part fails. It may be called once.
func (p *Plane) Run(ctx context.Context) error {
	told := ctx
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		p.await(told, ctx)
		stop()
		return nil
	})
	g.Go(func() error { return p.source.Run(ctx) })
	g.Go(func() error { return p.ca.Run(ctx) })
	g.Go(func() error { return p.hub.Run(ctx) })
	if p.cluster != nil {
		p.cluster.run(ctx, g)
	}
	if p.hookLis != nil {
		g.Go(func() error { return serveAPI(ctx, p.cluster.server, p.hookLis) })
	}
	g.Go(func() error { return serve(ctx, "sidecars", p.sidecars, p.listener) })
	if p.socket != nil {
		g.Go(func() error { return serve(ctx, "people", p.people, p.socket) })
		g.Go(func() error { return p.figures.run(ctx) })
	}
	if p.viewLis != nil {
		g.Go(func() error { return serveAdmin(ctx, p.view, p.viewLis) })
	}
	if p.adminLis != nil {
		g.Go(func() error { return serveAdmin(ctx, p.admin, p.adminLis) })
	}
	p.log.Info("control plane runs", "address", p.Addr(), "identity", ID(p.cfg.TrustDomain).String(), "version", p.cfg.Version)
	err := g.Wait()
	p.log.Info("control plane has stopped", "err", err)
	return err
}

// await returns StopDelay after the plane was told to stop, or when it fails.
func (p *Plane) await(told, failed context.Context) {
	select {
	case <-told.Done():
	case <-failed.Done():
		return
	}
	p.stopping.Store(true)
	if p.cfg.StopDelay == 0 {
		return
	}
	p.log.Info("control plane is to stop and goes on for a while", "delay", p.cfg.StopDelay)
	timer := time.NewTimer(p.cfg.StopDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-failed.Done():
	}
}

// serve runs one gRPC server until ctx ends, then gives calls a moment.
func serve(ctx context.Context, who string, s *grpc.Server, l net.Listener) error {
	failed := make(chan error, 1) // of one slot: Serve returns once
	go serveGRPC(s, l, failed)
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", who, err)
	case <-ctx.Done():
	}
	hard := time.AfterFunc(stopGrace, s.Stop)
	defer hard.Stop()
	s.GracefulStop()
	return ignoreStopped(<-failed)
}

func serveGRPC(s *grpc.Server, l net.Listener, failed chan<- error) { failed <- s.Serve(l) }

func ignoreStopped(err error) error {
	if errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Addr is where the sidecars' API listens.
func (p *Plane) Addr() net.Addr { return p.listener.Addr() }

// AdminAddr is where admin requests are answered, nil if nowhere.
func (p *Plane) AdminAddr() net.Addr {
	if p.adminLis == nil {
		return nil
	}
	return p.adminLis.Addr()
}

// WebhookAddr is where the injector listens, nil if nowhere.
func (p *Plane) WebhookAddr() net.Addr {
	if p.hookLis == nil {
		return nil
	}
	return p.hookLis.Addr()
}

// Anchors are the trust anchors in force, PEM: what sidecars start with; nil
// while there are none.
func (p *Plane) Anchors() []byte {
	if a := p.ca.Current(); a != nil {
		return a.AnchorsPEM()
	}
	return nil
}

// Catalog is what the plane knows of the cluster.
func (p *Plane) Catalog() *catalog.Catalog { return p.catalog }

// Ready says what keeps the plane from answering, nil when nothing does. A
// change that cannot be used does not, and a cluster that cannot be followed just
// now: the last good state answers.
func (p *Plane) Ready() error {
	if p.stopping.Load() {
		return errors.New("the control plane is to stop")
	}
	select {
	case <-p.catalog.Synced():
		if p.cluster != nil {
			return p.cluster.ready()
		}
		return nil
	default:
	}
	what := "the manifests have"
	if p.cluster != nil {
		what = "the cluster has"
	}
	if err := p.source.Problem(); err != nil {
		return fmt.Errorf("%s never been usable: %w", what, err)
	}
	return fmt.Errorf("%s not been read yet", what)
}
