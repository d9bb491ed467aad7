package extension

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/query"
)

// Backend finds the answers. Its errors are gRPC statuses.
type Backend interface {
	Stat(ctx context.Context, req *api.StatRequest) (*api.StatResponse, error)
	Endpoints(ctx context.Context, req *api.EndpointsRequest) (*api.EndpointsResponse, error)
	Policy(ctx context.Context, req *api.PolicyRequest) (*api.PolicyResponse, error)
	Edges(ctx context.Context, req *api.EdgesRequest) (*api.EdgesResponse, error)
	Routes(ctx context.Context, req *api.RoutesRequest) (*api.RoutesResponse, error)
	Taps(ctx context.Context, req *api.TapsRequest) (*api.TapsResponse, error)
	Why(ctx context.Context, req *api.WhyRequest) (*api.WhyResponse, error)
	Health(ctx context.Context, req *api.HealthRequest) (*api.HealthResponse, error)
	Connections(ctx context.Context, req *api.ConnectionsRequest) (*api.ConnectionsResponse, error)
	// Record calls send for each message of a capture, one at a time, until ctx ends
	// or send fails.
	Record(ctx context.Context, req *api.CaptureRequest, send func(*tapapi.Packets) error) error
	// Series answers with what a StatRequest asks for at each step of its window.
	Series(ctx context.Context, req *api.StatRequest, step time.Duration) (*query.Series, error)
	// Watch calls send for each message of a tap, one at a time, until ctx ends or
	// send fails.
	Watch(ctx context.Context, req *api.TapRequest, send func(*api.TapMessage) error) error
}

// Attributes are what somebody wants to do.
type Attributes struct {
	User                                         User
	Verb, Namespace, Resource, Subresource, Name string // Namespace "": in all
}

// Authorizer says whether somebody may do something in Group; an error: nobody
// could tell.
type Authorizer func(ctx context.Context, a Attributes) (allowed bool, reason string, err error)

// Console hands out the files of the page that people look at a mesh with.
type Console interface {
	Serve(w http.ResponseWriter, r *http.Request, name string)
}

// Authenticator says whose a bearer token is. Its errors are gRPC statuses.
type Authenticator func(ctx context.Context, token string) (User, error)

// Config says what a Server needs.
type Config struct {
	Backend   Backend
	Console   Console
	Authorize Authorizer
	// Local instead of Authorize: it is served where only who may do everything
	// can connect.
	Local bool
	// PromQL answers Prometheus' HTTP API; nil: nobody does.
	PromQL http.Handler
	// Authenticate lets those in who show a token; nil: nobody.
	Authenticate Authenticator
	Logger       *slog.Logger // nil = discard
	// Captured is told whenever somebody begins to capture a pod's packets; nil:
	// nobody is.
	Captured func(user, namespace, pod string)
}

const (
	// maxRequests bounds those in progress. Each tap is one.
	maxRequests = 512
	maxBody     = 64 << 10
)

// Server answers the API server's requests.
type Server struct {
	cfg    Config
	front  atomic.Pointer[Front]
	places chan struct{}
	asked  atomic.Uint64
	denied atomic.Uint64
}

// New returns a server. It answers nobody before SetFront.
func New(cfg Config) (*Server, error) {
	if cfg.Backend == nil || cfg.Console == nil || cfg.Local == (cfg.Authorize != nil) {
		return nil, errors.New("new aggregated API: backend, console and authorizer are needed; a local one has no authorizer")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, places: make(chan struct{}, maxRequests)}, nil
}

// SetFront says who may speak for others from now on. What can't be read leaves
// the last one in force.
func (s *Server) SetFront(data map[string]string) {
	f, err := ParseFront(data)
	if err != nil {
		s.cfg.Logger.Error("ConfigMap cannot be used, the last one stays", "name", FrontNamespace+"/"+FrontConfigMap, "err", err)
		return
	}
	s.front.Store(f)
}

// Ready says why nobody can be answered; nil: somebody can.
func (s *Server) Ready() error {
	if !s.cfg.Local && s.front.Load() == nil {
		return fmt.Errorf("ConfigMap %s/%s has not been read", FrontNamespace, FrontConfigMap)
	}
	return nil
}

