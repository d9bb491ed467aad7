package replicas

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	api "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// mesh is an authority and its replicas.
type mesh struct {
	t           *testing.T
	cert        *x509.Certificate
	before      *x509.Certificate // another anchor that replicas believe, nil: none
	key         *ecdsa.PrivateKey
	dir         string
	view, other spiffe.ID
	refuse      atomic.Bool
	issued      atomic.Int64
	lifetime    time.Duration

	mu sync.Mutex
	at []netip.AddrPort
}

func (m *mesh) issue(key any, id string) []byte {
	uri, err := url.Parse(id)
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(m.lifetime), URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, m.cert, key, m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	return der
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{
		t: t, dir: t.TempDir(), lifetime: time.Hour,
		view:  spiffe.ID{TrustDomain: "cluster.local", Namespace: "tunmesh", ServiceAccount: "mesh-view"},
		other: spiffe.ID{TrustDomain: "cluster.local", Namespace: "tunmesh", ServiceAccount: "mesh-control"},
	}
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "anchor"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, m.key.Public(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	if m.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	m.write("anchors", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	m.write("token", "a.token\n")
	return m
}

func (m *mesh) write(name, text string) {
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) member(address string) *Member {
	return NewMember(MemberConfig{
		Address: address, ID: m.view, Control: m.other, TokenFile: filepath.Join(m.dir, "token"),
		AnchorsFile: filepath.Join(m.dir, "anchors"), Logger: slog.New(slog.DiscardHandler),
	})
}

func (m *mesh) list() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]netip.AddrPort(nil), m.at...)
}

func (m *mesh) set(at ...netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = at
}

// replica is one process of the control plane.
type replica struct {
	identityapi.UnimplementedIdentityServer
	api.UnimplementedQueryServer
	m      *mesh
	at     netip.AddrPort
	server *grpc.Server
	events chan *api.TapMessage
	err    error
	health *api.HealthResponse
	taps   atomic.Int64
	asked  atomic.Int64
	trust  atomic.Pointer[identityapi.TrustBundle] // nil: nobody knows yet
}

// replica starts one that serves with the identity id.
func (m *mesh) replica(id spiffe.ID) *replica {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(m.cert)
	if m.before != nil {
		pool.AddCert(m.before)
	}
	r := &replica{m: m, events: make(chan *api.TapMessage, 16), health: &api.HealthResponse{}}
	r.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{m.issue(key.Public(), id.String())}, PrivateKey: key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	})))
	identityapi.RegisterIdentityServer(r.server, r)
	api.RegisterQueryServer(r.server, r)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	r.at = netip.MustParseAddrPort(l.Addr().String())
	go func() { _ = r.server.Serve(l) }()
	m.t.Cleanup(r.server.Stop)
	return r
}

func (r *replica) Certify(_ context.Context, req *identityapi.CertifyRequest) (*identityapi.CertifyResponse, error) {
	if r.m.refuse.Load() || req.GetToken() != "a.token" {
		return nil, status.Error(codes.Unauthenticated, "no")
	}
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil || csr.CheckSignature() != nil || len(csr.URIs) != 1 {
		return nil, status.Error(codes.InvalidArgument, "CSR")
	}
	r.m.issued.Add(1)
	return &identityapi.CertifyResponse{Chain: [][]byte{r.m.issue(csr.PublicKey, csr.URIs[0].String())}, Generation: r.trust.Load().GetGeneration()}, nil
}

func (r *replica) Trust(context.Context, *identityapi.TrustRequest) (*identityapi.TrustBundle, error) {
	if t := r.trust.Load(); t != nil {
		return t, nil
	}
	return nil, status.Error(codes.Unavailable, "not yet")
}

func (r *replica) Health(context.Context, *api.HealthRequest) (*api.HealthResponse, error) {
	return r.health, r.err
}

func (r *replica) Policy(_ context.Context, req *api.PolicyRequest) (*api.PolicyResponse, error) {
	r.asked.Add(1)
	return &api.PolicyResponse{Policy: &api.PolicyResponse_Inbound{Inbound: &policyapi.InboundPolicy{Version: uint64(req.GetPort())}}}, r.err
}

