package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	promapi "github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// externalTimeout bounds a question to somebody else's Prometheus.
const externalTimeout = 30 * time.Second

// External is a Prometheus of somebody else's, which scrapes the mesh by itself. It
// implements metrics.PromQL, and passes Prometheus' HTTP API on.
type External struct {
	base      *url.URL
	api       promv1.API
	proxy     *httputil.ReverseProxy
	transport *http.Transport
}

// NewExternal returns the Prometheus at a URL, what stands before /api/v1. User and
// password in it are sent as basic authentication.
func NewExternal(address string) (*External, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("URL of Prometheus: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" {
		return nil, fmt.Errorf("URL of Prometheus %q: want such as http://prometheus.monitoring:9090", base.Redacted())
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 32, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: externalTimeout,
	}
	e := &External{base: base, transport: t}
	e.proxy = &httputil.ReverseProxy{Transport: t, Rewrite: e.rewrite, ErrorHandler: e.unreachable}
	plain := *base
	plain.User = nil
	client, err := promapi.NewClient(promapi.Config{Address: plain.String(), RoundTripper: authenticated{t, base.User}})
	if err != nil {
		return nil, fmt.Errorf("client of Prometheus: %w", err)
	}
	e.api = promv1.NewAPI(client)
	return e, nil
}

// Close lets go of idle connections.
func (e *External) Close() { e.transport.CloseIdleConnections() }

// authenticated adds basic authentication.
type authenticated struct {
	http.RoundTripper
	user *url.Userinfo
}

// RoundTrip implements http.RoundTripper.
func (a authenticated) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.user != nil {
		r = r.Clone(r.Context())
		password, _ := a.user.Password()
		r.SetBasicAuth(a.user.Username(), password)
	}
	return a.RoundTripper.RoundTrip(r)
}

// rewrite makes a request of ours one of Prometheus': nothing of who asked us goes
// along.
func (e *External) rewrite(r *httputil.ProxyRequest) {
	to := *e.base
	to.Path += r.In.URL.Path
	to.RawQuery = r.In.URL.RawQuery
	user := to.User
	to.User = nil
	r.Out.URL, r.Out.Host = &to, ""
	r.Out.Header = http.Header{}
	if t := r.In.Header.Get("Content-Type"); t != "" {
		r.Out.Header.Set("Content-Type", t)
	}
	if user != nil {
		password, _ := user.Password()
		r.Out.SetBasicAuth(user.Username(), password)
	}
}

func (e *External) unreachable(w http.ResponseWriter, _ *http.Request, err error) {
	refuse(w, http.StatusBadGateway, "unavailable", fmt.Errorf("prometheus at %s does not answer: %w", e.base.Redacted(), err))
}

// ServeHTTP passes a request on. What may be asked is what Store answers.
func (e *External) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !Known(strings.TrimPrefix(r.URL.Path, Prefix)):
		refuse(w, http.StatusNotFound, "not_found", fmt.Errorf("there is nothing at %s", r.URL.Path))
		return
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		refuse(w, http.StatusMethodNotAllowed, "bad_data", errors.New("want GET or POST"))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	ctx, cancel := context.WithTimeout(r.Context(), externalTimeout)
	defer cancel()
	e.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// Instant implements metrics.PromQL.
func (e *External) Instant(ctx context.Context, query string, at time.Time) (model.Vector, error) {
	v, _, _, err := e.api.Query(ctx, query, at, promv1.WithTimeout(externalTimeout))
	if err != nil {
		return nil, fmt.Errorf("prometheus at %s: %w", e.base.Redacted(), err)
	}
	list, ok := v.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("prometheus at %s: the answer is a %v, not a vector", e.base.Redacted(), v.Type())
	}
	return list, nil
}

// Range implements metrics.PromQL.
func (e *External) Range(ctx context.Context, query string, over metrics.Range) (model.Matrix, error) {
	v, _, _, err := e.api.QueryRange(ctx, query, promv1.Range{Start: over.Start, End: over.End, Step: over.Step}, promv1.WithTimeout(externalTimeout))
	if err != nil {
		return nil, fmt.Errorf("prometheus at %s: %w", e.base.Redacted(), err)
	}
	m, ok := v.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("prometheus at %s: the answer is a %v, not a matrix", e.base.Redacted(), v.Type())
	}
	return m, nil
}

// Since implements metrics.PromQL: nobody knows.
func (e *External) Since() time.Time { return time.Time{} }