// Counts are the requests since the start, and those of them that were refused.
func (s *Server) Counts() (asked, denied uint64) { return s.asked.Load(), s.denied.Load() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		fail(w, status.Error(codes.ResourceExhausted, "too many requests at once: try again later"))
		return
	}
	user, err := s.who(r)
	if err != nil {
		s.denied.Add(1)
		fail(w, err)
		return
	}
	if doc := discovery(r.URL.Path); doc != nil {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			methodNotAllowed(w, "GET, HEAD", "reads, and GET or HEAD reads it")
			return
		}
		answer(w, doc)
		return
	}
	rest, ours := strings.CutPrefix(r.URL.Path, Base+"/")
	q, ok := parse(rest)
	if !ours || !ok || !q.consistent() {
		fail(w, status.Errorf(codes.NotFound, "there is nothing at %s: see %s for what there is", r.URL.Path, Base))
		return
	}
	want := http.MethodGet
	if q.verb != "get" {
		want = http.MethodPost
	}
	if q.resource == prometheus {
		if r.Method != http.MethodGet && r.Method != http.MethodPost {
			methodNotAllowed(w, "GET, POST", q.String()+" takes GET and POST")
			return
		}
	} else if r.Method != want {
		methodNotAllowed(w, want, q.String()+" takes "+want)
		return
	}
	if err := s.may(r.Context(), user, q); err != nil {
		fail(w, err)
		return
	}
	s.serve(w, r, user, q)
}

// who says who asks: whom the API server names, or whose a token is.
func (s *Server) who(r *http.Request) (User, error) {
	if s.cfg.Local {
		return User{Name: "root"}, nil
	}
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if bearer && s.cfg.Authenticate != nil && r.TLS != nil && len(r.TLS.PeerCertificates) == 0 {
		return s.cfg.Authenticate(r.Context(), token)
	}
	u, err := s.front.Load().user(r)
	if err != nil {
		return u, status.Error(codes.Unauthenticated, err.Error())
	}
	return u, nil
}

// may asks whether a user may ask a question.
func (s *Server) may(ctx context.Context, user User, q question) error {
	if s.cfg.Local {
		return nil
	}
	a := Attributes{User: user, Verb: q.verb, Namespace: q.namespace, Resource: q.resource, Subresource: q.subresource, Name: q.name}
	ok, reason, err := s.cfg.Authorize(ctx, a)
	if err != nil {
		return status.Errorf(codes.Unavailable, "nobody could tell whether %s may %s %s: %v", user.Name, q.verb, q, err)
	}
	if ok {
		return nil
	}
	s.denied.Add(1)
	where := "in all namespaces"
	if q.namespace != "" {
		where = "in namespace " + q.namespace
	}
	if q.subresource == "" || q.resource == prometheus {
		where = "of the mesh"
	}
	text := fmt.Sprintf("%s may not %s %s %s: a role with apiGroups [%q], resources [%q], verbs [%q] is needed", user.Name, q.verb, q, where, Group, q.String(), q.verb)
	if reason != "" {
		text += " (" + reason + ")"
	}
	return status.Error(codes.PermissionDenied, text)
}

// httpStatus maps codes to what HTTP clients of an API server expect.
func httpStatus(c codes.Code) (int, metav1.StatusReason) {
	switch c {
	case codes.InvalidArgument:
		return http.StatusBadRequest, metav1.StatusReasonBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized, metav1.StatusReasonUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden, metav1.StatusReasonForbidden
	case codes.NotFound:
		return http.StatusNotFound, metav1.StatusReasonNotFound
	case codes.FailedPrecondition:
		return http.StatusConflict, metav1.StatusReasonConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests
	case codes.Unavailable:
		return http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout, metav1.StatusReasonTimeout
	}
	return http.StatusInternalServerError, metav1.StatusReasonInternalError
}

func fail(w http.ResponseWriter, err error) {
	s := status.Convert(err)
	code, reason := httpStatus(s.Code())
	writeStatus(w, code, reason, s.Message())
}

func methodNotAllowed(w http.ResponseWriter, allow, text string) {
	w.Header().Set("Allow", allow)
	writeStatus(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, text)
}

func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(statusOf(code, reason, text)) // whoever asked may have left
}

func statusOf(code int, reason metav1.StatusReason, text string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: text,
	}
}

func answer(w http.ResponseWriter, doc any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // whoever asked may have left
}
