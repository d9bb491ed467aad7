package extension

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/query"
)

// pki is an authority, and a certificate that it signed.
type pki struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t *testing.T, name string, by *pki, usage ...x509.ExtKeyUsage) *pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: by == nil, BasicConstraintsValid: true, ExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if by == nil {
		tmpl.KeyUsage, by = x509.KeyUsageCertSign, &pki{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pki{cert, key}
}

func (p *pki) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}))
}

func (p *pki) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.cert.Raw}, PrivateKey: p.key}
}

// backend answers with what it was asked.
type backend struct {
	mu     sync.Mutex
	asked  []string
	events chan *api.TapMessage
	err    error
}

func (b *backend) note(what string, m any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, fmt.Sprintf("%s %v", what, m))
	return b.err
}

func (b *backend) last() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.asked) == 0 {
		return ""
	}
	return strings.Join(strings.Fields(b.asked[len(b.asked)-1]), " ")
}

func (b *backend) Stat(_ context.Context, req *api.StatRequest) (*api.StatResponse, error) {
	return &api.StatResponse{Rows: []*api.StatRow{{Name: "web", Rps: 1.5}}}, b.note("stat", req)
}

func (b *backend) Endpoints(_ context.Context, req *api.EndpointsRequest) (*api.EndpointsResponse, error) {
	return &api.EndpointsResponse{}, b.note("endpoints", req)
}

func (b *backend) Edges(_ context.Context, req *api.EdgesRequest) (*api.EdgesResponse, error) {
	return &api.EdgesResponse{}, b.note("edges", req)
}

func (b *backend) Routes(_ context.Context, req *api.RoutesRequest) (*api.RoutesResponse, error) {
	return &api.RoutesResponse{}, b.note("routes", req)
}

func (b *backend) Record(ctx context.Context, req *api.CaptureRequest, send func(*tapapi.Packets) error) error {
	if err := b.note("pcap", req); err != nil {
		return err
	}
	return send(&tapapi.Packets{Connections: 7})
}

func (b *backend) Connections(_ context.Context, req *api.ConnectionsRequest) (*api.ConnectionsResponse, error) {
	return &api.ConnectionsResponse{Total: 3}, b.note("connections", req)
}

func (b *backend) Taps(_ context.Context, req *api.TapsRequest) (*api.TapsResponse, error) {
	return &api.TapsResponse{}, b.note("taps", req)
}

func (b *backend) Why(_ context.Context, req *api.WhyRequest) (*api.WhyResponse, error) {
	return &api.WhyResponse{Summary: "It would work.", Namespaces: []string{req.GetFrom().GetNamespace(), "shop"}}, b.note("why", req)
}

func (b *backend) Policy(_ context.Context, req *api.PolicyRequest) (*api.PolicyResponse, error) {
	return &api.PolicyResponse{}, b.note("policy", req)
}

func (b *backend) Health(_ context.Context, req *api.HealthRequest) (*api.HealthResponse, error) {
	return &api.HealthResponse{Version: "v1"}, b.note("health", req)
}

func (b *backend) Series(_ context.Context, r *api.StatRequest, step time.Duration) (*query.Series, error) {
	if err := b.note("series "+step.String(), r); err != nil {
		return nil, err
	}
	return &query.Series{Step: int64(step / time.Second), Rows: []query.SeriesRow{}}, nil
}

func (b *backend) Watch(ctx context.Context, req *api.TapRequest, send func(*api.TapMessage) error) error {
	if err := b.note("tap", req); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m, ok := <-b.events:
			if !ok {
				return status.Error(codes.Unavailable, "the replicas are gone")
			}
			if err := send(m); err != nil {
				return err
			}
		}
	}
}

// files is a console that says which file it was asked for.
type files struct{}

func (files) Serve(w http.ResponseWriter, _ *http.Request, name string) {
	_, _ = io.WriteString(w, `{"file":"`+name+`"}`)
}

// promQL says what it was asked.
type promQL struct{ *backend }

func (p promQL) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = p.note("promql", r.Method+" "+r.URL.Path+" "+r.URL.RawQuery)
	_, _ = io.WriteString(w, `{"status":"success"}`)
}