func (r *replica) Tap(_ *api.TapRequest, s api.Query_TapServer) error {
	r.taps.Add(1)
	defer r.taps.Add(-1)
	if r.err != nil {
		return r.err
	}
	for {
		select {
		case m, ok := <-r.events:
			if !ok {
				return status.Error(codes.Unavailable, "stopping")
			}
			if err := s.Send(m); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}

// certified is a member that has its certificate.
func (m *mesh) certified(by *replica) *Member {
	m.t.Helper()
	mb := m.member(by.at.String())
	m.run(mb)
	return mb
}

// run runs a member until the test ends, and waits for its certificate.
func (m *mesh) run(mb *Member) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan error, 1)
	go func() { done <- mb.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Error(err)
		}
	})
	eventually(m.t, "certified", func() bool { return mb.Ready() == nil })
}

func TestMember(t *testing.T) {
	m := newMesh(t)
	m.lifetime = 3 * time.Second // renewed after two thirds of it
	m.refuse.Store(true)
	r := m.replica(m.other)
	mb := m.member(r.at.String())
	if _, err := mb.renew(t.Context()); status.Code(errors.Unwrap(err)) != codes.Unauthenticated {
		t.Errorf("refused: %v", err)
	}
	if mb.Ready() == nil || !mb.Expires().IsZero() {
		t.Error("ready without a certificate")
	}
	m.refuse.Store(false)
	mb = m.certified(r)
	eventually(t, "renewed", func() bool { return m.issued.Load() >= 2 })

	impostor := m.replica(m.view)
	if _, err := m.member(impostor.at.String()).renew(t.Context()); err == nil || !strings.Contains(err.Error(), "want spiffe://cluster.local/ns/tunmesh/sa/mesh-control") {
		t.Errorf("another's identity: %v", err)
	}
	for _, name := range []string{"token", "anchors"} {
		old, err := os.ReadFile(filepath.Join(m.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		m.write(name, strings.Repeat("x", maxTokenSize+1))
		if _, err := mb.renew(t.Context()); err == nil {
			t.Errorf("a bad %s file: no error", name)
		}
		m.write(name, string(old))
	}
	if _, err := mb.renew(t.Context()); err != nil {
		t.Errorf("the files are good again: %v", err)
	}
}

// TestRotation: what the control plane says of trust anchors holds before the file
// has it, and a certificate of the authority before is renewed at once.
func TestRotation(t *testing.T) {
	m, next := newMesh(t), newMesh(t)
	next.before = m.cert
	r, moved := m.replica(m.other), next.replica(next.other)
	mb := m.member(r.at.String())
	mb.again = 5 * time.Millisecond
	m.run(mb)
	set := NewSet(mb, m.list, slog.New(slog.DiscardHandler))
	m.set(moved.at)
	believed := func() bool { return len(set.Health(t.Context())) == 1 }
	if believed() {
		t.Fatal("a replica of an authority that nobody has named is believed")
	}
	r.trust.Store(&identityapi.TrustBundle{Anchors: [][]byte{m.cert.Raw, next.cert.Raw}, Generation: 2})
	eventually(t, "renewed for another generation", func() bool { return m.issued.Load() == 2 })
	if !believed() {
		t.Error("a replica of the anchor that was named last is not believed")
	}
	// Another file is newer than what was said before; who has the old anchor's
	// certificate is believed no longer, whatever it says.
	raw, err := os.ReadFile(filepath.Join(newMesh(t).dir, "anchors"))
	if err != nil {
		t.Fatal(err)
	}
	m.write("anchors", string(raw))
	if believed() {
		t.Error("a replica is believed by anchors of before")
	}
	if err := mb.askTrust(t.Context()); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("asked whom the file does not know: %v", err)
	}
}

func event(observer string, stream uint64, request bool) *api.TapMessage {
	e := &tapapi.Event{Observer: observer, Stream: stream}
	if e.Phase = (&tapapi.Event_End{End: &tapapi.End{}}); request {
		e.Phase = &tapapi.Event_Request{Request: &tapapi.Request{}}
	}
	return &api.TapMessage{Message: &api.TapMessage_Event{Event: e}}
}

// TestWatch: one stream of all replicas, whoever comes and goes.
func TestWatch(t *testing.T) {
	m := newMesh(t)
	a, b, c := m.replica(m.other), m.replica(m.other), m.replica(m.other)
	set := NewSet(m.certified(a), m.list, slog.New(slog.DiscardHandler))
	m.set(a.at, b.at)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	seen, lost := map[string]int{}, uint64(0)
	count := func(who string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[who]
	}
	ended := make(chan error, 1)
	go func() {
		ended <- set.Watch(ctx, &api.TapRequest{MaxRps: 3}, func(msg *api.TapMessage) error {
			mu.Lock()
			defer mu.Unlock()
			lost += msg.GetLost()
			if e := msg.GetEvent(); e != nil {
				seen[e.GetObserver()]++
			}
			return nil
		})
	}()
	a.events <- event("x/a", 1, true)
	b.events <- event("x/b", 1, true)
	eventually(t, "both seen", func() bool { return count("x/a") == 1 && count("x/b") == 1 })

	b.events <- event("x/b", 1, false) // the end of what was let through
	b.events <- event("x/b", 9, false) // of what was not
	close(b.events)                    // and it goes
	m.set(a.at, c.at)
	c.events <- event("x/c", 1, true)
	eventually(t, "the new one", func() bool { return count("x/c") == 1 })
	if n := count("x/b"); n != 2 {
		t.Errorf("%d events of the second, want 2", n)
	}
	// More than the watcher asked for, of both together.
	for i := range uint64(8) {
		a.events <- event("x/a", 10+i, true)
		c.events <- event("x/c", 10+i, true)
	}
	eventually(t, "told of what was lost", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return lost > 0 && int(lost)+seen["x/a"]+seen["x/c"] == 18
	})
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	eventually(t, "ended at the replicas", func() bool { return a.taps.Load()+c.taps.Load() == 0 })
}

