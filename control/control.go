// Package control is the control plane. It owns the composition of its parts,
// and nothing else:
//
//	files ──► catalog ──► destination ─┐
//	             │  └───► policy ──────┤
//	             ├──────► identity ────┼──► gRPC over TLS ──► sidecars
//	             │  ┌───► tap ─────────┘
//	             └──┼───► metrics ◄──────────── /metrics of the sidecars
//	                └───► query ──────────► unix socket ──► meshctl
//
// New reads configuration and keys and opens sockets, so that what is wrong is
// told at once; Run serves until its context ends.
package control

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
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
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/control/query"
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
	source  *files.Source
	ca      *identity.Folder
	hub     *tap.Hub
	scraper *metrics.Scraper

	sidecars *grpc.Server
	people   *grpc.Server
	admin    *http.Server

	listener net.Listener
	socket   net.Listener // nil: none
	adminLis net.Listener // nil: none
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
	if p.source, err = files.NewSource(files.SourceConfig{Dirs: cfg.Dirs, Catalog: p.catalog, Logger: p.log}); err != nil {
		return nil, err
	}
	if p.ca, err = identity.OpenFolder(filepath.Join(cfg.StateDir, AuthorityDir), cfg.TrustDomain, p.log); err != nil {
		return nil, err
	}
	keys, err := token.Open(filepath.Join(cfg.StateDir, TokenDir))
	if err != nil {
		return nil, err
	}
	window, err := metrics.NewWindow(cfg.Window)
	if err != nil {
		return nil, err
	}
	p.scraper, err = metrics.NewScraper(metrics.Config{Catalog: p.catalog, Window: window, Interval: cfg.ScrapeInterval, Logger: p.log})
	if err != nil {
		return nil, err
	}
	p.hub = tap.New(p.catalog, p.log)
	certify, err := identity.NewServer(identity.Config{Source: p.ca, Tokens: keys, Catalog: p.catalog, Logger: p.log})
	if err != nil {
		return nil, err
	}
	inbound, err := policy.New(p.catalog, policy.Rules{Default: cfg.DefaultInboundPolicy, Networks: cfg.ClusterNetworks}, p.log)
	if err != nil {
		return nil, err
	}
	ask, err := query.New(query.Config{Catalog: p.catalog, Metrics: window, Tap: p.hub, Trust: p.ca, Version: cfg.Version})
	if err != nil {
		return nil, err
	}
	m := newMeters()
	if p.sidecars, err = p.newServer(m); err != nil {
		return nil, err
	}
	where := destination.New(p.catalog)
	destinationapi.RegisterDestinationServer(p.sidecars, where)
	policyapi.RegisterPolicyServer(p.sidecars, inbound)
	identityapi.RegisterIdentityServer(p.sidecars, certify)
	tapapi.RegisterTapServer(p.sidecars, p.hub)
	p.people = grpc.NewServer(grpc.ChainUnaryInterceptor(m.unary), grpc.ChainStreamInterceptor(m.stream))
	queryapi.RegisterQueryServer(p.people, ask)
	if err := m.register(meterSources{p.ca, certify, where, inbound, p.hub, p.scraper, window, p.source}); err != nil {
		return nil, err
	}
	p.admin = newAdmin(p, m)
	if err := p.listen(); err != nil {
		return nil, err
	}
	return p, nil
}

// newServer makes the gRPC server of the sidecars.
func (p *Plane) newServer(m *meters) (*grpc.Server, error) {
	codec, err := encode.NewCodec()
	if err != nil {
		return nil, err
	}
	own := identity.NewOwn(p.ca, ID(p.cfg.TrustDomain))
	if _, err := own.Certificate(); err != nil {
		return nil, err
	}
	guard := access.New(p.catalog, identityapi.Identity_Certify_FullMethodName)
	pool := func() *x509.CertPool { return p.ca.Current().Pool() }
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
	if p.cfg.AdminListen != "" {
		if p.adminLis, err = net.Listen("tcp", p.cfg.AdminListen); err != nil {
			return fmt.Errorf("listen for admin requests: %w", err)
		}
	}
	return nil
}

// Close lets go of the sockets of a plane that is not run. It may be called
// again.
func (p *Plane) Close() error {
	var errs []error
	for _, l := range []net.Listener{p.listener, p.socket, p.adminLis} {
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
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.source.Run(ctx) })
	g.Go(func() error { return p.ca.Run(ctx) })
	g.Go(func() error { return p.hub.Run(ctx) })
	g.Go(func() error { return p.scraper.Run(ctx) })
	g.Go(func() error { return serve(ctx, "sidecars", p.sidecars, p.listener) })
	if p.socket != nil {
		g.Go(func() error { return serve(ctx, "people", p.people, p.socket) })
	}
	if p.adminLis != nil {
		g.Go(func() error { return serveAdmin(ctx, p.admin, p.adminLis) })
	}
	p.log.Info("control plane runs", "address", p.Addr(), "identity", ID(p.cfg.TrustDomain).String(), "version", p.cfg.Version)
	err := g.Wait()
	p.log.Info("control plane has stopped", "err", err)
	return err
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

// Anchors are the trust anchors in force, PEM: what sidecars start with.
func (p *Plane) Anchors() []byte { return p.ca.Current().AnchorsPEM() }

// Catalog is what the plane knows of the cluster.
func (p *Plane) Catalog() *catalog.Catalog { return p.catalog }

// Ready says what keeps the plane from answering, nil when nothing does. A
// change of manifests that cannot be used does not: the last good state answers.
func (p *Plane) Ready() error {
	select {
	case <-p.catalog.Synced():
		return nil
	default:
	}
	if err := p.source.Problem(); err != nil {
		return fmt.Errorf("the manifests have never been usable: %w", err)
	}
	return errors.New("the manifests have not been read yet")
}
