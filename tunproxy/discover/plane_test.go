package discover_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	destapi "github.com/tunmesh/tunmesh/api/destination"
	identityapi "github.com/tunmesh/tunmesh/api/identity"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// plane is a control plane that does what a test says.
type plane struct {
	identityapi.UnimplementedIdentityServer
	destapi.UnimplementedDestinationServer
	t  *testing.T
	ca *mtlstest.CA

	mu       sync.Mutex
	addr     string
	srv      *grpc.Server
	stopped  chan struct{}
	self     spiffe.ID // who it proves to be
	life     time.Duration
	tokens   []string // that were shown to Certify
	certify  func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error)
	deny     error // of every stream
	policies *feed[*policyapi.InboundPolicy]
	trust    *feed[*identityapi.TrustBundle]
	targets  map[string]*feed[*destapi.Update]
	watches  map[string]int // streams begun, by target
	serials  map[string]bool
}

// feed is what a stream says: all of it at first, then as it grows. stall: it
// says nothing at all.
type feed[M any] struct {
	mu      sync.Mutex
	all     []M
	changed chan struct{}
}

func newFeed[M any](first ...M) *feed[M] { return &feed[M]{all: first, changed: make(chan struct{})} }

func (f *feed[M]) say(m M) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, m)
	close(f.changed)
	f.changed = make(chan struct{})
}

// set replaces what a new stream hears.
func (f *feed[M]) set(all ...M) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = all
}

func (f *feed[M]) serve(ctx context.Context, send func(M) error) error {
	for i := 0; ; {
		f.mu.Lock()
		var next []M
		if i < len(f.all) {
			next = f.all[i:]
		}
		changed := f.changed
		f.mu.Unlock()
		for _, m := range next {
			if err := send(m); err != nil {
				return err
			}
			i++
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var (
	controlID = spiffe.ID{TrustDomain: "cluster.local", Namespace: "tunmesh", ServiceAccount: "mesh-control"}
	webID     = mtlstest.ID("web")
)

func newPlane(t *testing.T) *plane {
	p := &plane{
		t: t, ca: mtlstest.NewCA(t), self: controlID, life: time.Hour,
		policies: newFeed(&policyapi.InboundPolicy{Version: 1, Default: policyapi.Default_ALL_UNAUTHENTICATED}),
		targets:  map[string]*feed[*destapi.Update]{}, watches: map[string]int{}, serials: map[string]bool{},
	}
	p.trust = newFeed(&identityapi.TrustBundle{Anchors: p.ca.Anchors(), Generation: 1})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String() // ours from now on, listening or not
	_ = l.Close()
	t.Cleanup(p.kill)
	return p
}

// start serves, again if need be.
func (p *plane) start() {
	p.t.Helper()
	var l net.Listener
	for deadline := time.Now().Add(5 * time.Second); ; {
		var err error
		if l, err = net.Listen("tcp", p.addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	c := p.ca.Issue(p.t, mtlstest.Leaf{URIs: []string{p.self.String()}})
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.Cert)
	p.srv = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: c.Chain, PrivateKey: c.Key}},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
	})))
	identityapi.RegisterIdentityServer(p.srv, p)
	destapi.RegisterDestinationServer(p.srv, p)
	policyapi.RegisterPolicyServer(p.srv, policies{p: p})
	p.stopped = make(chan struct{})
	srv, stopped := p.srv, p.stopped
	go func() { _ = srv.Serve(l); close(stopped) }()
}

// kill ends it at once, with all connections.
func (p *plane) kill() {
	if p.srv != nil {
		p.srv.Stop()
		<-p.stopped
		p.srv = nil
	}
}

