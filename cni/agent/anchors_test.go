package agent

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
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
)

const controlID = "spiffe://cluster.local/ns/tunmesh/sa/mesh-control"

// root is a trust anchor with its key.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newRoot(t *testing.T, name string) root {
	t.Helper()
	return certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, root{})
}

// certificate makes one, signed by r, or by itself.
func certificate(t *testing.T, template *x509.Certificate, r root) (out root) {
	t.Helper()
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	var err error
	if out.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	parent, by := r.cert, r.key
	if parent == nil {
		parent, by = template, out.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &out.key.PublicKey, by)
	if err == nil {
		out.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// shows is the certificate of an identity.
func (r root) shows(t *testing.T, id string) *tls.Certificate {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certificate(t, &x509.Certificate{URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, r)
	return &tls.Certificate{Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key}
}

func text(roots ...root) (out string) {
	for _, r := range roots {
		out += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw}))
	}
	return out
}

// plane is a control plane that shows a certificate and tells anchors.
type plane struct {
	identityapi.UnimplementedIdentityServer
	cert  atomic.Pointer[tls.Certificate]
	tells atomic.Pointer[[][]byte] // nil: it has none yet
	asked atomic.Int64
}

func (p *plane) Trust(context.Context, *identityapi.TrustRequest) (*identityapi.TrustBundle, error) {
	p.asked.Add(1)
	if t := p.tells.Load(); t != nil {
		return &identityapi.TrustBundle{Anchors: *t, Generation: 7}, nil
	}
	return nil, status.Error(codes.Unavailable, "there are no trust anchors yet")
}

func (p *plane) tell(roots ...root) {
	ders := make([][]byte, 0, len(roots))
	for _, r := range roots {
		ders = append(ders, r.cert.Raw)
	}
	p.tells.Store(&ders)
}

func (p *plane) serve(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.cert.Load(), nil },
	})))
	identityapi.RegisterIdentityServer(s, p)
	go s.Serve(l) //nolint:errcheck // ends by Stop
	t.Cleanup(s.Stop)
	return netip.MustParseAddrPort(l.Addr().String())
}

// A rotation as an agent sees it whose file is always late: the anchors that it
// hands out verify what the control plane shows, at each step.
func TestAnchorsOfARotation(t *testing.T) {
	old, next, foreign := newRoot(t, "old"), newRoot(t, "next"), newRoot(t, "foreign")
	p := &plane{}
	at := p.serve(t)
	file := filepath.Join(t.TempDir(), "anchors.pem")
	a := newAnchors(file, controlID, func() ([]netip.AddrPort, error) {
		return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), at}, nil // nobody is at the first
	})
	for _, step := range []struct {
		what   string
		file   string // "" is as before
		by     root   // who signed what the control plane shows
		tells  []root
		want   string // handed out afterwards
		refuse string
	}{
		{"before", "# ours\n" + text(old), old, []root{old}, "# ours\n" + text(old), ""},
		{"both", "", old, []root{old, next}, text(old, next), ""},
		{"in another order", "", old, []root{next, old}, text(old, next), ""},
		{"the new one signs", "", next, []root{old, next}, text(old, next), ""},
		{"the old one is gone", "", next, []root{next}, text(next), ""},
		{"whom the old one signed is nobody", "", old, []root{old}, text(next), "verify the control plane"},
		{"the file is late", text(old, next), next, nil, text(old, next), "no trust anchors yet"},
		{"and the control plane is not", "", next, []root{next}, text(next), ""},
		{"the file is there", text(next), next, []root{next}, text(next), ""},
		{"a stranger", "", foreign, []root{foreign}, text(next), "verify the control plane"},
		{"none", "", next, []root{}, text(next), "there are none"},
		{"no CA", "", next, []root{certificate(t, &x509.Certificate{}, next)}, text(next), "is not a CA's certificate"},
		{"no certificate", "", next, []root{{cert: &x509.Certificate{Raw: []byte("x")}}}, text(next), "decode the answer"},
	} {
		if step.file != "" {
			if err := os.WriteFile(file, []byte(step.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p.cert.Store(step.by.shows(t, controlID))
		p.tells.Store(nil)
		if step.tells != nil {
			p.tell(step.tells...)
		}
		a.client.CloseIdleConnections() // so that the certificate is looked at
		if _, err := a.ask(t.Context()); (err == nil) != (step.refuse == "") || err != nil && !strings.Contains(err.Error(), step.refuse) {
			t.Errorf("%s: %v, want %q", step.what, err, step.refuse)
		}
		if got, err := a.pem(); err != nil || got != step.want {
			t.Errorf("%s: %v, %s\nwant %s", step.what, err, got, step.want)
		}
	}

	p.cert.Store(next.shows(t, "spiffe://cluster.local/ns/shop/sa/web"))
	a.client.CloseIdleConnections()
	if _, err := a.ask(t.Context()); err == nil || !strings.Contains(err.Error(), "want "+controlID) {
		t.Errorf("somebody else of the mesh: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := a.pem(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

// A connection is kept as long as the anchors are the same: what was verified by one
// that is gone counts no more.
func TestAnchorsOfAKeptConnection(t *testing.T) {
	old, next := newRoot(t, "old"), newRoot(t, "next")
	p := &plane{}
	p.cert.Store(old.shows(t, controlID))
	at := p.serve(t)
	file := filepath.Join(t.TempDir(), "anchors.pem")
	write := func(roots ...root) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text(roots...)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dials := 0
	a := newAnchors(file, controlID, func() ([]netip.AddrPort, error) { dials++; return []netip.AddrPort{at}, nil })
	defer a.client.CloseIdleConnections()
	write(old)
	p.tell(old)
	for range 3 {
		if changed, err := a.ask(t.Context()); err != nil || changed {
			t.Fatal(changed, err)
		}
	}
	if dials != 1 {
		t.Errorf("dialled %d times for three questions", dials)
	}
	write(next)
	if _, err := a.ask(t.Context()); err == nil || !strings.Contains(err.Error(), "verify the control plane") {
		t.Errorf("verified by an anchor that is gone: %v", err)
	}
}

// The agent asks by itself, over and over.
func TestAnchorsRun(t *testing.T) {
	old, next := newRoot(t, "old"), newRoot(t, "next")
	p := &plane{}
	p.cert.Store(old.shows(t, controlID))
	p.tell(old, next)
	at := p.serve(t)
	file := filepath.Join(t.TempDir(), "anchors.pem")
	if err := os.WriteFile(file, []byte(text(old)), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAnchors(file, controlID, func() ([]netip.AddrPort, error) { return []netip.AddrPort{at}, nil })
	var log strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { a.run(ctx, slog.New(slog.NewTextHandler(&log, nil))); close(ended) }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if got, err := a.pem(); err == nil && got == text(old, next) && p.asked.Load() > 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody asked")
		}
	}
	cancel()
	<-ended
	if said := log.String(); !strings.Contains(said, "other trust anchors than the file") {
		t.Errorf("said %s", said)
	}
}