// rig is a server whose API server is us.
type rig struct {
	t       *testing.T
	backend *backend
	server  *Server
	url     string
	roots   *x509.CertPool
	front   *pki
	client  *http.Client

	mu   sync.Mutex
	may  func(Attributes) (bool, error)
	seen []Attributes
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, backend: &backend{events: make(chan *api.TapMessage, 4)}, may: func(Attributes) (bool, error) { return true, nil }}
	var err error
	r.server, err = New(Config{Backend: r.backend, Console: files{}, PromQL: promQL{r.backend}, Authenticate: r.bearer, Authorize: func(_ context.Context, a Attributes) (bool, string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen = append(r.seen, a)
		ok, err := r.may(a)
		return ok, "", err
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(r.server)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	r.url = s.URL
	ca := newPKI(t, "front-proxy-ca", nil)
	r.server.SetFront(map[string]string{
		"requestheader-client-ca-file": ca.pem(), "requestheader-allowed-names": `["aggregator"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-group-headers": `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	})
	r.front = ca
	r.roots = x509.NewCertPool()
	r.roots.AddCert(s.Certificate())
	r.client = r.as(newPKI(t, "aggregator", ca, x509.ExtKeyUsageClientAuth))
	return r
}

// bearer knows one token.
func (r *rig) bearer(_ context.Context, token string) (User, error) {
	if token != "grafana's" {
		return User{}, status.Error(codes.Unauthenticated, "the bearer token is nobody's")
	}
	return User{Name: "system:serviceaccount:monitoring:grafana"}, nil
}

func (r *rig) as(p *pki) *http.Client {
	cfg := &tls.Config{RootCAs: r.roots}
	if p != nil {
		cfg.Certificates = []tls.Certificate{p.tls()}
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func (r *rig) do(c *http.Client, method, path, body string, headers ...string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func (r *rig) allow(f func(Attributes) (bool, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.may, r.seen = f, nil
}

func (r *rig) attributes() []Attributes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

const ann = "X-Remote-User"

// TestWhoAsks: only what holds the API server's certificate names a user.
func TestWhoAsks(t *testing.T) {
	r := newRig(t)
	stranger := newPKI(t, "front-proxy-ca", nil)
	for name, c := range map[string]*http.Client{
		"no certificate":      r.as(nil),
		"another authority":   r.as(newPKI(t, "aggregator", stranger, x509.ExtKeyUsageClientAuth)),
		"another name":        r.as(newPKI(t, "kubelet", r.front, x509.ExtKeyUsageClientAuth)),
		"a server's":          r.as(newPKI(t, "aggregator", r.front, x509.ExtKeyUsageServerAuth)),
		"no user is told":     nil,
		"discovery, unproved": r.as(nil),
	} {
		t.Run(name, func(t *testing.T) {
			path, headers := Base+"/health", []string{ann, "ann"}
			if c == nil {
				c, headers = r.client, nil
			}
			if strings.HasPrefix(name, "discovery") {
				path = Base
			}
			code, text := r.do(c, "GET", path, "", headers...)
			var s metav1.Status
			if err := json.Unmarshal([]byte(text), &s); err != nil || code != 401 || s.Code != 401 || s.Kind != "Status" || s.Message == "" {
				t.Errorf("%d %s %v", code, text, err)
			}
		})
	}
	if got := r.backend.last(); got != "" {
		t.Errorf("the backend was asked: %s", got)
	}
	code, _ := r.do(r.client, "GET", Base+"/health", "", ann, "ann", "X-Remote-Group", "dev", "X-Remote-Group", "ops", "X-Remote-Extra-Scopes%2fx", "a")
	if code != 200 {
		t.Fatal(code)
	}
	a := r.attributes()
	if u := a[len(a)-1].User; u.Name != "ann" || len(u.Groups) != 2 || len(u.Extra["scopes/x"]) != 1 {
		t.Errorf("%+v", u)
	}
	if asked, denied := r.server.Counts(); asked != 7 || denied != 6 {
		t.Errorf("%d asked, %d denied", asked, denied)
	}
}

// TestPaths: what a path means, and what is asked for it.
func TestPaths(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		method, path, body string
		code               int
		asked              string // of the backend
		right              string // verb namespace resource/sub name
	}{
		{"GET", "/health", "", 200, "health", "get  health/ "},
		{"GET", "/console/index.html", "", 200, "", "get  console/ index.html"},
		{"GET", "/console/", "", 404, "", ""},
		{"GET", "/console/a/b.js", "", 404, "", ""},
		{"GET", "/namespaces/emojivoto/deployments/web/stat?window=30", "", 200, `stat resource:{kind:"deployment" name:"web" namespace:"emojivoto"} window_seconds:30`, "get emojivoto deployments/stat web"},
		{"GET", "/namespaces/-/pods/-/stat?labelSelector=app%3Dx", "", 200, `stat resource:{kind:"pod" all_namespaces:true label_selector:"app=x"}`, "get  pods/stat "},
		{"GET", "/namespaces/a/namespaces/a/stat", "", 200, `stat resource:{kind:"namespace" name:"a"}`, "get a namespaces/stat a"},
		{"GET", "/namespaces/-/namespaces/-/stat", "", 200, `stat resource:{kind:"namespace"}`, "get  namespaces/stat "},
		{"GET", "/namespaces/a/namespaces/-/stat", "", 200, `stat resource:{kind:"namespace" name:"a"}`, "get a namespaces/stat "},
		{"GET", "/namespaces/a/deployments/web/stat?to=services/b/-", "", 200, `stat resource:{kind:"deployment" name:"web" namespace:"a"} to:{kind:"service" namespace:"b"}`, "get b services/stat "},
		{"GET", "/namespaces/a/deployments/-/series?window=3600&step=30&from=pods/b/c", "", 200, `series 30s resource:{kind:"deployment" namespace:"a"} window_seconds:3600 from:{kind:"pod" name:"c" namespace:"b"}`, "get b pods/stat c"},
		{"GET", "/namespaces/a/deployments/web/series", "", 200, `series 0s resource:{kind:"deployment" name:"web" namespace:"a"}`, "get a deployments/series web"},
		{"GET", "/namespaces/a/deployments/web/series?step=0", "", 400, "", ""},
		{"GET", "/namespaces/a/deployments/web/stat?step=10", "", 400, "", ""},
		{"GET", "/prometheus/api/v1/query?query=up", "", 200, "promql GET /api/v1/query query=up", "get  prometheus/v1 api"},
		{"POST", "/prometheus/api/v1/query_range", "query=up", 200, "promql POST /api/v1/query_range", "get  prometheus/v1 api"},
		{"GET", "/prometheus/api/v1/label/job/values", "", 200, "promql GET /api/v1/label/job/values", "get  prometheus/v1 api"},
		{"GET", "/prometheus/api/v1/admin/tsdb/snapshot", "", 404, "", ""},
		{"GET", "/prometheus/api/v1/", "", 404, "", ""},
		{"GET", "/prometheus/api/v1/../query", "", 404, "", ""},
		{"PUT", "/prometheus/api/v1/query", "", 405, "", ""},
		{"GET", "/namespaces/a/services/web/endpoints?port=80", "", 200, `endpoints authority:"web.a:80"`, "get a services/endpoints web"},
		{"GET", "/namespaces/a/pods/p/policy?port=80", "", 200, `policy resource:{kind:"pod" name:"p" namespace:"a"} port:80`, "get a pods/policy p"},
		{"GET", "/namespaces/a/services/web/policy?port=80", "", 200, `policy resource:{kind:"service" name:"web" namespace:"a"} port:80`, "get a services/policy web"},
		{"GET", "/namespaces/a/pods/p/policy", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/policy?port=65536", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/-/policy?port=80", "", 404, "", ""},
		{"GET", "/namespaces/a/deployments/d/policy?port=80", "", 404, "", ""},
		{"POST", "/watch/namespaces/a/pods/p/tap", "", 200, `tap resource:{kind:"pod" name:"p" namespace:"a"}`, "watch a pods/tap p"},
		{"POST", "/watch/namespaces/a/pods/p/tap", `{"headers":true,"maxRps":7}`, 200, `tap resource:{kind:"pod" name:"p" namespace:"a"} max_rps:7 headers:true`, "watch a pods/tap/headers p"},
		{"POST", "/watch/namespaces/a/pods/p/tap", `{"resource":{"kind":"pod","namespace":"b"}}`, 400, "", ""},
		{"POST", "/watch/namespaces/a/pods/p/tap", `{"nonsense":1}`, 400, "", ""},
		{"POST", "/watch/namespaces/a/pods/p/tap", strings.Repeat(" ", maxBody+1), 400, "", ""},
		{"GET", "/watch/namespaces/a/pods/p/tap", "", 405, "", ""},
		{"POST", "/namespaces/a/pods/p/stat", "", 405, "", ""},
		{"POST", "", "", 405, "", ""},
		{"GET", "/namespaces/a/pods/p/tap", "", 200, `taps resource:{kind:"pod" name:"p" namespace:"a"}`, "get a pods/tap p"},
		{"POST", "/namespaces/a/pods/p/tap", "", 405, "", ""},
		{"POST", "/watch/namespaces/a/pods/-/pcap", "", 404, "", ""},
		{"POST", "/watch/namespaces/a/deployments/d/pcap", "", 404, "", ""},
		{"GET", "/namespaces/a/pods/p/pcap", "", 404, "", ""},
		{"GET", "/namespaces/a/pods/p/connections?limit=7", "", 200, `connections namespace:"a" pod:"p" limit:7`, "get a pods/connections p"},
		{"GET", "/namespaces/a/pods/p/connections", "", 200, `connections namespace:"a" pod:"p"`, "get a pods/connections p"},
		{"GET", "/namespaces/a/pods/p/connections?limit=0", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/connections?port=80", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/-/connections", "", 404, "", ""},
		{"GET", "/namespaces/-/pods/p/connections", "", 404, "", ""},
		{"GET", "/namespaces/a/services/p/connections", "", 404, "", ""},
		{"POST", "/namespaces/a/pods/p/connections", "", 405, "", ""},
		{"GET", "/namespaces/a/deployments/-/edges?window=30&labelSelector=x", "", 200, `edges resource:{kind:"deployment" namespace:"a" label_selector:"x"} window_seconds:30`, "get a deployments/edges "},
		{"GET", "/namespaces/-/namespaces/-/edges", "", 200, `edges resource:{kind:"namespace"}`, "get  namespaces/edges "},
		{"GET", "/namespaces/a/pods/p/edges?window=x", "", 400, "", ""},
		{"GET", "/namespaces/a/deployments/d/routes?direction=outbound", "", 200, `routes resource:{kind:"deployment" name:"d" namespace:"a"} outbound:true`, "get a deployments/routes d"},
		{"GET", "/namespaces/a/jobs/d/routes?direction=inbound", "", 200, `routes resource:{kind:"job" name:"d" namespace:"a"}`, "get a jobs/routes d"},
		{"GET", "/namespaces/a/cronjobs/-/stat", "", 200, `stat resource:{kind:"cronjob" namespace:"a"}`, "get a cronjobs/stat "},
		{"GET", "/namespaces/a/deployments/d/routes", "", 400, "", ""},
		{"GET", "/namespaces/a/deployments/d/routes?direction=inbound&window=x", "", 400, "", ""},
		{"GET", "/namespaces/a/authorities/h:80/stat", "", 200, `stat resource:{kind:"authority" name:"h:80" namespace:"a"}`, "get a authorities/stat h:80"},
		{"POST", "/why", `{"from":{"kind":"pod","namespace":"a","name":"p"},"toHost":"web.shop","port":80}`, 200, `why from:{kind:"pod" name:"p" namespace:"a"} to_host:"web.shop" port:80`, "get shop pods/stat "},
		{"POST", "/why", `{"nonsense":1}`, 400, "", ""},
		{"GET", "/why", "", 405, "", ""},
		{"POST", "/why?port=80", "", 400, "", ""},
		{"GET", "/watch/namespaces/a/pods/p/stat", "", 404, "", ""},
		{"GET", "/namespaces/a/namespaces/b/stat", "", 404, "", ""},
		{"GET", "/namespaces/a/secrets/b/stat", "", 404, "", ""},
		{"GET", "/namespaces/a/services/-/endpoints?port=1", "", 404, "", ""},
		{"GET", "/namespaces//pods/p/stat", "", 404, "", ""},
		{"GET", "/namespaces/a/pods/p/stat/more", "", 404, "", ""},
		{"GET", "/namespaces/a/pods/p/stat?windw=3", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/stat?window=3&window=4", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/stat?window=-1", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/stat?to=pods", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/stat?to=namespaces/a/b", "", 400, "", ""},
		{"GET", "/namespaces/a/pods/p/stat?%zz", "", 400, "", ""},
	} {
		t.Run(c.method+" "+c.path+" "+c.body[:min(len(c.body), 20)], func(t *testing.T) {
			r.backend.mu.Lock()
			r.backend.asked = nil
			r.backend.events = make(chan *api.TapMessage)
			close(r.backend.events)
			r.backend.mu.Unlock()
			r.allow(func(Attributes) (bool, error) { return true, nil })
			code, text := r.do(r.client, c.method, Base+c.path, c.body, ann, "ann")
			if c.code == 200 && strings.HasPrefix(c.path, "/watch") {
				c.code = 503 // the backend's end, before anything was sent
			}
			if code != c.code {
				t.Fatalf("%d %s", code, text)
			}
			if got := strings.TrimSpace(r.backend.last()); got != c.asked {
				t.Errorf("the backend was asked\n%s, want\n%s", got, c.asked)
			}
			if a := r.attributes(); c.right != "" {
				l := a[len(a)-1]
				if got := fmt.Sprintf("%s %s %s/%s %s", l.Verb, l.Namespace, l.Resource, l.Subresource, l.Name); got != c.right {
					t.Errorf("right asked for: %q, want %q", got, c.right)
				}
			}
		})
	}
}

// TestRefused: who may not is told what he would need, and the backend is not asked.
func TestRefused(t *testing.T) {
	r := newRig(t)
	only := func(sub string) func(Attributes) (bool, error) {
		return func(a Attributes) (bool, error) { return a.Namespace == "a" && a.Subresource == sub, nil }
	}
	for _, c := range []struct {
		may                func(Attributes) (bool, error)
		method, path, body string
		code               int
		says               string
	}{
		{only("tap"), "GET", "/namespaces/a/pods/p/stat", "", 403, `ann may not get pods/stat in namespace a: a role with apiGroups ["view.tunmesh.io"], resources ["pods/stat"], verbs ["get"]`},
		{only("stat"), "GET", "/namespaces/-/pods/p/stat", "", 403, "in all namespaces"},
		{only("stat"), "GET", "/namespaces/a/pods/p/stat?to=services/b/x", "", 403, "services/stat in namespace b"},
		{only("stat"), "GET", "/namespaces/a/pods/p/stat?from=deployments/-/-", "", 403, "deployments/stat in all namespaces"},
		{only("tap"), "POST", "/watch/namespaces/a/pods/p/tap", `{"headers":true}`, 403, "pods/tap/headers"},
		{only("stat"), "GET", "/namespaces/a/pods/p/series", "", 403, "pods/series in namespace a"},
		{only("series"), "GET", "/namespaces/a/pods/p/series?to=services/b/x", "", 403, "services/stat in namespace b"},
		{only("stat"), "GET", "/prometheus/api/v1/query?query=up", "", 403, `may not get prometheus/v1 of the mesh: a role with apiGroups ["view.tunmesh.io"], resources ["prometheus/v1"], verbs ["get"]`},
		{only("stat"), "GET", "/health", "", 403, "get health of the mesh"},
		{func(Attributes) (bool, error) { return false, errors.New("the API server is away") }, "GET", "/health", "", 503, "the API server is away"},
	} {
		t.Run(c.path, func(t *testing.T) {
			r.allow(c.may)
			code, text := r.do(r.client, c.method, Base+c.path, c.body, ann, "ann")
			var s metav1.Status
			if err := json.Unmarshal([]byte(text), &s); err != nil || code != c.code || !strings.Contains(s.Message, c.says) {
				t.Errorf("%d %s %v", code, text, err)
			}
		})
	}
	if got := r.backend.last(); got != "" {
		t.Errorf("the backend was asked: %s", got)
	}
}

// TestBearer: who shows a token is asked of the same rights; who shows a certificate
// as well is not believed for the token.
func TestBearer(t *testing.T) {
	r := newRig(t)
	path := Base + "/prometheus/api/v1/query?query=up"
	for name, c := range map[string]struct {
		client *http.Client
		token  string
		code   int
	}{
		"its token":                     {r.as(nil), "Bearer grafana's", 200},
		"another":                       {r.as(nil), "Bearer other", 401},
		"no bearer":                     {r.as(nil), "Basic Z3JhZmFuYSdz", 401},
		"a token and a certificate":     {r.as(newPKI(t, "x", nil, x509.ExtKeyUsageClientAuth)), "Bearer grafana's", 401},
		"a token and the name of a god": {r.as(nil), "Bearer grafana's", 200},
	} {
		t.Run(name, func(t *testing.T) {
			r.allow(func(a Attributes) (bool, error) {
				return a.User.Name == "system:serviceaccount:monitoring:grafana", nil
			})
			if code, text := r.do(c.client, "GET", path, "", "Authorization", c.token, ann, "system:admin", "X-Remote-Group", "system:masters"); code != c.code {
				t.Errorf("%d %s", code, text)
			}
		})
	}
	r.allow(func(Attributes) (bool, error) { return false, nil })
	if code, text := r.do(r.as(nil), "GET", path, "", "Authorization", "Bearer grafana's"); code != 403 || !strings.Contains(text, "system:serviceaccount:monitoring:grafana may not get prometheus/v1") {
		t.Errorf("%d %s", code, text)
	}
}

// TestDiscovery: what kubectl and the API server's own check of us read.
func TestDiscovery(t *testing.T) {
	r := newRig(t)
	r.allow(func(Attributes) (bool, error) { return false, nil })
	code, text := r.do(r.client, "GET", Base, "", ann, "system:kube-aggregator")
	var list metav1.APIResourceList
	if err := json.Unmarshal([]byte(text), &list); err != nil || code != 200 || list.GroupVersion != "view.tunmesh.io/v1alpha1" || len(list.APIResources) != 1+1+1+1+5*len(resources())+5 {
		t.Errorf("%d %s %v", code, text, err)
	}
	for _, path := range []string{"/apis", "/apis/" + Group} {
		if code, text := r.do(r.client, "GET", path, "", ann, "x"); code != 200 || !strings.Contains(text, Group+"/"+Version) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// TestTap: events come as they happen, and the end says why.
func TestTap(t *testing.T) {
	r := newRig(t)
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+Base+"/watch/namespaces/a/pods/p/tap", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(ann, "ann")
	r.backend.events <- &api.TapMessage{}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	want := func(part string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(strings.ReplaceAll(lines.Text(), " ", ""), part) {
			t.Fatalf("%q %v, want %s", lines.Text(), lines.Err(), part)
		}
	}
	want("{}")
	r.backend.events <- &api.TapMessage{Message: &api.TapMessage_Event{Event: &tapapi.Event{Stream: 7}}}
	want(`"stream":"7"`)
	r.backend.events <- &api.TapMessage{Message: &api.TapMessage_Lost{Lost: 3}}
	want(`"lost":"3"`)
	close(r.backend.events)
	want("thereplicasaregone")
	if lines.Scan() {
		t.Errorf("more: %q", lines.Text())
	}
}

// TestFront: what of the API server's own ConfigMap cannot be used leaves the last
// one in force.
func TestFront(t *testing.T) {
	r := newRig(t)
	for name, data := range map[string]map[string]string{
		"empty":          {},
		"no certificate": {"requestheader-client-ca-file": "x", "requestheader-username-headers": `["X-Remote-User"]`},
		"no user header": {"requestheader-client-ca-file": r.front.pem()},
		"no JSON":        {"requestheader-client-ca-file": r.front.pem(), "requestheader-username-headers": "X-Remote-User"},
		"bad bundle":     {"requestheader-client-ca-file": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))},
	} {
		if _, err := ParseFront(data); err == nil {
			t.Errorf("%s: no error", name)
		}
		r.server.SetFront(data)
		if code, text := r.do(r.client, "GET", Base+"/health", "", ann, "ann"); code != 200 {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	fresh, err := New(Config{Backend: r.backend, Console: files{}, Authorize: r.server.cfg.Authorize})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	fresh.ServeHTTP(w, httptest.NewRequest("GET", Base, nil))
	if w.Code != 401 || fresh.Ready() == nil || r.server.Ready() != nil {
		t.Errorf("before anything is known: %d, ready %v; after: %v", w.Code, fresh.Ready(), r.server.Ready())
	}
}

// FuzzParse: a path is refused or means one question that its own parts spell.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"health", "namespaces/a/pods/b/stat", "watch/namespaces/-/deployments/-/tap", "namespaces/a/services/b/endpoints", "watch//", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, ok := parse(s)
		if !ok || q.subresource == "" {
			return
		}
		all := func(s string) string {
			if s == "" {
				return All
			}
			return s
		}
		again := "namespaces/" + all(q.namespace) + "/" + q.resource + "/" + all(q.name) + "/" + q.subresource
		if q.verb == "watch" {
			again = "watch/" + again
		}
		if strings.TrimPrefix(s, "/") != again {
			t.Errorf("%q means %+v, which is %q", s, q, again)
		}
	})
}

// TestLocal: where only root can connect, nobody else is asked who may what.
func TestLocal(t *testing.T) {
	b := &backend{}
	if _, err := New(Config{Backend: b, Console: files{}}); err == nil {
		t.Error("neither local nor with an authorizer, and taken")
	}
	if _, err := New(Config{Backend: b, Console: files{}, Local: true, Authorize: func(context.Context, Attributes) (bool, string, error) { return true, "", nil }}); err == nil {
		t.Error("local and with an authorizer, and taken")
	}
	s, err := New(Config{Backend: b, Console: files{}, Local: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{"/health": `"v1"`, "/console/x.js": "x.js", "/namespaces/-/pods/-/stat": `"web"`} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", Base+path, nil))
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestWhyTellsOnlyOfWhatMayBeSeen: the answer names the other end's namespace,
// whose figures not everybody may see.
func TestWhyTellsOnlyOfWhatMayBeSeen(t *testing.T) {
	r := newRig(t)
	body := `{"from":{"kind":"pod","namespace":"a","name":"p"},"toHost":"web.shop"}`
	for ns, code := range map[string]int{"": 200, "shop": 403, "a": 403} {
		r.allow(func(a Attributes) (bool, error) { return a.Resource == "why" || a.Namespace != ns, nil })
		got, text := r.do(r.client, "POST", Base+"/why", body, ann, "ann")
		if got != code || strings.Contains(text, "would work") != (code == 200) {
			t.Errorf("without the right to %q: %d %s", ns, got, text)
		}
	}
	if code, _ := r.do(r.client, "POST", Base+"/why", body+strings.Repeat(" ", maxBody), ann, "ann"); code != 400 {
		t.Errorf("a body too long: %d", code)
	}
}

// TestCapture: packets are for those who may see them, and each capture is told of.
func TestCapture(t *testing.T) {
	r := newRig(t)
	var told []string
	r.server.cfg.Captured = func(user, namespace, pod string) { told = append(told, user+" "+namespace+"/"+pod) }
	code, text := r.do(r.client, "POST", Base+"/watch/namespaces/a/pods/p/pcap", `{"snapLength":96}`, ann, "ann")
	if code != 200 || !strings.Contains(text, `"connections":7`) && !strings.Contains(text, `"connections": 7`) {
		t.Errorf("%d %s", code, text)
	}
	if got := r.backend.last(); got != `pcap namespace:"a" pod:"p" snap_length:96` {
		t.Error(got)
	}
	if a := r.attributes(); a[len(a)-1].Subresource != "pcap" || a[len(a)-1].Verb != "watch" {
		t.Errorf("%+v", a)
	}
	if fmt.Sprint(told) != "[ann a/p]" {
		t.Errorf("told: %v", told)
	}
	r.allow(func(a Attributes) (bool, error) { return a.Subresource != "pcap", nil })
	for body, want := range map[string]int{"": 403, `{"pod":"q"}`: 403} {
		if code, text := r.do(r.client, "POST", Base+"/watch/namespaces/a/pods/p/pcap", body, ann, "ann"); code != want {
			t.Errorf("%d %s", code, text)
		}
	}
	r.allow(func(Attributes) (bool, error) { return true, nil })
	if code, text := r.do(r.client, "POST", Base+"/watch/namespaces/a/pods/p/pcap", `{"pod":"q"}`, ann, "ann"); code != 400 {
		t.Errorf("another pod than the path's: %d %s", code, text)
	}
	if len(told) != 1 {
		t.Errorf("told: %v", told)
	}
}
