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

// Source is where the authority in force is found: a Folder, or a Live one.
type Source interface {
	// Current is nil while there has been none that can be used.
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
	// newsWait is how long the source has to tell of a pod before the API server is
	// asked for it.
	newsWait = 300 * time.Millisecond
	// maxLookups bounds the questions for single pods.
	maxLookups = 16
	// lateEnd is how long after the end of its grace period a pod may still be
	// there: a node's clock is not ours, and a container runtime takes its time.
	lateEnd = time.Minute
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
	lookup  func(context.Context, catalog.Key) (*catalog.Pod, error)
	asking  chan struct{} // one for each lookup in progress
	places  chan struct{} // one for each call in progress
	issued  atomic.Uint64
	refused atomic.Uint64
}

// Config says what a Server works with; all fields but Lookup and Logger are required.
type Config struct {
	Source  Source
	Tokens  TokenReviewer
	Catalog *catalog.Catalog
	// Lookup asks for the pod of that name as it is this moment; nil when there is
	// none. It is called for a pod that the catalog does not know, once for each
	// call, and bounded. Without it such a pod is waited for.
	Lookup func(context.Context, catalog.Key) (*catalog.Pod, error)
	Logger *slog.Logger // nil = discard
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
		lookup: cfg.Lookup, asking: make(chan struct{}, maxLookups),
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
	if a == nil {
		return nil, who, status.Errorf(codes.Unavailable, "certify %s: there is no certificate authority yet: see the control plane's log and its /ready", who)
	}
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
	var ask <-chan time.Time
	if s.lookup != nil {
		timer := time.NewTimer(newsWait)
		defer timer.Stop()
		ask = timer.C
	}
	for {
		if p, ok := s.catalog.PodByUID(c.PodUID); ok {
			return s.alive(p, c)
		}
		select {
		case <-seen.Changed():
		case <-ask:
			return s.ask(ctx, c)
		case <-ctx.Done():
			return nil, noSuchPod(c)
		}
	}
}

func noSuchPod(c token.Claims) error {
	return status.Errorf(codes.Unauthenticated, "certify: there is no pod %s/%s with the token's uid", c.Namespace, c.Pod)
}

// alive judges the pod that has a token's uid.
func (s *Server) alive(p *catalog.Pod, c token.Claims) (*catalog.Pod, error) {
	switch {
	case p.Namespace != c.Namespace || p.Name != c.Pod || p.ServiceAccount != c.ServiceAccount:
		return nil, status.Errorf(codes.Unauthenticated, "certify: the token's pod %s/%s of service account %s is not the one with its uid", c.Namespace, c.Pod, c.ServiceAccount)
	case p.Finished():
		return nil, status.Errorf(codes.Unauthenticated, "certify: pod %s has ended (%s)", p.Key, p.Phase)
	case p.Terminating && p.EndsBy > 0 && s.now().Sub(time.Unix(p.EndsBy, 0)) > lateEnd:
		return nil, status.Errorf(codes.Unauthenticated, "certify: pod %s was deleted and should have ended by %s", p.Key, time.Unix(p.EndsBy, 0).UTC().Format(time.RFC3339))
	}
	return p, nil
}

// ask asks once for a pod that the catalog does not know: it may be younger than
// our news of it. What the catalog says of it afterwards counts for its streams.
func (s *Server) ask(ctx context.Context, c token.Claims) (*catalog.Pod, error) {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return nil, status.Error(codes.Unavailable, "certify: too many pods that are not known yet: try again")
	}
	p, err := s.lookup(ctx, catalog.Key{Namespace: c.Namespace, Name: c.Pod})
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "certify: look pod %s/%s up: %v", c.Namespace, c.Pod, err)
	case p == nil || p.UID != c.PodUID:
		return nil, noSuchPod(c)
	}
	return s.alive(p, c)
}

// Trust implements the wire API.
func (s *Server) Trust(context.Context, *api.TrustRequest) (*api.TrustBundle, error) {
	a := s.source.Current()
	if a == nil {
		return nil, status.Error(codes.Unavailable, "trust: there are no trust anchors yet: see the control plane's log and its /ready")
	}
	return &api.TrustBundle{Anchors: a.AnchorsDER(), Generation: a.Generation()}, nil
}

// WatchTrust implements the wire API.
func (s *Server) WatchTrust(_ *api.WatchTrustRequest, stream api.Identity_WatchTrustServer) error {
	for {
		changed := s.source.Changed()
		if a := s.source.Current(); a != nil {
			if err := stream.Send(&api.TrustBundle{Anchors: a.AnchorsDER(), Generation: a.Generation()}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
