// Package access knows who calls. It owns the server's side of TLS and the rules
// that follow from a client's certificate: which calls need one, that it names
// one identity of this mesh, that its holder owns the pod that it speaks for. It
// refuses to know what the calls do.
package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Guard lets in those that prove an identity.
type Guard struct {
	catalog *catalog.Catalog
	open    map[string]bool      // full method names that need no certificate
	only    map[string]spiffe.ID // of a service, "/package.Service/": who alone may call it
	now     func() time.Time
}

// New returns a guard. The full method names in open ("/package.Service/Method")
// may be called without a client certificate.
func New(c *catalog.Catalog, open ...string) *Guard {
	g := &Guard{catalog: c, open: map[string]bool{}, only: map[string]spiffe.ID{}, now: time.Now}
	for _, m := range open {
		g.open[m] = true
	}
	return g
}

// Reserve keeps a service ("package.Service") for one caller. It is not to be
// called while the guard is in use.
func (g *Guard) Reserve(service string, id spiffe.ID) { g.only["/"+service+"/"] = id }

// TLS returns the server's configuration: TLS 1.3, a certificate of our own, and
// client certificates verified against the anchors of this very moment, so that
// a rotation needs no restart. Certificate and pool are asked for at each
// handshake.
func TLS(certificate func() (*tls.Certificate, error), pool func() *x509.CertPool) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		ClientAuth: tls.VerifyClientCertIfGiven,
		// A ticket would outlive the anchors that its session was verified with.
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
	}
	cfg := base.Clone()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = pool()
		return c, nil
	}
	return cfg
}

// caller is who a call comes from.
type caller struct {
	id       spiffe.ID
	notAfter time.Time
}

// identify reads the caller from the connection.
func (g *Guard) identify(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, errors.New("the connection is not known")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return caller{}, errors.New("a client certificate of the mesh is needed")
	}
	leaf := info.State.VerifiedChains[0][0]
	if !g.now().Before(leaf.NotAfter) {
		return caller{}, fmt.Errorf("the client certificate has expired on %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if len(leaf.URIs) != 1 {
		return caller{}, fmt.Errorf("the client certificate names %d URIs, want one identity", len(leaf.URIs))
	}
	id, err := spiffe.Parse(leaf.URIs[0].String())
	if err != nil {
		return caller{}, fmt.Errorf("the client certificate: %w", err)
	}
	if id.TrustDomain != g.catalog.TrustDomain() {
		return caller{}, fmt.Errorf("the client certificate is of trust domain %q, not %q", id.TrustDomain, g.catalog.TrustDomain())
	}
	return caller{id: id, notAfter: leaf.NotAfter}, nil
}

// callerKey is the context key of the caller.
type callerKey struct{}

// Caller is the identity that the guard verified; zero in a context that did not
// come through it, or of a call that needs none.
func Caller(ctx context.Context) spiffe.ID {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.id
}

// admit puts the caller into the context, which ends when the certificate does.
func (g *Guard) admit(ctx context.Context, method string) (context.Context, context.CancelFunc, error) {
	c, err := g.identify(ctx)
	if err != nil {
		if g.open[method] {
			return ctx, func() {}, nil
		}
		return nil, nil, status.Errorf(codes.Unauthenticated, "%s: %v", method, err)
	}
	if id, ok := g.only[method[:strings.LastIndexByte(method, '/')+1]]; ok && id != c.id {
		return nil, nil, status.Errorf(codes.PermissionDenied, "%s: %s may not call it, only %s", method, c.id, id)
	}
	ctx = context.WithValue(ctx, callerKey{}, c)
	ctx, cancel := context.WithDeadlineCause(ctx, c.notAfter, errExpired)
	return ctx, cancel, nil
}

var errExpired = errors.New("the client certificate has expired: renew it and connect again")

// Unary guards unary calls.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, cancel, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return next(ctx, req)
}

// Stream guards streams.
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel, err := g.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer cancel()
	err = next(srv, &stream{ServerStream: ss, ctx: ctx})
	if errors.Is(context.Cause(ctx), errExpired) {
		return status.Errorf(codes.Unauthenticated, "%s: %v", info.FullMethod, errExpired)
	}
	return err
}

// stream is a stream whose context knows the caller.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *stream) Context() context.Context { return s.ctx }

// Pod returns the pod that a call names as "namespace/name" if the caller owns
// it: the pod lives and the caller's identity is its own. Its errors are gRPC
// statuses.
func Pod(ctx context.Context, c *catalog.Catalog, name string) (*catalog.Pod, error) {
	ns, n, ok := strings.Cut(name, "/")
	if !ok || ns == "" || n == "" || strings.Contains(n, "/") {
		return nil, status.Errorf(codes.InvalidArgument, "pod %q: want namespace/name", name)
	}
	id := Caller(ctx)
	if id.IsZero() {
		return nil, status.Error(codes.Unauthenticated, "a client certificate of the mesh is needed")
	}
	if err := Synced(ctx, c); err != nil {
		return nil, err
	}
	p, ok := c.Pod(catalog.Key{Namespace: ns, Name: n})
	// One answer for both: who may not speak for a pod need not learn of it.
	if !ok || p.Identity(c.TrustDomain()) != id {
		return nil, status.Errorf(codes.PermissionDenied, "pod %s: %s does not own a pod of that name", name, id)
	}
	return p, nil
}

// syncWait is how long a call waits for a control plane that has just started.
const syncWait = 5 * time.Second

// Synced waits a little for the catalog to be known. Its error is UNAVAILABLE:
// an empty catalog is no statement.
func Synced(ctx context.Context, c *catalog.Catalog) error {
	select {
	case <-c.Synced():
		return nil
	default:
	}
	t := time.NewTimer(syncWait)
	defer t.Stop()
	select {
	case <-c.Synced():
		return nil
	case <-ctx.Done():
	case <-t.C:
	}
	return status.Error(codes.Unavailable, "the cluster is not known yet: try again")
}
