package replicas

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	randv2 "math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

const (
	callTimeout  = 10 * time.Second
	retryAfter   = time.Second
	maxRetry     = 30 * time.Second
	maxTokenSize = 16 << 10
)

// MemberConfig says who a Member is and where it gets its certificate; all is
// required.
type MemberConfig struct {
	// Address is where Certify is asked for: "name:port" of the replicas' Service.
	Address string
	// ID is the member's own identity, Control that of the replicas.
	ID, Control spiffe.ID
	// TokenFile has a token of the pod's ServiceAccount for the mesh's audience,
	// AnchorsFile the trust anchors to begin with, PEM. Both are read whenever they
	// are needed, as both change.
	TokenFile, AnchorsFile string
	Logger                 *slog.Logger
}

// Member is a process with an identity of the mesh.
type Member struct {
	cfg      MemberConfig
	cert     atomic.Pointer[certificate]
	told     atomic.Pointer[told]
	renewNow chan struct{} // of one slot
	again    time.Duration // between two questions for the trust anchors
}

// certificate is a member's, of one generation of the authority.
type certificate struct {
	tls.Certificate
	generation uint64
}

// NewMember returns one that has no certificate before Run.
func NewMember(cfg MemberConfig) *Member {
	return &Member{cfg: cfg, renewNow: make(chan struct{}, 1), again: askAgain}
}

// Run has a certificate issued and renewed until ctx ends, and follows the trust
// anchors.
func (m *Member) Run(ctx context.Context) error {
	var trust sync.WaitGroup
	trust.Go(func() { m.followTrust(ctx) })
	defer trust.Wait()
	for fails := 0; ; {
		wait, err := m.renew(ctx)
		if err != nil {
			wait = min(retryAfter<<min(fails, 5), maxRetry)
			fails++
			if ctx.Err() == nil {
				m.cfg.Logger.Warn("no certificate, trying again", "identity", m.cfg.ID.String(), "err", err, "in", wait)
			}
		} else {
			fails = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-m.renewNow:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// renew gets a certificate and says how long it is to be used.
func (m *Member) renew(ctx context.Context) (time.Duration, error) {
	token, err := os.ReadFile(m.cfg.TokenFile)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the token: %w", err)
	case len(token) > maxTokenSize:
		return 0, fmt.Errorf("read the token: %s has %d bytes, want at most %d", m.cfg.TokenFile, len(token), maxTokenSize)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, fmt.Errorf("make a key: %w", err)
	}
	uri, err := url.Parse(m.cfg.ID.String())
	if err != nil {
		return 0, fmt.Errorf("make a signing request: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return 0, fmt.Errorf("make a signing request: %w", err)
	}
	conn, err := m.connect()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := identityapi.NewIdentityClient(conn).Certify(ctx, &identityapi.CertifyRequest{Csr: csr, Token: strings.TrimSpace(string(token))})
	if err != nil {
		return 0, fmt.Errorf("have a key certified: %w", err)
	}
	if len(resp.GetChain()) == 0 {
		return 0, errors.New("have a key certified: the answer has no certificate")
	}
	leaf, err := x509.ParseCertificate(resp.GetChain()[0])
	if err != nil {
		return 0, fmt.Errorf("have a key certified: %w", err)
	}
	m.cert.Store(&certificate{tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key, Leaf: leaf}, resp.GetGeneration()})
	m.cfg.Logger.Info("certificate issued", "identity", m.cfg.ID.String(), "not_after", leaf.NotAfter)
	left := time.Until(leaf.NotAfter)
	return max(retryAfter, left*6/10+time.Duration(randv2.Int64N(int64(max(left/10, 1))))), nil
}

// Expires is when the certificate does; zero while there is none.
func (m *Member) Expires() time.Time {
	if c := m.cert.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Ready says why no replica can be asked; nil: they can.
func (m *Member) Ready() error {
	if end := m.Expires(); end.IsZero() {
		return errors.New("there is no certificate yet")
	} else if !time.Now().Before(end) {
		return fmt.Errorf("the certificate has expired on %s", end.UTC().Format(time.RFC3339))
	}
	return nil
}

// tls is a client's configuration: the server proves the replicas' identity by
// the anchors of the moment, and the member its own, where it has to.
func (m *Member) tls(own bool) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The name in the certificate is an identity, which VerifyConnection checks.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   m.verify,
	}
	if own {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := m.cert.Load(); c != nil {
				return &c.Certificate, nil
			}
			return nil, errors.New("there is no certificate yet")
		}
	}
	return cfg
}

func (m *Member) verify(s tls.ConnectionState) error {
	roots, _, err := m.roots()
	if err != nil {
		return err
	}
	chain := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		chain.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain}); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != m.cfg.Control.String() {
		return fmt.Errorf("the server is %v, want %s", leaf.URIs, m.cfg.Control)
	}
	return nil
}

// ID is the member's identity.
func (m *Member) ID() spiffe.ID { return m.cfg.ID }
