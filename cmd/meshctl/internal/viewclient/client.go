// Package viewclient asks the mesh in a cluster, through the API server. It owns
// how a question becomes a request to the aggregated API and what its errors mean.
// It refuses to know what is asked and how answers look on a screen: to its
// callers it is the query API, as that of a local mesh is.
package viewclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/extension"
)

// Client is a query.QueryClient; it has no use for call options.
type Client struct{ rest rest.Interface }

// New returns a client of the API server that cfg leads to.
func New(cfg *rest.Config) (*Client, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	cfg.Timeout = 0 // a tap lasts; other questions have their callers' deadlines
	r, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &Client{r}, nil
}

// path is a selector's: namespaces/NS/RESOURCE/NAME.
func path(s *query.Selector) (string, error) {
	resource, namespace, err := where(s)
	if err != nil {
		return "", err
	}
	return "namespaces/" + namespace + "/" + resource + "/" + all(s.GetName()), nil
}

// other is a selector as a parameter: RESOURCE/NS/NAME.
func other(s *query.Selector) (string, error) {
	resource, namespace, err := where(s)
	return resource + "/" + namespace + "/" + all(s.GetName()), err
}

func where(s *query.Selector) (resource, namespace string, err error) {
	resource, ok := extension.ResourceOf(s.GetKind())
	if !ok {
		return "", "", status.Errorf(codes.InvalidArgument, "kind %q is not known", s.GetKind())
	}
	if s.GetKind() == "namespace" {
		return resource, all(s.GetName()), nil
	}
	if s.GetAllNamespaces() {
		return resource, extension.All, nil
	}
	return resource, all(s.GetNamespace()), nil
}

func all(s string) string {
	if s == "" {
		return extension.All
	}
	return s
}

// Stat implements query.QueryClient.
func (c *Client) Stat(ctx context.Context, req *query.StatRequest, _ ...grpc.CallOption) (*query.StatResponse, error) {
	r, err := c.get(req.GetResource(), "stat", req.GetWindowSeconds())
	if err != nil {
		return nil, err
	}
	for name, s := range map[string]*query.Selector{"to": req.GetTo(), "from": req.GetFrom()} {
		if s == nil {
			continue
		}
		o, err := other(s)
		if err != nil {
			return nil, err
		}
		r.Param(name, o)
	}
	resp := &query.StatResponse{}
	return resp, do(ctx, r, resp)
}

// Endpoints implements query.QueryClient.
func (c *Client) Endpoints(ctx context.Context, req *query.EndpointsRequest, _ ...grpc.CallOption) (*query.EndpointsResponse, error) {
	host, port, ok := strings.Cut(req.GetAuthority(), ":")
	name, rest, _ := strings.Cut(host, ".")
	namespace, _, _ := strings.Cut(rest, ".")
	if !ok || name == "" || port == "" {
		return nil, status.Errorf(codes.InvalidArgument, "authority %q: want name.namespace.svc.cluster.local:port", req.GetAuthority())
	}
	if namespace == "" {
		namespace = "default"
	}
	resp := &query.EndpointsResponse{}
	return resp, do(ctx, c.rest.Get().AbsPath(extension.Base, "namespaces", namespace, "services", name, "endpoints").Param("port", port), resp)
}

// Policy implements query.QueryClient.
func (c *Client) Policy(ctx context.Context, req *query.PolicyRequest, _ ...grpc.CallOption) (*query.PolicyResponse, error) {
	p, err := path(req.GetResource())
	if err != nil {
		return nil, err
	}
	resp := &query.PolicyResponse{}
	return resp, do(ctx, c.rest.Get().AbsPath(extension.Base, p, "policy").Param("port", strconv.FormatUint(uint64(req.GetPort()), 10)), resp)
}

// Edges implements query.QueryClient.
func (c *Client) Edges(ctx context.Context, req *query.EdgesRequest, _ ...grpc.CallOption) (*query.EdgesResponse, error) {
	r, err := c.get(req.GetResource(), "edges", req.GetWindowSeconds())
	if err != nil {
		return nil, err
	}
	resp := &query.EdgesResponse{}
	return resp, do(ctx, r, resp)
}

