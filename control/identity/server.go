package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/token"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// TokenReviewer proves who holds a token. Errors that wrap token.ErrInvalid
// refuse the token; any other says that nothing is known now.
type TokenReviewer interface {
	Verify(ctx context.Context, tok, audience string) (token.Claims, error)
}

// Source is where the authority in force is found: a Folder, or a Secret.
type Source interface {
	Current() *Authority
	// Changed is closed when Current next changes; take it before Current.
	Changed() <-chan struct{}
}

const (
	// podWait is how long a pod may be unknown: a sidecar starts as soon as its
	// container does, which may be before the source has told of the pod.
	podWait = 3 * time.Second
	// maxCertifying bounds calls in progress of those who have proven nothing yet.
	maxCertifying = 128
)

// Server is the wire service.
type Server struct {
	api.UnimplementedIdentityServer
	source  Source
	tokens  TokenReviewer
	catalog *catalog.Catalog
	log     *slog.Logger
	now     func() time.Time
	podWait time.Duration
	places  chan struct{} // one for each call in progress
	issued  atomic.Uint64
	refused atomic.Uint64
}

// Config says what a Server works with; all fields but Logger are required.
type Config struct {
	Source  Source
	Tokens  TokenReviewer
	Catalog *catalog.Catalog
	Logger  *slog.Logger // nil = discard
}

// NewServer returns the service.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Source == nil || cfg.Tokens == nil || cfg.Catalog == nil {
		return nil, errors.New("new identity service: source, tokens and catalog are all needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		source: cfg.Source, tokens: cfg.Tokens, catalog: cfg.Catalog, log: cfg.Logger,
		now: time.Now, podWait: podWait, places: make(chan struct{}, maxCertifying),
	}, nil
}

// Issued and refused certificates since the start.
func (s *Server) Counts() (issued, refused uint64) { return s.issued.Load(), s.refused.Load() }

// Certify implements the wire API.
func (s *Server) Certify(ctx context.Context, req *api.CertifyRequest) (*api.CertifyResponse, error) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		return nil, status.Error(codes.Unavailable, "too many calls to Certify at once: try again")
	}
	resp, who, err := s.certify(ctx, req)
	if err != nil {
		s.refused.Add(1)
		s.log.Warn("certificate refused", "pod", who, "code", status.Code(err).String(), "err", err)
		return nil, err
	}
	s.issued.Add(1)
	s.log.Info("certificate issued", "pod", who, "not_after", time.Unix(resp.GetNotAfterUnix(), 0).UTC())
	return resp, nil
}

func (s *Server) certify(ctx context.Context, req *api.CertifyRequest) (_ *api.CertifyResponse, who string, _ error) {
	claims, err := s.tokens.Verify(ctx, req.GetToken(), annotation.TokenAudience)
	switch {
	case errors.Is(err, token.ErrInvalid):
		return nil, "", status.Errorf(codes.Unauthenticated, "certify: %v", err)
	case err != nil:
		return nil, "", status.Errorf(codes.Unavailable, "certify: verify token: %v", err)
	}
	who = claims.Namespace + "/" + claims.Pod
	pod, err := s.pod(ctx, claims)
	if err != nil {
		return nil, who, err
	}
	id := pod.Identity(s.catalog.TrustDomain())
	pub, err := CheckCSR(req.GetCsr(), id)
	switch {
	case errors.Is(err, ErrOther):
		return nil, who, status.Errorf(codes.PermissionDenied, "certify %s: %v", who, err)
	case err != nil:
		return nil, who, status.Errorf(codes.InvalidArgument, "certify %s: %v", who, err)
	}
	a := s.source.Current()
	chain, notAfter, err := a.Issue(id, pub, Lifetime, s.now())
	if err != nil {
		return nil, who, status.Errorf(codes.Unavailable, "certify %s: %v", who, err)
	}
	return &api.CertifyResponse{
		Chain: chain, Anchors: a.AnchorsDER(), NotAfterUnix: notAfter.Unix(), Generation: a.Generation(),
	}, who, nil
}

// pod finds the live pod that a token is bound to.
func (s *Server) pod(ctx context.Context, c token.Claims) (*catalog.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, s.podWait)
	defer cancel()
	seen := s.catalog.Observe()
	defer seen.Close()
	select {
	case <-s.catalog.Synced():
	case <-ctx.Done():
		return nil, status.Error(codes.Unavailable, "certify: the cluster is not known yet: try again")
	}
	for {
		p, ok := s.catalog.PodByUID(c.PodUID)
		switch {
		case ok && (p.Namespace != c.Namespace || p.Name != c.Pod || p.ServiceAccount != c.ServiceAccount):
			return nil, status.Errorf(codes.Unauthenticated, "certify: the token's pod %s/%s of service account %s is not the one with its uid", c.Namespace, c.Pod, c.ServiceAccount)
		case ok && p.Finished():
			return nil, status.Errorf(codes.Unauthenticated, "certify: pod %s has ended (%s)", p.Key, p.Phase)
		case ok:
			return p, nil
		}
		select {
		case <-seen.Changed():
		case <-ctx.Done():
			return nil, status.Errorf(codes.Unauthenticated, "certify: there is no pod %s/%s with the token's uid", c.Namespace, c.Pod)
		}
	}
}

// WatchTrust implements the wire API.
func (s *Server) WatchTrust(_ *api.WatchTrustRequest, stream api.Identity_WatchTrustServer) error {
	for {
		changed := s.source.Changed()
		a := s.source.Current()
		if err := stream.Send(&api.TrustBundle{Anchors: a.AnchorsDER(), Generation: a.Generation()}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
