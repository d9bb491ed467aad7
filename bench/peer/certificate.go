package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/bench/pki"
	"github.com/tunmesh/tunmesh/control"
)

// certificate gets a certificate of a side from the control plane, as its
// sidecar does, for loads that are clients of the other side themselves.
func (m *mesh) certificate(side string) (cert, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	id, err := url.Parse(pki.Identity(side))
	if err != nil {
		return "", "", err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id}}, private)
	if err != nil {
		return "", "", fmt.Errorf("make a certificate request: %w", err)
	}
	token, err := os.ReadFile(m.path("token-" + side))
	if err != nil {
		return "", "", err
	}
	// The control plane is a child of this process in a namespace of its own:
	// nobody else can be at its address.
	conn, err := grpc.NewClient("passthrough:///"+netip.AddrPortFrom(m.addr, control.Port).String(),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})), //nolint:gosec // as said
		grpc.WithContextDialer(func(ctx context.Context, addr string) (c net.Conn, err error) {
			err = m.space.Do(func() (err error) {
				c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
				return err
			})
			return c, err
		}))
	if err != nil {
		return "", "", fmt.Errorf("get a certificate: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := identityapi.NewIdentityClient(conn).Certify(ctx, &identityapi.CertifyRequest{Csr: csr, Token: string(token)})
	if err != nil {
		return "", "", fmt.Errorf("get a certificate: %w", err)
	}
	var chain []byte
	for _, der := range answer.GetChain() {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	cert, key = m.path(side+".pem"), m.path(side+".key")
	return cert, key, errors.Join(os.WriteFile(cert, chain, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}