// TestWatchRefused: what any replica knows to be wrong ends the tap; so does there
// being none.
func TestWatchRefused(t *testing.T) {
	m := newMesh(t)
	a := m.replica(m.other)
	set := NewSet(m.certified(a), m.list, slog.New(slog.DiscardHandler))
	send := func(*api.TapMessage) error { return nil }
	m.set(a.at)
	a.err = status.Error(codes.NotFound, "there is no pod x")
	if err := set.Watch(t.Context(), &api.TapRequest{}, send); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	m.set()
	if err := set.Watch(t.Context(), &api.TapRequest{}, send); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "there is none") {
		t.Error(err)
	}
	impostor := m.replica(m.view)
	m.set(impostor.at)
	if err := set.Watch(t.Context(), &api.TapRequest{}, send); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if impostor.taps.Load() != 0 {
		t.Error("a process with another identity was asked")
	}
	a.err = nil
	m.set(a.at)
	gone := errors.New("the watcher is gone")
	a.events <- event("x/a", 1, true)
	if err := set.Watch(t.Context(), &api.TapRequest{}, func(*api.TapMessage) error { return gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	m := newMesh(t)
	a, b := m.replica(m.other), m.replica(m.other)
	set := NewSet(m.certified(a), m.list, slog.New(slog.DiscardHandler))
	a.health.Version, b.err = "v7", status.Error(codes.Internal, "no")
	m.set(a.at, b.at, netip.MustParseAddrPort("127.0.0.1:1"))
	if list := set.Health(t.Context()); len(list) != 1 || list[0].GetVersion() != "v7" {
		t.Errorf("%v", list)
	}
}

// One replica's word is enough, and what no other would mend is said at once.
func TestPolicy(t *testing.T) {
	m := newMesh(t)
	a, b := m.replica(m.other), m.replica(m.other)
	set := NewSet(m.certified(a), m.list, slog.New(slog.DiscardHandler))
	ask := func() (*api.PolicyResponse, error) {
		return set.Policy(t.Context(), &api.PolicyRequest{Port: 80})
	}
	if _, err := ask(); status.Code(err) != codes.Unavailable {
		t.Errorf("no replica: %v", err)
	}
	a.err = status.Error(codes.Internal, "no")
	m.set(netip.MustParseAddrPort("127.0.0.1:1"), a.at, b.at)
	if resp, err := ask(); err != nil || resp.GetInbound().GetVersion() != 80 {
		t.Errorf("%v %v", resp, err)
	}
	b.asked.Store(0)
	a.err = status.Error(codes.NotFound, "there is no pod")
	if _, err := ask(); status.Code(err) != codes.NotFound || b.asked.Load() != 0 {
		t.Errorf("%v, %d others asked", err, b.asked.Load())
	}
}
