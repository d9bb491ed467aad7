package mtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// A Certificate is a chain, DER, leaf first, with the leaf's key.
type Certificate struct {
	Chain [][]byte
	Key   *ecdsa.PrivateKey
}

// NewKey makes a workload's key: ECDSA on P-256.
func NewKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a workload key: %w", err)
	}
	return k, nil
}

// SigningRequest is a PKCS #10 request, DER, that names id as its only URI SAN
// and nothing else.
func SigningRequest(key *ecdsa.PrivateKey, id spiffe.ID) ([]byte, error) {
	u, err := url.Parse(id.String())
	if err != nil || id.IsZero() {
		return nil, fmt.Errorf("certificate request for %q: not an identity", id)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{}, URIs: []*url.URL{u},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request for %s: %w", id, err)
	}
	return der, nil
}

// ParsePEM reads trust anchors, DER, out of PEM text.
func ParsePEM(text string) ([][]byte, error) {
	var all [][]byte
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("trust anchors: a PEM block %q, want CERTIFICATE", b.Type)
		}
		all = append(all, b.Bytes)
	}
	if len(all) == 0 {
		return nil, errors.New("trust anchors: no certificate in the PEM text")
	}
	return all, nil
}

func equalDER(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// CertificatePEM is the workload's certificate with what leads from it to an anchor,
// as every client that shakes hands sees it; nil before the first.
func (s *Store) CertificatePEM() []byte {
	n := s.current.Load()
	if n.cert == nil {
		return nil
	}
	return toPEM(n.cert.Certificate)
}

// AnchorsPEM are the trust anchors in force; nil where there are none yet.
func (s *Store) AnchorsPEM() []byte { return toPEM(s.current.Load().anchorsDER) }

func toPEM(ders [][]byte) (out []byte) {
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}