// Routes implements query.QueryClient.
func (c *Client) Routes(ctx context.Context, req *query.RoutesRequest, _ ...grpc.CallOption) (*query.RoutesResponse, error) {
	r, err := c.get(req.GetResource(), "routes", req.GetWindowSeconds())
	if err != nil {
		return nil, err
	}
	direction := "inbound"
	if req.GetOutbound() {
		direction = "outbound"
	}
	resp := &query.RoutesResponse{}
	return resp, do(ctx, r.Param("direction", direction), resp)
}

// Taps implements query.QueryClient.
func (c *Client) Taps(ctx context.Context, req *query.TapsRequest, _ ...grpc.CallOption) (*query.TapsResponse, error) {
	r, err := c.get(req.GetResource(), "tap", 0)
	if err != nil {
		return nil, err
	}
	resp := &query.TapsResponse{}
	return resp, do(ctx, r, resp)
}

// Why implements query.QueryClient.
func (c *Client) Why(ctx context.Context, req *query.WhyRequest, _ ...grpc.CallOption) (*query.WhyResponse, error) {
	raw, err := protojson.Marshal(req)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "write the request: %v", err)
	}
	resp := &query.WhyResponse{}
	return resp, do(ctx, c.rest.Post().AbsPath(extension.Base, "why").SetHeader("Content-Type", "application/json").Body(raw), resp)
}

// Connections implements query.QueryClient.
func (c *Client) Connections(ctx context.Context, req *query.ConnectionsRequest, _ ...grpc.CallOption) (*query.ConnectionsResponse, error) {
	r, err := c.get(&query.Selector{Kind: "pod", Namespace: req.GetNamespace(), Name: req.GetPod()}, "connections", 0)
	if err != nil {
		return nil, err
	}
	if n := req.GetLimit(); n > 0 {
		r.Param("limit", strconv.FormatUint(uint64(n), 10))
	}
	resp := &query.ConnectionsResponse{}
	return resp, do(ctx, r, resp)
}

// get is a question about resources.
func (c *Client) get(s *query.Selector, what string, window uint32) (*rest.Request, error) {
	p, err := path(s)
	if err != nil {
		return nil, err
	}
	r := c.rest.Get().AbsPath(extension.Base, p, what)
	if window > 0 {
		r.Param("window", strconv.FormatUint(uint64(window), 10))
	}
	if l := s.GetLabelSelector(); l != "" {
		r.Param("labelSelector", l)
	}
	return r, nil
}

// Health implements query.QueryClient.
func (c *Client) Health(ctx context.Context, _ *query.HealthRequest, _ ...grpc.CallOption) (*query.HealthResponse, error) {
	resp := &query.HealthResponse{}
	return resp, do(ctx, c.rest.Get().AbsPath(extension.Base, "health"), resp)
}

func do(ctx context.Context, r *rest.Request, into proto.Message) error {
	answer := r.SetHeader("Accept", "application/json").Do(ctx)
	raw, err := answer.Raw()
	if err != nil {
		return statusOf(answer.Error(), raw) // which reads what the server says of it
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, into); err != nil {
		return status.Errorf(codes.Internal, "read the mesh's answer: %v", err)
	}
	return nil
}

// statusOf is an API server's error, or the mesh's own through it, as the query
// API's.
func statusOf(err error, body []byte) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return status.Error(codes.Unavailable, err.Error())
	}
	text, code := s.Status().Message, codes.Internal
	switch s.Status().Code {
	case http.StatusBadRequest:
		code = codes.InvalidArgument
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusNotFound:
		code = codes.NotFound
		if !mesh(body) { // the API server itself, in plain text: nobody serves the API
			code, text = codes.Unavailable, "the cluster has no "+extension.Version+"."+extension.Group+" API: is the mesh installed? See meshctl check"
		}
	case http.StatusConflict:
		code = codes.FailedPrecondition
	case http.StatusTooManyRequests:
		code = codes.ResourceExhausted
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
		if !mesh(body) {
			text += "; the API server does not reach mesh-view: see meshctl check"
		}
	case http.StatusGatewayTimeout:
		code = codes.DeadlineExceeded
	}
	return status.Error(code, text)
}

// mesh reports whether an error is the mesh's own, not of the API server before it.
func mesh(body []byte) bool { return len(body) > 0 && body[0] == '{' }

var _ query.QueryClient = (*Client)(nil)
