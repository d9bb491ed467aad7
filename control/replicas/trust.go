package replicas

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	randv2 "math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
)

// askAgain is about how often the control plane is asked for the trust anchors. In a
// rotation it shows a certificate of the new anchor some time after it has first
// named that: two waits for all sidecars.
const askAgain = 3 * time.Second

// told are the trust anchors as the control plane named them.
type told struct {
	roots *x509.CertPool
	file  string // the file as it was then
}

// roots are the trust anchors to verify a replica with. The file is a mounted
// ConfigMap, as old as the kubelet's last look, which is a minute and more; so the
// control plane's word is in force until the file becomes another.
func (m *Member) roots() (roots *x509.CertPool, file string, err error) {
	raw, err := os.ReadFile(m.cfg.AnchorsFile)
	if err != nil {
		return nil, "", fmt.Errorf("read the trust anchors: %w", err)
	}
	if t := m.told.Load(); t != nil && t.file == string(raw) {
		return t.roots, t.file, nil
	}
	roots = x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, "", fmt.Errorf("read the trust anchors: %s has no certificate", m.cfg.AnchorsFile)
	}
	return roots, string(raw), nil
}

// followTrust asks for the trust anchors until ctx ends, and has the certificate
// renewed when it is of an authority that is no more.
func (m *Member) followTrust(ctx context.Context) {
	said := ""
	for {
		err := m.askTrust(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			m.cfg.Logger.Warn("the trust anchors are those of before", "identity", m.cfg.ID.String(), "err", err)
		}
		timer := time.NewTimer(m.again/2 + time.Duration(randv2.Int64N(int64(m.again))))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// askTrust asks once. It shows no certificate, so that it is answered also when
// the own one is believed by nobody any more.
func (m *Member) askTrust(ctx context.Context) error {
	_, file, err := m.roots()
	if err != nil {
		return err
	}
	conn, err := m.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	bundle, err := identityapi.NewIdentityClient(conn).Trust(ctx, &identityapi.TrustRequest{})
	if err != nil {
		return fmt.Errorf("ask for the trust anchors: %w", err)
	}
	roots := x509.NewCertPool()
	for _, der := range bundle.GetAnchors() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("ask for the trust anchors: %w", err)
		}
		roots.AddCert(c)
	}
	if len(bundle.GetAnchors()) == 0 {
		return errors.New("ask for the trust anchors: the answer has none")
	}
	m.told.Store(&told{roots: roots, file: file})
	if c := m.cert.Load(); c != nil && c.generation != bundle.GetGeneration() {
		select {
		case m.renewNow <- struct{}{}:
		default:
		}
	}
	return nil
}

// connect returns a connection to the replicas' Service, without a certificate.
func (m *Member) connect() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(m.cfg.Address, grpc.WithTransportCredentials(credentials.NewTLS(m.tls(false))))
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", m.cfg.Address, err)
	}
	return conn, nil
}