// caller is the leaf that the client showed; nil without one.
func caller(ctx context.Context) *x509.Certificate {
	q, _ := peer.FromContext(ctx)
	info, _ := q.AuthInfo.(credentials.TLSInfo)
	if len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

// admit is for everything but Certify.
func (p *plane) admit(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	leaf := caller(ctx)
	if leaf == nil || len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID.String() {
		return status.Error(codes.Unauthenticated, "no certificate")
	}
	p.serials[leaf.SerialNumber.String()] = true
	return p.deny
}

func (p *plane) Certify(_ context.Context, r *identityapi.CertifyRequest) (*identityapi.CertifyResponse, error) {
	csr, err := x509.ParseCertificateRequest(r.GetCsr())
	if err != nil || csr.CheckSignature() != nil || len(csr.URIs) != 1 {
		return nil, status.Error(codes.InvalidArgument, "csr")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens = append(p.tokens, r.GetToken())
	leaf := p.ca.Sign(p.t, mtlstest.Leaf{URIs: []string{csr.URIs[0].String()}, NotAfter: time.Now().Add(p.life)}, csr.PublicKey)
	resp := &identityapi.CertifyResponse{Chain: [][]byte{leaf}, Anchors: p.ca.Anchors(), Generation: 1}
	if p.certify != nil {
		return p.certify(resp)
	}
	return resp, nil
}

func (p *plane) WatchTrust(_ *identityapi.WatchTrustRequest, s identityapi.Identity_WatchTrustServer) error {
	if err := p.admit(s.Context()); err != nil {
		return err
	}
	return p.trust.serve(s.Context(), s.Send)
}

// policies is the plane's other Watch.
type policies struct {
	policyapi.UnimplementedPolicyServer
	p *plane
}

func (q policies) Watch(r *policyapi.WatchRequest, s policyapi.Policy_WatchServer) error {
	if err := q.p.admit(s.Context()); err != nil {
		return err
	}
	if r.GetPod() != "prod/web-1" {
		return status.Error(codes.PermissionDenied, "pod "+r.GetPod())
	}
	return q.p.policies.serve(s.Context(), s.Send)
}

func (p *plane) Watch(r *destapi.WatchRequest, s destapi.Destination_WatchServer) error {
	if err := p.admit(s.Context()); err != nil {
		return err
	}
	if r.GetPod() != "prod/web-1" {
		return status.Error(codes.PermissionDenied, "pod "+r.GetPod())
	}
	p.mu.Lock()
	p.watches[r.GetTarget()]++
	f := p.feed(r.GetTarget())
	p.mu.Unlock()
	return f.serve(s.Context(), s.Send)
}

// feed is a target's; p.mu is held.
func (p *plane) feed(target string) *feed[*destapi.Update] {
	f := p.targets[target]
	if f == nil {
		f = newFeed[*destapi.Update]()
		p.targets[target] = f
	}
	return f
}

func (p *plane) target(addr string) *feed[*destapi.Update] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.feed(addr)
}

func (p *plane) begun(addr string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watches[addr]
}

// sidecar is the client's side.
type sidecar struct {
	t       *testing.T
	store   *mtls.Store
	client  *discover.Client
	loop    *aiotest.Loop
	token   string
	metrics *telemetry.Metrics
	stop    func()
}

// refused is how many updates were refused, as metrics tell.
func (s *sidecar) refused() (n uint64) {
	s.t.Helper()
	_, after, ok := strings.Cut(string(s.metrics.Registry.Text()), "\ncontrol_updates_refused_total ")
	if _, err := fmt.Sscan(after, &n); !ok || err != nil {
		s.t.Fatalf("no control_updates_refused_total: %v", err)
	}
	return n
}

func jwt(sub, extra string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none"}`)) + "." + enc(fmt.Appendf(nil, `{"sub":%q,"x":%q}`, sub, extra)) + "." + enc([]byte("signature"))
}

// start runs a client whose certificate and policy come from p.
func start(t *testing.T, p *plane, change func(*discover.Config)) *sidecar {
	t.Helper()
	s := &sidecar{t: t, store: mtls.NewStore(mtls.Config{}), loop: aiotest.NewLoop(), token: filepath.Join(t.TempDir(), "token"), metrics: telemetry.New(telemetry.Config{}, "test")}
	if err := s.store.Update(p.ca.Anchors(), nil); err != nil {
		t.Fatal(err)
	}
	s.writeToken("first")
	cfg := discover.Config{
		Pod: "prod/web-1", TokenPath: s.token, ControlID: controlID, ControlAddr: "10.0.0.9:8086", Store: s.store,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: s.metrics,
		Dial:          func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", p.addr) },
		LookupTimeout: 20 * time.Second, RenewJitter: 10 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.client, err = discover.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.client.Run(ctx); err != context.Canceled {
			t.Errorf("Run: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(s.stop)
	return s
}

func (s *sidecar) writeToken(extra string) {
	s.t.Helper()
	if err := os.WriteFile(s.token, []byte(jwt("system:serviceaccount:prod:web", extra)+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func (s *sidecar) ready() {
	s.t.Helper()
	eventually(s.t, "ready", func() bool { return s.client.Ready() == nil })
}

// lookup asks and waits for the answer.
func (s *sidecar) lookup(addr string) (*discover.Target, error) {
	s.t.Helper()
	var target *discover.Target
	var err error
	over := false
	s.client.Lookup(s.loop, addrPort(addr), func(t *discover.Target, e error) { target, err, over = t, e, true })
	s.loop.RunUntil(s.t, 10*time.Second, func() bool { return over })
	return target, err
}
